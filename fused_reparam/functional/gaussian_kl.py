"""The divergence of a Gaussian, without a sample."""

from __future__ import annotations

from typing import Never

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.tracers import fx, special
from . import latent
from .arguments import clamped, one_scale
from .divergence import PriorArgument, divergence
from .min_std import raised
from .reduction import Dims

__all__ = ["gaussian_kl"]


@names_mistakes
def gaussian_kl(
    mu: Tensor | float,
    logvar: Tensor | float | None = None,
    *,
    log_std: Tensor | float | None = None,
    std: Tensor | float | None = None,
    var: Tensor | float | None = None,
    rho: Tensor | float | None = None,
    reduction: str = "batchmean",
    dims: Dims = None,
    min_std: float | None = None,
    clamp: tuple[float, float] | None = None,
    prior: PriorArgument = None,
    free_bits: float | Tensor | None = None,
    free_bits_per: str = "sample",
    beta: Tensor | float = 1,
    **mistaken: Never,
) -> Tensor:
    """KL divergence of N(mu, sigma^2) to N(0, 1) or another prior, in nats, without a sample.

    ``0.5 * (d^2 + r^2 - 1 - log r^2)`` per element, reduced, where ``d = (mu - prior mean) / prior
    std`` and ``r = sigma / prior std``.

    Args:
        mu, logvar, log_std, std, var, rho, reduction, dims, min_std, clamp, prior, free_bits,
            free_bits_per, beta: see :func:`gaussian_latent`.

    Returns:
        float32 tensor (float64 for float64 inputs), shaped as ``reduction`` says.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, appendix B.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_kl
        >>> gaussian_kl(torch.ones(2, 5), std=torch.ones(5), reduction="sample")
        tensor([2.5000, 2.5000])
        >>> gaussian_kl(torch.ones(2, 5), std=2.0, prior=(1.0, 2.0)).item()
        0.0
    """
    if not isinstance(mu, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(gaussian_kl, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    kind, scale = one_scale("mu", mu, logvar, log_std, std, var, rho)
    if min_std is not None:
        kind, scale = raised(kind, scale, min_std, mu)
    scale, bounds = clamped(scale, clamp, kind)
    like = mu if isinstance(mu, Tensor) else scale
    wanted = divergence(reduction, prior, free_bits, free_bits_per, beta, dims, like)
    return latent.kl(mu, scale, kind, bounds, wanted)
