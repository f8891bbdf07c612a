"""Log-likelihoods of given values, the other half of an ELBO."""

from __future__ import annotations

from typing import Never

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.scalars import flag, integer
from ..core.tracers import fx, special
from . import elementwise
from .arguments import check_tensor, number
from .reduction import Dims, summed

__all__ = [
    "bernoulli_log_prob", "discretized_logistic_log_prob", "laplace_log_prob", "student_t_log_prob",
]  # fmt: skip


@names_mistakes
def bernoulli_log_prob(
    x: Tensor,
    logits: Tensor | float,
    *,
    continuous: bool = False,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-likelihood of bits, or of values in [0, 1], under a Bernoulli distribution.

    .. math::
        \log p(x) = x \ell - \log(1 + e^\ell) \text{ per element, reduced}

    That of ``torch.distributions.Bernoulli(logits=logits).log_prob(x)``, and the negative of
    ``binary_cross_entropy_with_logits(logits, x, reduction="none")``, in one pass each way that
    keeps nothing but the inputs. With ``continuous`` it is the density of the continuous Bernoulli
    distribution, whose integral over [0, 1] is 1:

    .. math::
        \log p(x) = x \ell - \log \frac{e^\ell - 1}{\ell}

    Both are formed of what the logits miss, 1 - x where they are positive and else x, so that a
    value which is almost certain keeps its digits.

    Args:
        x: the values, in [0, 1], which is not checked; any shape; float32, float64, float16 or
            bfloat16. It broadcasts against the logits: images x (B, D) against samples of logits
            (S, B, D). Both receive gradients where they ask for one.
        logits: log-odds of 1; a tensor, or a number. Infinite ones are certain: where x is what
            they say the likelihood is 1, else 0.
        continuous: whether values between 0 and 1 have the continuous Bernoulli's density. Without
            it the sum over 0 and 1 is normalized, and not the integral.
        reduction: "none": element-wise, which is the default here; or any other of
            :func:`gaussian_latent`, of the broadcast shape.
        dims: in place of a reduction, the dims to sum over, as in :func:`gaussian_latent`: of
            images (-3, -2, -1).

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape, or what the reduction
        leaves of it.

    Raises:
        TypeError: an input that is no floating tensor (``x.float()`` of bits or bytes is one), or a
            ``continuous`` that is neither True nor False.
        ValueError: shapes that don't broadcast, devices that differ, an unknown reduction.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", 2014, appendix C.1; Loaiza-Ganem
    and Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders", 2019.

    Example:
        >>> import torch
        >>> from fused_reparam import bernoulli_log_prob
        >>> images, logits = torch.full((4, 784), 0.25), torch.zeros(4, 784)
        >>> log_likelihood = bernoulli_log_prob(images, logits, dims=-1)
        >>> log_likelihood.shape, round(log_likelihood[0].item(), 2)
        (torch.Size([4]), -543.43)
        >>> bernoulli_log_prob(images, logits, continuous=True, dims=-1)
        tensor([0., 0., 0., 0.])
    """
    if not isinstance(x, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(bernoulli_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("x", x)
    family = "bernoulli_density"
    if continuous is not False and flag("continuous", continuous):
        family = "continuous_bernoulli_density"
    over = summed(reduction, dims, "none")
    named = ("x", x), ("logits", logits)
    return elementwise.terms_alone(family, named, 0, 0, (), over)[1][0]


@names_mistakes
def laplace_log_prob(
    x: Tensor,
    loc: Tensor | float,
    scale: Tensor | float,
    *,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-likelihood of values under a Laplace distribution: an absolute error with its scale.

    .. math::
        \log p(x) = -\frac{|x - \mathrm{loc}|}{\mathrm{scale}} - \log(2\,\mathrm{scale})
            \text{ per element, reduced}

    That of ``torch.distributions.Laplace(loc, scale).log_prob(x)``, in one pass each way that keeps
    nothing but the inputs. Where x is loc, both have a gradient of 0.

    Args:
        x: the values, any shape; float32, float64, float16 or bfloat16. All tensors broadcast
            against each other, and receive gradients where they ask for one.
        loc: the median, a tensor or a number.
        scale: the mean distance from it, in x's units, positive, which is not checked; a tensor, as
            of each pixel or a learned one of shape (), or a number.
        reduction: "none": element-wise, which is the default here; or any other of
            :func:`gaussian_latent`, of the broadcast shape.
        dims: in place of a reduction, the dims to sum over, as in :func:`gaussian_latent`: of
            images (-3, -2, -1).

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape, or what the reduction
        leaves of it.

    Raises:
        TypeError: an input that is no floating tensor.
        ValueError: shapes that don't broadcast, devices that differ, an unknown reduction.

    Source: Johnson, Kotz and Balakrishnan, "Continuous univariate distributions", volume 2, 1995,
    chapter 24.

    Example:
        >>> import torch
        >>> from fused_reparam import laplace_log_prob
        >>> images, loc = torch.full((4, 784), 0.25), torch.zeros(4, 784, requires_grad=True)
        >>> log_likelihood = laplace_log_prob(images, loc, 0.5, dims=-1)
        >>> log_likelihood.detach()
        tensor([-392., -392., -392., -392.])
        >>> log_likelihood.sum().backward()
        >>> loc.grad.unique()
        tensor([2.])
    """
    if not isinstance(x, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(laplace_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("x", x)
    named = ("x", x), ("loc", loc), ("scale", scale)
    over = summed(reduction, dims, "none")
    return elementwise.terms_alone("laplace_density", named, 0, 0, (), over)[1][0]


@names_mistakes
def student_t_log_prob(
    x: Tensor,
    df: Tensor | float,
    loc: Tensor | float = 0.0,
    scale: Tensor | float = 1.0,
    *,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-likelihood of values under Student's t distribution: errors with outliers among them.

    .. math::
        \log p(x) = \log \frac{\Gamma(\frac{\nu + 1}{2})}{\Gamma(\frac{\nu}{2}) \sqrt{\pi \nu}}
            - \log \mathrm{scale} - \frac{\nu + 1}{2} \log\Big(1 + \frac{1}{\nu} \Big(\frac{x -
            \mathrm{loc}}{\mathrm{scale}}\Big)^2\Big) \text{ per element, reduced}

    with :math:`\nu` = df. That of ``torch.distributions.StudentT(df, loc, scale).log_prob(x)``, in
    one pass each way that keeps nothing but the inputs; a value far out overflows only where its
    log-likelihood does, and a large df keeps the digits that differences of ``lgamma`` lose.

    Args:
        x: the values, any shape; float32, float64, float16 or bfloat16. All tensors broadcast
            against each other, and receive gradients where they ask for one.
        df: degrees of freedom, positive, which is not checked; a tensor, as a learned one of shape
            (), or a number. From 2^-118 to 2^100 (float64: 2^-1000 to 2^900); others count as
            these.
        loc: the median, a tensor or a number.
        scale: in x's units, positive, which is not checked; a tensor or a number. It is not the
            standard deviation, which is larger by sqrt(df / (df - 2)).
        reduction: "none": element-wise, which is the default here; or any other of
            :func:`gaussian_latent`, of the broadcast shape.
        dims: in place of a reduction, the dims to sum over, as in :func:`gaussian_latent`: of
            images (-3, -2, -1).

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape, or what the reduction
        leaves of it.

    Raises:
        TypeError: an input that is no floating tensor.
        ValueError: shapes that don't broadcast, devices that differ, an unknown reduction.

    Source: Johnson, Kotz and Balakrishnan, "Continuous univariate distributions", volume 2, 1995,
    chapter 28; Takahashi et al., "Student-t variational autoencoder for robust density estimation",
    2018.

    Example:
        >>> import torch
        >>> from fused_reparam import student_t_log_prob
        >>> x, loc = torch.tensor([[0.0, 1.0, 100.0]]), torch.zeros(1, 3, requires_grad=True)
        >>> log_likelihood = student_t_log_prob(x, 3.0, loc)
        >>> log_likelihood.detach()
        tensor([[ -1.0009,  -1.5763, -17.2249]])
        >>> log_likelihood.sum().backward()
        >>> loc.grad  # an outlier draws less than what is near
        tensor([[0.0000, 1.0000, 0.0400]])
    """
    if not isinstance(x, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(student_t_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("x", x)
    named = ("x", x), ("df", df), ("loc", loc), ("scale", scale)
    over = summed(reduction, dims, "none")
    return elementwise.terms_alone("student_t_density", named, 0, 0, (), over)[1][0]


@names_mistakes
def discretized_logistic_log_prob(
    x: Tensor,
    loc: Tensor | float,
    scale: Tensor | float,
    *,
    bins: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-likelihood of values on a grid, such as 8-bit images, under a logistic distribution.

    .. math::
        \log p(x) = \log\Big(\sigma\Big(\frac{x + h - \mathrm{loc}}{\mathrm{scale}}\Big)
            - \sigma\Big(\frac{x - h - \mathrm{loc}}{\mathrm{scale}}\Big)\Big) \text{ per element,
            reduced,} \qquad h = \frac{\mathrm{high} - \mathrm{low}}{2 (\mathrm{bins} - 1)}

    the probability of the bin around x. The first bin has all that lies below it, too, and the last
    one all above it, so that the bins' probabilities sum to 1. No difference of nearly equal
    numbers is taken: a value far from loc, and a wide scale, keep their digits, and nothing has to
    be held above 0.

    Args:
        x: the values, ``low + k (high - low) / (bins - 1)`` for k = 0, 1, ..., bins - 1, which is
            not checked: of bytes ``images / 127.5 - 1``; any shape; float32, float64, float16 or
            bfloat16. All tensors broadcast against each other, and receive gradients where they ask
            for one.
        loc: the median, a tensor or a number, in x's units.
        scale: in x's units, positive, which is not checked; a tensor, as of each pixel or a learned
            one of shape (), or a number. The standard deviation is pi / sqrt(3) of it.
        bins: how many values there are, at least 2.
        low, high: the first and the last value, numbers.
        reduction: "none": element-wise, which is the default here; or any other of
            :func:`gaussian_latent`, of the broadcast shape.
        dims: in place of a reduction, the dims to sum over, as in :func:`gaussian_latent`: of
            images (-3, -2, -1).

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape, or what the reduction
        leaves of it.

    Raises:
        TypeError: an input that is no floating tensor.
        ValueError: fewer than 2 bins, low that is not below high, shapes that don't broadcast,
            devices that differ, an unknown reduction.

    Source: Kingma et al., "Improving variational inference with inverse autoregressive flow", 2016,
    section 5.2; Salimans et al., "PixelCNN++", 2017, section 2.1.

    Example:
        >>> import torch
        >>> from fused_reparam import discretized_logistic_log_prob
        >>> images = torch.tensor([[0.0, 128.0, 255.0]]) / 127.5 - 1
        >>> loc = torch.zeros(1, 3, requires_grad=True)
        >>> discretized_logistic_log_prob(images, loc, 0.25).detach()
        tensor([[-4.0027, -4.8482, -4.0027]])
        >>> every = torch.arange(256) / 127.5 - 1
        >>> round(discretized_logistic_log_prob(every, 0.3, 0.1).exp().sum().item(), 5)
        1.0
    """
    if not isinstance(x, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(discretized_logistic_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("x", x)
    constants = _grid(integer("bins", bins), number("low", low), number("high", high))
    named = ("x", x), ("loc", loc), ("scale", scale)
    over = summed(reduction, dims, "none")
    family = "discretized_logistic_density"
    return elementwise.terms_alone(family, named, 0, 0, constants, over)[1][0]


def _grid(bins: int, low: float, high: float) -> tuple[float, float, float]:
    """Half a bin's width, the first bin's upper and the last bin's lower end."""
    if bins < 2 or not low < high:
        raise ValueError(
            f"a grid has at least 2 bins and low < high; got bins={bins}, low={low}, high={high}"
        )
    half = 0.5 * (high - low) / (bins - 1)
    return half, low + half, high - half
