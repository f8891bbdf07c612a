"""Distributions of positive numbers, and others, whose tail may be heavy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributions

from .base import OfFamily, Parameter, Transformed, points
from .given import derived

__all__ = ["Exponential", "GeneralizedPareto", "HalfCauchy", "Pareto", "Weibull"]


class Exponential(OfFamily, distributions.Exponential):
    r"""The exponential distribution, ``torch.distributions.Exponential`` in one pass.

    .. math::
        z = -\log(u) / \mathrm{rate}

    Args:
        rate, validate_args: as of ``torch.distributions.Exponential``.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import Exponential
        >>> z, kl = Exponential(torch.full((4,), 3.0)).rsample_and_kl(Exponential(3.0))
        >>> bool((z > 0).all()), bool(kl.abs().max() < 1e-5)
        (True, True)
    """

    _family = "exponential"

    def __init__(self, rate: Parameter, validate_args: bool | None = None) -> None:
        self._made_of(("rate",), (rate,), validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        return torch.log(self.rate) - self.rate * value


class Weibull(OfFamily, Transformed, distributions.Weibull):
    r"""The Weibull distribution, ``torch.distributions.Weibull`` in one pass.

    .. math::
        z = \mathrm{scale} (-\log u)^{1 / k}, \qquad
        \log p(z) = \log \frac{k}{\mathrm{scale}} + (k - 1) \log y - y^k, \quad
        y = z / \mathrm{scale}

    with k the concentration.

    Args:
        scale, concentration, validate_args: as of ``torch.distributions.Weibull``.

    The divergence to another one is closed, which PyTorch has not registered.

    Source: Bauckhage, "Computing the Kullback-Leibler divergence between two Weibull
    distributions", 2013.

    Example:
        >>> import torch
        >>> from torch.distributions import kl_divergence
        >>> from fused_reparam.distributions import Weibull
        >>> kl_divergence(Weibull(torch.ones(3), 2.0), Weibull(1.0, 2.0)).shape
        torch.Size([3])
    """

    _family = "weibull"

    def __init__(
        self, scale: Parameter, concentration: Parameter, validate_args: bool | None = None
    ) -> None:
        self._made_of(("scale", "concentration"), (scale, concentration), validate_args)

    @derived
    def concentration_reciprocal(self) -> Tensor:
        return self.concentration.reciprocal()

    def _log_prob(self, value: Tensor) -> Tensor:
        k = self.concentration
        log_y = torch.log(points(value, k)) - torch.log(self.scale)
        return torch.log(k / self.scale) + (k - 1.0) * log_y - torch.exp(k * log_y)


class Pareto(OfFamily, Transformed, distributions.Pareto):
    r"""The Pareto distribution, ``torch.distributions.Pareto`` in one pass.

    .. math::
        z = \mathrm{scale} \cdot u^{-1 / \mathrm{alpha}}, \qquad
        \log p(z) = \log \frac{\mathrm{alpha}}{z} + \mathrm{alpha} \log \frac{\mathrm{scale}}{z}

    Args:
        scale, alpha, validate_args: as of ``torch.distributions.Pareto``.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import Pareto
        >>> bool((Pareto(torch.full((100,), 2.0), 3.0).rsample() >= 2.0).all())
        True
    """

    _family = "pareto"

    def __init__(
        self, scale: Parameter, alpha: Parameter, validate_args: bool | None = None
    ) -> None:
        self._made_of(("scale", "alpha"), (scale, alpha), validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        log_value = torch.log(points(value, self.alpha))
        return torch.log(self.alpha) - log_value + self.alpha * (torch.log(self.scale) - log_value)


class GeneralizedPareto(OfFamily, distributions.GeneralizedPareto):
    r"""The generalized Pareto distribution, ``torch.distributions.GeneralizedPareto`` in one pass.

    .. math::
        z = \mathrm{loc} + \mathrm{scale} \frac{u^{-c} - 1}{c}, \qquad
        \log p(z) = -\log \mathrm{scale} - (1 + c) \frac{\log(1 + c y)}{c}, \quad
        y = \frac{z - \mathrm{loc}}{\mathrm{scale}}

    with c the concentration, smoothly also for c = 0.

    Args:
        loc, scale, concentration, validate_args: as of ``torch.distributions.GeneralizedPareto``.

    Source: Hosking and Wallis, "Parameter and quantile estimation for the generalized Pareto
    distribution", 1987, whose k is -c.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import GeneralizedPareto
        >>> q = GeneralizedPareto(0.0, 1.0, torch.tensor([-0.5, 0.0, 0.5]))
        >>> q.rsample((4,)).shape, q.log_prob(torch.zeros(3)).exp()
        (torch.Size([4, 3]), tensor([1., 1., 1.]))
    """

    _family = "generalized_pareto"

    def __init__(
        self,
        loc: Parameter,
        scale: Parameter,
        concentration: Parameter,
        validate_args: bool | None = None,
    ) -> None:
        names = "loc", "scale", "concentration"
        self._made_of(names, (loc, scale, concentration), validate_args)

    def log_survival_function(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -self._depth(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        # Of c = -1, which is uniform, nothing is left, also where the depth is infinite.
        c = self.concentration
        return -torch.log(self.scale) - torch.where(c == -1.0, 0.0, (1.0 + c) * self._depth(value))

    def _depth(self, value: Tensor) -> Tensor:
        """log(1 + c y) / c, of which the chance to be beyond is the exponential of the negative."""
        y = (value - self.loc) / self.scale
        x = self.concentration * y
        # log(1 + x) / x, whose derivative is right at 0 too.
        near = x.abs() < 1e-2
        small, large = torch.where(near, x, 0.0), torch.where(near, 1.0, x)
        series = torch.zeros_like(x)
        for n in range(9, 0, -1):
            series = 1.0 / n - small * series
        return y * torch.where(near, series, torch.log1p(large) / large)


class HalfCauchy(OfFamily, Transformed, distributions.HalfCauchy):
    r"""The half-Cauchy distribution, ``torch.distributions.HalfCauchy`` in one pass.

    .. math::
        z = \mathrm{scale} \cdot |\tan(\pi (u - \tfrac12))|, \qquad
        \log p(z) = \log \frac{2}{\pi \, \mathrm{scale}} -
            \log\Big(1 + \frac{z^2}{\mathrm{scale}^2}\Big)

    Args:
        scale, validate_args: as of ``torch.distributions.HalfCauchy``.

    The divergence to another one is closed, which PyTorch has not registered.

    Source: Carvalho, Polson and Scott, "Handling sparsity via the horseshoe", 2009.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import HalfCauchy
        >>> bool((HalfCauchy(torch.ones(100)).rsample() >= 0).all())
        True
    """

    _family = "half_cauchy"

    def __init__(self, scale: Parameter, validate_args: bool | None = None) -> None:
        self._made_of(("scale",), (scale,), validate_args)

    @derived
    def scale(self) -> Tensor:  # in place of the counterpart's property
        return self._whole("scale")

    def entropy(self) -> Tensor:
        return torch.log(self.scale) + math.log(2.0 * math.pi)

    def _log_prob(self, value: Tensor) -> Tensor:
        value = torch.as_tensor(value)
        density = -torch.log(0.5 * math.pi * self.scale) - (value / self.scale).square().log1p()
        return torch.where(value >= 0, density, -math.inf)
