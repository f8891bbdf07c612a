"""Weights of a Bayesian network: sampled, with the KL to their prior."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from ..core.mistakes import described, names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.scales import RHO, SCALE_KINDS
from ..core.tracers import fx, special
from . import elementwise
from .arguments import check_reduction, deviation, number
from .divergence import divergence
from .latent import latent
from .sources import sources_of

__all__ = ["sample_weight"]


@names_mistakes
def sample_weight(
    mu: Tensor,
    rho: Tensor | float,
    prior_mean: float = 0.0,
    prior_std: float = 1.0,
    reduction: str = "sum",
    *,
    mixture: tuple[float, float, float] | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample the weights of a Bayesian network and their divergence to the prior.

    .. math::
        w = \mu + \sigma \epsilon, \quad \sigma = \log(1 + e^\rho) \qquad
        KL = \tfrac12 \Big( \big(\tfrac{\mu - m}{s}\big)^2 + \big(\tfrac{\sigma}{s}\big)^2
            - 1 - \log \tfrac{\sigma^2}{s^2} \Big)

    With ``mixture=(share, std1, std2)`` the prior is ``share N(m, std1^2) + (1 - share) N(m,
    std2^2)``, whose KL has no closed form: instead comes its estimate ``log q(w) - log p(w)`` at
    the weights that were drawn, in the same pass.

    Args:
        mu: means, any shape; float32, float64, float16 or bfloat16.
        rho: the scale before softplus. Any number will do: sigma and its logarithm stay exact
            where softplus rounds to 0 or to rho.
        prior_mean: m.
        prior_std: s, of the Gaussian prior.
        reduction: of the KL: "sum", "none", "sample", "mean" or "batchmean", see
            :func:`gaussian_latent`.
        mixture: share of the first Gaussian, between 0 and 1, and the two standard deviations.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard normal.

    Returns:
        ``(w, kl)``: weights of the broadcast shape in the inputs' dtype, and the KL in float32
        (float64 for float64 inputs). To a mixture each sample has its own estimate, behind the dims
        of ``sample_shape``.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for a
            prior std that is not positive, a share outside (0, 1), or both priors.

    Source: Blundell et al., "Weight uncertainty in neural networks", 2015.

    Example:
        >>> import torch
        >>> from fused_reparam import sample_weight
        >>> mu, rho = torch.zeros(10, 20), torch.full((10, 20), -3.0)
        >>> w, kl = sample_weight(mu, rho, prior_std=0.1)
        >>> w.shape, round(kl.item(), 1)
        (torch.Size([10, 20]), 68.0)
        >>> w, kl = sample_weight(mu, rho, mixture=(0.5, 1.0, 0.0025))
        >>> kl.shape
        torch.Size([])
    """
    if not isinstance(mu, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(sample_weight, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    check_reduction(reduction)
    sources = sources_of(key, generator, noise)
    mean, std = number("prior_mean", prior_mean), deviation("prior_std", prior_std)
    if mixture is None:
        prior = None if (mean, std) == (0.0, 1.0) else (mean, std)
        wanted = divergence(reduction, prior, None, "sample", 1)
        return latent(mu, rho, RHO, elementwise.UNBOUNDED, wanted, sources, False)  # type: ignore[return-value]
    constants = (*elementwise.UNBOUNDED, mean, *mixture_constants(mixture, std))
    w, (kl,), _ = elementwise.sample(
        "mixture",
        (("mu", mu), (SCALE_KINDS[RHO], rho)),
        sources=sources,
        kind=RHO,
        constants=constants,
        reduction=reduction,
    )
    return w, kl


def mixture_constants(
    mixture: tuple[float, float, float], prior_std: float
) -> tuple[float, float, float]:
    """A mixture's share and standard deviations, checked; with one, prior_std stays at 1."""
    if prior_std != 1.0:
        raise ValueError(
            f"give prior_std or mixture, got prior_std={prior_std} and {described(mixture)}"
        )
    if not isinstance(mixture, (tuple, list)) or len(mixture) != 3:
        raise ValueError(
            f"mixture must be three numbers (share, std1, std2), got {described(mixture)}"
        )
    share = number("mixture share", mixture[0])
    if not 0.0 < share < 1.0:
        raise ValueError(f"mixture share must lie between 0 and 1, got {share}")
    std1, std2 = (deviation("mixture std", std) for std in mixture[1:])
    return share, std1, std2
