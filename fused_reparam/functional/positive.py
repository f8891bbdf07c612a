"""Draws of positive numbers whose tails are light."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from ..core.mistakes import names_mistakes
from ..core.noise_options import Generators, NoiseOptions, misnamed
from ..core.tracers import fx, special
from .elementwise import latent, rsample
from .reduction import Dims, summed

__all__ = [
    "exponential_latent",
    "exponential_rsample",
    "half_normal_latent",
    "half_normal_rsample",
    "weibull_latent",
    "weibull_rsample",
]


@names_mistakes
def exponential_rsample(
    rate: Tensor,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample the exponential distribution by reparameterization.

    .. math::
        z = \epsilon / \mathrm{rate}, \qquad \epsilon = -\log u

    Args:
        rate: the inverse of the mean, positive, any shape; float32, float64, float16 or bfloat16.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard exponential.

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
    if not isinstance(rate, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(exponential_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return rsample("exponential", (("rate", rate),), key, generator, noise)


@names_mistakes
def exponential_latent(
    rate: Tensor,
    *,
    prior_rate: float | Tensor = 1.0,
    reduction: str = "batchmean",
    dims: Dims = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample the exponential distribution and its KL divergence to another one.

    .. math::
        KL = r - 1 - \log r \text{ per element, reduced}, \qquad
        r = \mathrm{prior\_rate} / \mathrm{rate}

    Args:
        rate, key, generator, sample_shape, rng, eps: see :func:`exponential_rsample`.
        prior_rate: that of the prior, a positive number; by default the standard one's. Or a
            tensor, which broadcasts to the parameters, may require grad and is read on its device:
            nobody checks that it is positive.
        reduction, dims: of the KL, see :func:`gaussian_latent`.

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
    if not isinstance(rate, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(exponential_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    prior = (prior_rate,)
    over = summed(reduction, dims)
    return latent("exponential", (("rate", rate),), prior, over, key, generator, noise)


@names_mistakes
def weibull_rsample(
    scale: Tensor,
    concentration: Tensor | float,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample the Weibull distribution by reparameterization.

    .. math::
        z = \mathrm{scale} \cdot (-\log u)^{1 / \mathrm{concentration}}

    Args:
        scale: positive, any shape; float32, float64, float16 or bfloat16.
        concentration: the shape parameter, positive, broadcast against scale.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard exponential.

    Returns:
        z, of the broadcast shape and the inputs' dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: Zhang, Chen, Guo and Zhou, "WHAI: Weibull hybrid autoencoding inference for deep topic
    modeling", 2018.

    Example:
        >>> import torch
        >>> from fused_reparam import weibull_rsample
        >>> weibull_rsample(torch.ones(3, 4), torch.full((4,), 2.0)).shape
        torch.Size([3, 4])
    """
    if not isinstance(scale, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(weibull_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return rsample(
        "weibull",
        (
            ("scale", scale),
            ("concentration", concentration),
        ),
        key,
        generator,
        noise,
    )


@names_mistakes
def weibull_latent(
    scale: Tensor,
    concentration: Tensor | float,
    *,
    prior_scale: float | Tensor = 1.0,
    prior_concentration: float | Tensor = 1.0,
    reduction: str = "batchmean",
    dims: Dims = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample the Weibull distribution and its KL divergence to another one.

    .. math::
        KL = e^{k s} \Gamma(1 + r) - 1 - k s - \log r + \gamma (r - 1) \text{ per element, reduced}

    with k the prior's concentration, r = k / concentration, s = log(scale / prior_scale) and
    :math:`\gamma` Euler's constant.

    Args:
        scale, concentration, key, generator, sample_shape, rng, eps: see :func:`weibull_rsample`.
        prior_scale, prior_concentration: those of the prior, positive numbers, or tensors as of
            :func:`exponential_latent`; by default it is the standard exponential.
        reduction, dims: of the KL, see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)``: z as of :func:`weibull_rsample`, kl float32 (float64 for float64
        inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for a
            number of the prior that is not positive.

    Source: Bauckhage, "Computing the Kullback-Leibler divergence between two Weibull
    distributions", 2013.

    Example:
        >>> import torch
        >>> from fused_reparam import weibull_latent
        >>> z, kl = weibull_latent(torch.ones(4, 2), 1.0)
        >>> z.shape, bool(kl.abs() < 1e-5)
        (torch.Size([4, 2]), True)
    """
    if not isinstance(scale, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(weibull_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    prior = (
        prior_scale,
        prior_concentration,
    )
    return latent(
        "weibull",
        (
            ("scale", scale),
            ("concentration", concentration),
        ),
        prior,
        summed(reduction, dims),
        key,
        generator,
        noise,
    )


@names_mistakes
def half_normal_rsample(
    scale: Tensor,
    *,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> Tensor:
    r"""Sample the half-normal distribution by reparameterization.

    .. math::
        z = \mathrm{scale} \cdot |\epsilon|, \qquad \epsilon \text{ standard normal}

    Args:
        scale: positive, any shape; float32, float64, float16 or bfloat16.
        key, generator, sample_shape, rng, eps: how many samples of which noise, see
            :func:`gaussian_latent`. eps is standard normal.

    Returns:
        z, of the parameter's shape and the inputs' dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does.

    Source: the Gaussian's reparameterization, folded at 0.

    Example:
        >>> import torch
        >>> from fused_reparam import half_normal_rsample
        >>> bool((half_normal_rsample(torch.ones(100)) >= 0).all())
        True
    """
    if not isinstance(scale, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(half_normal_rsample, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return rsample("half_normal", (("scale", scale),), key, generator, noise)


@names_mistakes
def half_normal_latent(
    scale: Tensor,
    *,
    prior_scale: float | Tensor = 1.0,
    reduction: str = "batchmean",
    dims: Dims = None,
    key: Tensor | None = None,
    generator: Generators | None = None,
    **noise: Unpack[NoiseOptions],
) -> tuple[Tensor, Tensor]:
    r"""Sample the half-normal distribution and its KL divergence to another one.

    .. math::
        KL = \tfrac12 (r^2 - 1) - \log r \text{ per element, reduced}, \qquad
        r = \mathrm{scale} / \mathrm{prior\_scale}

    Args:
        scale, key, generator, sample_shape, rng, eps: see :func:`half_normal_rsample`.
        prior_scale: that of the prior, a positive number, or a tensor as of
            :func:`exponential_latent`; by default the standard one's.
        reduction, dims: of the KL, see :func:`gaussian_latent`.

    Returns:
        ``(z, kl)``: z as of :func:`half_normal_rsample`, kl float32 (float64 for float64
        inputs).

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`gaussian_latent` does; ValueError also for a
            number of the prior that is not positive.

    Source: both densities are twice those of normals of mean 0 on one half, and the KL is theirs.

    Example:
        >>> import torch
        >>> from fused_reparam import half_normal_latent
        >>> z, kl = half_normal_latent(torch.full((4, 2), 3.0), prior_scale=3.0)
        >>> z.shape, bool(kl.abs() < 1e-5)
        (torch.Size([4, 2]), True)
    """
    if not isinstance(scale, Tensor) or fx._is_fx_tracing_flag or (noise and misnamed(noise)):
        node = special(half_normal_latent, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    prior = (prior_scale,)
    over = summed(reduction, dims)
    return latent("half_normal", (("scale", scale),), prior, over, key, generator, noise)
