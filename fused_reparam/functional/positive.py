"""Draws of positive numbers whose tails are light."""

from __future__ import annotations

from typing import Never

import torch
from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.tracers import fx, special
from .elementwise import latent, rsample

__all__ = [
    "exponential_latent",
    "exponential_rsample",
]


@names_mistakes
def exponential_rsample(
    rate: Tensor,
    *,
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    **mistaken: Never,
) -> Tensor:
    r"""Sample the exponential distribution by reparameterization.

    .. math::
        z = \epsilon / \mathrm{rate}, \qquad \epsilon = -\log u

    Args:
        rate: the inverse of the mean, positive, any shape; float32, float64, float16 or bfloat16.
        key, generator: the source of the noise, see :func:`gaussian_latent`.

    Returns:
        z, of the parameter's shape and the inputs' dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2.

    Example:
        >>> import torch
        >>> from fused_reparam import exponential_rsample, noise
        >>> rate = torch.full((1000,), 4.0, requires_grad=True)
        >>> z = exponential_rsample(rate, key=noise.key(0))
        >>> bool((z > 0).all()), bool(z.mean().sub(0.25).abs() < 0.02)
        (True, True)
    """
    if not isinstance(rate, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(exponential_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return rsample("exponential", (("rate", rate),), key, generator)


@names_mistakes
def exponential_latent(
    rate: Tensor,
    *,
    prior_rate: float = 1.0,
    reduction: str = "batchmean",
    key: Tensor | None = None,
    generator: torch.Generator | None = None,
    **mistaken: Never,
) -> tuple[Tensor, Tensor]:
    r"""Sample the exponential distribution and its KL divergence to another one.

    .. math::
        KL = r - 1 - \log r \text{ per element, reduced}, \qquad
        r = \mathrm{prior\_rate} / \mathrm{rate}

    Args:
        rate, key, generator: see :func:`exponential_rsample`.
        prior_rate: that of the prior, a positive number; by default the standard one's.
        reduction: of the KL, see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)``: z as of :func:`exponential_rsample`, kl float32 (float64 for float64
        inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for a
            number of the prior that is not positive.

    Source: Gil, Alajaji and Linder, "Renyi divergence measures for commonly used univariate
    continuous distributions", 2013.

    Example:
        >>> import torch
        >>> from fused_reparam import exponential_latent
        >>> z, kl = exponential_latent(torch.full((4, 2), 0.5), prior_rate=0.5)
        >>> z.shape, kl.item()
        (torch.Size([4, 2]), 0.0)
    """
    if not isinstance(rate, Tensor) or fx._is_fx_tracing_flag or mistaken:
        node = special(exponential_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    prior = (prior_rate,)
    return latent("exponential", (("rate", rate),), prior, reduction, key, generator)
