"""Log-likelihoods of given values, the other half of an ELBO."""

from __future__ import annotations

from typing import Never

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.scalars import flag
from ..core.tracers import fx, special
from . import elementwise
from .arguments import check_tensor
from .reduction import Dims, summed

__all__ = ["bernoulli_log_prob"]


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
