"""Log-likelihoods of counts, such as those of genes in cells."""

from __future__ import annotations

from typing import Never

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.tracers import fx, special
from . import elementwise
from .arguments import check_tensor
from .reduction import Dims, summed

__all__ = ["negative_binomial_log_prob", "zero_inflated_negative_binomial_log_prob"]


@names_mistakes
def negative_binomial_log_prob(
    x: Tensor,
    mu: Tensor | float,
    theta: Tensor | float,
    *,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-likelihood of counts under a negative binomial distribution.

    .. math::
        \log p(x) = \log \frac{\Gamma(x + \theta)}{\Gamma(\theta)\, \Gamma(x + 1)}
        + \theta \log \frac{\theta}{\theta + \mu} + x \log \frac{\mu}{\theta + \mu}
        \text{ per element, reduced}

    The mean is mu and the variance mu + mu^2 / theta, as scVI and DESeq2 write it. It is
    ``torch.distributions.NegativeBinomial(theta, logits=mu.log() - theta.log()).log_prob(x)``, in
    one pass each way that keeps nothing but the inputs. The large parts of the logarithms of the
    gamma function are taken away before they are rounded: the error is within a few of the last
    bits of the result, or of (x - mu) theta / (theta + mu) where that is larger, from a theta of
    1e-8 to one of 1e8, where the distribution is Poisson's.

    Args:
        x: the counts, not below 0, which is not checked; any shape; float32, float64, float16 or
            bfloat16. All three broadcast, and receive gradients where they ask for one.
        mu: the mean, not below 0; a tensor, or a number. Of a mean of 0 the likelihood of 0 is 1,
            and that of another count 0: where a softmax may underflow, give ``mu + 1e-8``.
        theta: the inverse dispersion, above 0; a tensor, or a number. One of each gene has the
            shape (G,), beside counts (B, G).
        reduction: "none": element-wise, which is the default here; or any other of
            :func:`gaussian_latent`, of the broadcast shape.
        dims: in place of a reduction, the dims to sum over, as in :func:`gaussian_latent`: of the
            genes of a cell -1.

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape, or what the reduction
        leaves of it.

    Raises:
        TypeError: an input that is no floating tensor; ``x.float()`` of integers is one.
        ValueError: shapes that don't broadcast, devices that differ, an unknown reduction.

    Source: Lopez, Regier, Cole, Jordan and Yosef, "Deep generative modeling for single-cell
    transcriptomics", 2018; the way to the logarithms of the gamma function follows Loader, "Fast
    and accurate computation of binomial probabilities", 2000.

    Example:
        >>> import torch
        >>> from fused_reparam import negative_binomial_log_prob
        >>> counts, mean, theta = torch.tensor([[0.0, 3.0], [1.0, 4.0]]), torch.ones(2, 2), 2.0
        >>> negative_binomial_log_prob(counts, mean, theta)
        tensor([[-0.8109, -2.7205],
                [-1.2164, -3.5959]])
        >>> negative_binomial_log_prob(counts, mean, torch.ones(2), dims=-1).shape
        torch.Size([2])
    """
    if not isinstance(x, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(negative_binomial_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("x", x)
    over = summed(reduction, dims, "none")
    named = ("x", x), ("mu", mu), ("theta", theta)
    return elementwise.terms_alone("negative_binomial_density", named, 0, 0, (), over)[1][0]


@names_mistakes
def zero_inflated_negative_binomial_log_prob(
    x: Tensor,
    mu: Tensor | float,
    theta: Tensor | float,
    logits: Tensor | float,
    *,
    reduction: str = "none",
    dims: Dims = None,
    **mistaken: Never,
) -> Tensor:
    r"""Log-likelihood of counts of which a share is 0 whatever their mean.

    .. math::
        p(x) = \pi [x = 0] + (1 - \pi)\, p_{NB}(x), \quad \pi = \frac{1}{1 + e^{-\ell}}

    with the negative binomial of :func:`negative_binomial_log_prob`, in the same one pass each way
    and with its precision. The logits are what scVI calls ``zi_logits``, and other libraries
    ``pi``.

    Args:
        x: the counts, not below 0, as there.
        mu: the mean of those that are not 0 for another reason, not below 0.
        theta: the inverse dispersion, above 0.
        logits: log-odds of such a 0; a tensor, or a number. Infinite ones are certain.
        reduction: "none": element-wise, which is the default here; or any other of
            :func:`gaussian_latent`, of the broadcast shape.
        dims: in place of a reduction, the dims to sum over.

    Returns:
        float32 tensor (float64 for float64 inputs) of the broadcast shape, or what the reduction
        leaves of it.

    Raises:
        TypeError: an input that is no floating tensor; ``x.float()`` of integers is one.
        ValueError: shapes that don't broadcast, devices that differ, an unknown reduction.

    Source: Lopez, Regier, Cole, Jordan and Yosef, "Deep generative modeling for single-cell
    transcriptomics", 2018.

    Example:
        >>> import torch
        >>> from fused_reparam import zero_inflated_negative_binomial_log_prob
        >>> counts, mean, logits = torch.tensor([[0.0, 3.0]]), torch.ones(1, 2), torch.zeros(1, 2)
        >>> zero_inflated_negative_binomial_log_prob(counts, mean, 2.0, logits)
        tensor([[-0.3254, -3.4136]])
    """
    if not isinstance(x, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(zero_inflated_negative_binomial_log_prob, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_tensor("x", x)
    over = summed(reduction, dims, "none")
    named = ("x", x), ("mu", mu), ("theta", theta), ("logits", logits)
    family = "zero_inflated_negative_binomial_density"
    return elementwise.terms_alone(family, named, 0, 0, (), over)[1][0]
