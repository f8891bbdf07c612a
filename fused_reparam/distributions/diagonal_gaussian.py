"""The latent of an image or video autoencoder, of means and log-variances in one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.noise_options import Generators
from ..functional.arguments import moments_dim
from ..functional.gaussian import gaussian_latent_from_moments
from ..functional.gaussian_from_moments import gaussian_rsample_from_moments
from ..functional.gaussian_kl import gaussian_kl
from ..functional.gaussian_log_prob import gaussian_log_prob
from .base import Source
from .given import derived

__all__ = ["DiagonalGaussian"]

# Of the log-variance.
_BOUNDS = (-30.0, 20.0)


class DiagonalGaussian:
    r"""A diagonal Gaussian of moments, with the methods that diffusers' distribution has.

    .. math::
        \mu, \log \sigma^2 = \mathrm{halves}(\mathrm{moments}), \quad
        \log \sigma^2 \text{ held in } [-30, 20], \qquad z = \mu + \sigma \epsilon

    Args:
        moments: means, then log-variances, along ``dim``, as an encoder gives them; float32,
            float64, float16 or bfloat16. They are read in place, and have one gradient in their
            layout.
        deterministic: whether there is no variance: samples are the mean, and divergences 0.
        dim: the dim to halve.

    It is no ``torch.distributions.Distribution``, for ``mode`` is a method here. ``mean``,
    ``logvar``, ``std`` and ``var`` are made when they are asked for.

    Raises:
        TypeError, ValueError: as :func:`fused_reparam.gaussian_latent_from_moments` does.

    Source: the latent-diffusion autoencoder of Rombach et al., "High-resolution image synthesis
    with latent diffusion models", 2022.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import DiagonalGaussian
        >>> posterior = DiagonalGaussian(torch.zeros(2, 8, 16, 16))
        >>> z = posterior.sample(torch.Generator().manual_seed(0))
        >>> z.shape, posterior.kl()
        (torch.Size([2, 4, 16, 16]), tensor([0., 0.]))
        >>> z, kl = posterior.sample_and_kl()
        >>> posterior.nll(z).shape, torch.equal(posterior.mode(), posterior.mean)
        (torch.Size([2]), True)
    """

    def __init__(self, moments: Tensor, deterministic: bool = False, *, dim: int = 1) -> None:
        self.dim = moments_dim(moments, dim)
        self.parameters = moments
        self.deterministic = deterministic

    @derived
    def _halves(self) -> tuple[Tensor, Tensor]:
        mean, logvar = self.parameters.chunk(2, self.dim)
        return mean, logvar

    @property
    def mean(self) -> Tensor:
        return self._halves[0]

    @derived
    def logvar(self) -> Tensor:
        return self._halves[1].clamp(*_BOUNDS)

    @derived
    def std(self) -> Tensor:
        return torch.zeros_like(self.mean) if self.deterministic else torch.exp(0.5 * self.logvar)

    @derived
    def var(self) -> Tensor:
        return torch.zeros_like(self.mean) if self.deterministic else torch.exp(self.logvar)

    def sample(self, generator: Generators | None = None, **noise: Unpack[Source]) -> Tensor:
        """Draw by reparameterization, with a gradient.

        ``key``, ``rng`` and ``eps``, and a list of generators of one for each item, are those of
        :func:`fused_reparam.gaussian_latent`.
        """
        if self.deterministic:
            return self.mean
        return gaussian_rsample_from_moments(
            self.parameters, self.dim, clamp=_BOUNDS, generator=generator, **noise
        )

    def mode(self) -> Tensor:
        return self.mean

    def kl(self, other: Any = None, *, dims: Sequence[int] | None = None) -> Tensor:
        """The divergence to N(0, I) or to another one, summed over ``dims``.

        By default these are dims 1 to 3, as diffusers has it, or as many of them as there are. It
        is float32 (float64 for float64 moments), also of 16-bit moments, whose sums would overflow.
        """
        if self.deterministic:
            return self._nothing()
        prior = None if other is None else (other.mean, {"logvar": other.logvar})
        mean, logvar = self._halves
        kl = gaussian_kl(mean, logvar, clamp=_BOUNDS, prior=prior, dims=self._over(dims))
        return kl if other is None or not other.deterministic else torch.full_like(kl, math.inf)

    def sample_and_kl(
        self,
        generator: Generators | None = None,
        *,
        dims: Sequence[int] | None = None,
        **noise: Unpack[Source],
    ) -> tuple[Tensor, Tensor]:
        """A sample and its divergence to N(0, I), in one pass each way."""
        if self.deterministic:
            return self.mean, self._nothing()
        return gaussian_latent_from_moments(
            self.parameters,
            self.dim,
            clamp=_BOUNDS,
            dims=self._over(dims),
            generator=generator,
            **noise,
        )

    def nll(self, sample: Tensor, dims: Sequence[int] | None = None) -> Tensor:
        """The negative log-density of a sample, summed over ``dims`` as that of ``kl`` is."""
        if self.deterministic:
            return self._nothing()
        mean, logvar = self._halves
        over = self._over(dims)
        return -gaussian_log_prob(sample, mean, logvar, clamp=_BOUNDS, dims=over)

    def _over(self, dims: Sequence[int] | None) -> tuple[int, ...]:
        return tuple(range(1, min(self.parameters.dim(), 4))) if dims is None else tuple(dims)

    def _nothing(self) -> Tensor:
        return self.parameters.new_zeros(1)
