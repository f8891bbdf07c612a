"""Draws of positive numbers, and others, whose tails are heavy."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.tracers import fx, special
from .elementwise import latent, rsample
from .reduction import Dims, summed

__all__ = [
    "generalized_pareto_rsample",
    "half_cauchy_latent",
    "half_cauchy_rsample",
    "pareto_latent",
    "pareto_rsample",
]


@names_mistakes
def pareto_rsample(
    scale: Tensor,
    alpha: Tensor | float,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample the Pareto distribution by reparameterization.

    .. math::
        z = \mathrm{scale} \cdot u^{-1 / \mathrm{alpha}}

    Args:
        scale: the least number, positive, any shape; float32, float64, float16 or bfloat16.
        alpha: the tail's exponent, positive, broadcast against scale.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard exponential.

    Returns:
        z, of the broadcast shape and the inputs' dtype. Its tail may exceed the dtype's
        range.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2.

    Example:
        >>> import torch
        >>> from fused_reparam import pareto_rsample
        >>> bool((pareto_rsample(torch.full((100,), 2.0), 3.0) >= 2.0).all())
        True
    """
    if not isinstance(scale, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(pareto_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return rsample(
        "pareto",
        (
            ("scale", scale),
            ("alpha", alpha),
        ),
        key,
        generator,
        noise,
    )


@names_mistakes
def pareto_latent(
    scale: Tensor,
    alpha: Tensor | float,
    *,
    prior_scale: float | Tensor,
    prior_alpha: float | Tensor,
    reduction: str = "batchmean",
    dims: Dims = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample the Pareto distribution and its KL divergence to another one.

    .. math::
        KL = \mathrm{prior\_alpha} \log \frac{\mathrm{scale}}{\mathrm{prior\_scale}}
        + r - 1 - \log r \text{ per element, reduced}, \qquad
        r = \mathrm{prior\_alpha} / \mathrm{alpha}

    and infinite where scale < prior_scale, for there the prior gives nothing between them. A
    float16 or bfloat16 scale is compared as it was rounded: 0.1 in float16 is less than a
    prior_scale of 0.1.

    Args:
        scale, alpha, key, generator, sample_shape, rng, eps: see :func:`pareto_rsample`.
        prior_scale, prior_alpha: those of the prior, positive numbers, or tensors as of
            :func:`exponential_latent`. There is no default: of a prior_scale above any scale the KL
            is infinite.
        reduction, dims: of the KL, see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)``: z as of :func:`pareto_rsample`, kl float32 (float64 for float64
        inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for a
            number of the prior that is not positive.

    Source: Gil, Alajaji and Linder, "Renyi divergence measures for commonly used univariate
    continuous distributions", 2013.

    Example:
        >>> import torch
        >>> from fused_reparam import pareto_latent
        >>> z, kl = pareto_latent(torch.ones(4, 2), 2.0, prior_scale=1.0, prior_alpha=2.0)
        >>> z.shape, bool(kl.abs() < 1e-5)
        (torch.Size([4, 2]), True)
    """
    if not isinstance(scale, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(pareto_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    prior = (
        prior_scale,
        prior_alpha,
    )
    return latent(
        "pareto",
        (
            ("scale", scale),
            ("alpha", alpha),
        ),
        prior,
        summed(reduction, dims),
        key,
        generator,
        noise,
    )


@names_mistakes
def generalized_pareto_rsample(
    loc: Tensor,
    scale: Tensor | float,
    concentration: Tensor | float,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample the generalized Pareto distribution by reparameterization.

    .. math::
        z = \mathrm{loc} + \mathrm{scale} \, \frac{u^{-c} - 1}{c}

    with c the concentration; :math:`\mathrm{loc} - \mathrm{scale} \log u`, smoothly, for c = 0. Its
    KL divergence to another one is not closed.

    Args:
        loc: the least number, any shape; float32, float64, float16 or bfloat16.
        scale: positive, broadcast against loc.
        concentration: of either sign; z is bounded where it is negative.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard exponential.

    Returns:
        z, of the broadcast shape and the inputs' dtype. Its tail may exceed the dtype's
        range.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Hosking and Wallis, "Parameter and quantile estimation for the generalized Pareto
    distribution", 1987, whose k is -c.

    Example:
        >>> import torch
        >>> from fused_reparam import generalized_pareto_rsample
        >>> loc, concentration = torch.zeros(3, 4), torch.tensor([-0.5, 0.0, 0.1, 0.5])
        >>> generalized_pareto_rsample(loc, 2.0, concentration).shape
        torch.Size([3, 4])
    """
    if not isinstance(loc, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(generalized_pareto_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return rsample(
        "generalized_pareto",
        (
            ("loc", loc),
            ("scale", scale),
            ("concentration", concentration),
        ),
        key,
        generator,
        noise,
    )


@names_mistakes
def half_cauchy_rsample(
    scale: Tensor,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample the half-Cauchy distribution by reparameterization.

    .. math::
        z = \mathrm{scale} \cdot |\tan(\pi (u - \tfrac12))|

    Args:
        scale: positive, any shape; float32, float64, float16 or bfloat16.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard Cauchy.

    Returns:
        z, of the parameter's shape and the inputs' dtype. Its tail may exceed the dtype's
        range.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Carvalho, Polson and Scott, "Handling sparsity via the horseshoe", 2009.

    Example:
        >>> import torch
        >>> from fused_reparam import half_cauchy_rsample
        >>> bool((half_cauchy_rsample(torch.ones(100)) >= 0).all())
        True
    """
    if not isinstance(scale, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(half_cauchy_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return rsample("half_cauchy", (("scale", scale),), key, generator, noise)


@names_mistakes
def half_cauchy_latent(
    scale: Tensor,
    *,
    prior_scale: float | Tensor = 1.0,
    reduction: str = "batchmean",
    dims: Dims = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample the half-Cauchy distribution and its KL divergence to another one.

    .. math::
        KL = \log \frac{(\mathrm{scale} + \mathrm{prior\_scale})^2}
        {4 \, \mathrm{scale} \, \mathrm{prior\_scale}} \text{ per element, reduced}

    Args:
        scale, key, generator, sample_shape, rng, eps: see :func:`half_cauchy_rsample`.
        prior_scale: that of the prior, a positive number, or a tensor as of
            :func:`exponential_latent`; by default the standard one's.
        reduction, dims: of the KL, see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)``: z as of :func:`half_cauchy_rsample`, kl float32 (float64 for float64
        inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for a
            number of the prior that is not positive.

    Source: Chyzak and Nielsen, "A closed-form formula for the Kullback-Leibler divergence between
    Cauchy distributions", 2019, which is that of their halves.

    Example:
        >>> import torch
        >>> from fused_reparam import half_cauchy_latent
        >>> z, kl = half_cauchy_latent(torch.full((4, 2), 3.0), prior_scale=3.0)
        >>> z.shape, bool(kl.abs() < 1e-5)
        (torch.Size([4, 2]), True)
    """
    if not isinstance(scale, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(half_cauchy_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    prior = (prior_scale,)
    over = summed(reduction, dims)
    return latent("half_cauchy", (("scale", scale),), prior, over, key, generator, noise)
