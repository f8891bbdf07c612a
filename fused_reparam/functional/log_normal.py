"""The log-normal distribution: the exponential of a Gaussian."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.scales import SCALE_KINDS
from ..core.tracers import fx, special
from . import elementwise
from .arguments import clamped, one_scale
from .min_std import raised
from .reduction import Dims, Reduction, summed
from .sources import Sources, sources_of

__all__ = ["log_normal_latent", "log_normal_rsample"]


@names_mistakes
def log_normal_rsample(
    loc: Tensor | float,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    logvar: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    """Sample ``z = exp(loc + sigma * eps)``, eps standard normal, without the KL.

    Args:
        loc, log_std, std, logvar, var, rho, min_std, clamp, key, generator, sample_shape, rng, eps:
            see :func:`log_normal_latent`.

    Returns:
        z, of the broadcast shape, behind ``sample_shape``, and the inputs' dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`log_normal_latent` does.

    Source: the reparameterization is the Gaussian's, pushed through exp (Kingma and Welling, 2014,
    section 2.4).

    Example:
        >>> import torch
        >>> from fused_reparam import log_normal_rsample
        >>> bool((log_normal_rsample(torch.zeros(100), std=1.0) > 0).all())
        True
    """
    if not isinstance(loc, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(log_normal_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    scales = (logvar, log_std, std, var, rho)
    return _log_normal(loc, scales, min_std, clamp, None, sources_of(key, generator, noise))[0]


@names_mistakes
def log_normal_latent(
    loc: Tensor | float,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    logvar: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    reduction: str = "batchmean",
    dims: Dims = None,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample a log-normal and its KL divergence to the standard one (loc 0, sigma 1).

    .. math::
        z = e^{\mu + \sigma \epsilon} \qquad
        KL = \tfrac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2) \text{ per element, reduced}

    Args:
        loc: mean of log z, any shape; float32, float64, float16 or bfloat16.
        log_std, std, logvar, var, rho: the scale of log z. Exactly one must be given.
        reduction, dims, min_std, clamp, key, generator, sample_shape, rng, eps: see
            :func:`gaussian_latent`.

    Returns:
        ``(z, kl)``: z of the broadcast shape in the inputs' dtype, kl float32 (float64 for float64
        inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: a KL divergence does not change under a common invertible map: it is the Gaussian's.

    Example:
        >>> import torch
        >>> from fused_reparam import log_normal_latent
        >>> z, kl = log_normal_latent(torch.ones(4, 2), std=1.0)
        >>> z.shape, kl.item()
        (torch.Size([4, 2]), 1.0)
    """
    if not isinstance(loc, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(log_normal_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    over = summed(reduction, dims)
    scales = (logvar, log_std, std, var, rho)
    sources = sources_of(key, generator, noise)
    z, kl = _log_normal(loc, scales, min_std, clamp, over, sources)
    return z, kl[0]


def _log_normal(
    loc: Tensor | float,
    scales: tuple[Tensor | float | None, ...],
    min_std: float | None,
    clamp: tuple[float, float] | None,
    reduction: Reduction | None,
    sources: Sources,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    kind, scale = one_scale("loc", loc, *scales)
    if min_std is not None:
        kind, scale = raised(kind, scale, min_std, loc)
    scale, constants = clamped(scale, clamp, kind)
    return elementwise.sample(
        "log_normal",
        (("loc", loc), (SCALE_KINDS[kind], scale)),
        sources=sources,
        kind=kind,
        constants=constants,
        reduction=reduction,
    )[:2]
