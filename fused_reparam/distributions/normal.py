"""The normal distribution, and those that are made of it by one function."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributions
from torch.distributions.transforms import ExpTransform

from ..functional import elementwise
from ..functional.divergence import usual
from ..functional.gaussian import gaussian_latent
from ..functional.gaussian_log_prob import gaussian_log_prob, gaussian_rsample_log_prob
from ..functional.log_normal import log_normal_latent, log_normal_rsample
from .base import (
    Fused,
    OfFamily,
    Parameter,
    SomeNoise,
    Transformed,
    alike,
    in_dtype_of,
    number_of,
    points,
    sources,
)
from .given import derived
from .scales import ATTRIBUTES, Scaled, scale_of

# No bounds of the scale; the prior of a divergence, which is not asked for.
_ANY = *elementwise.UNBOUNDED, *usual(None).constants

__all__ = ["HalfNormal", "LogNormal", "Normal"]


class Normal(Scaled, distributions.Normal):
    r"""The normal distribution, ``torch.distributions.Normal`` in one pass each way.

    .. math::
        z = \mu + \sigma \epsilon, \quad \epsilon \sim N(0, 1)

    Args:
        loc: the mean; a tensor or a number. All parameters broadcast against each other.
        scale: the standard deviation, positive.
        validate_args: whether to check parameters and the points of ``log_prob``; as PyTorch's.
        log_std, logvar, var, rho: in place of scale, its logarithm, the variance's logarithm, the
            variance, or the parameter of ``softplus``. Samples, densities and divergences are
            computed of it; ``scale`` and the others are attributes that are made when asked for.

    ``rsample_and_kl`` and ``rsample_and_log_prob`` each take one pass.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, section 2.4.

    Example:
        >>> import torch
        >>> from torch.distributions import kl_divergence
        >>> from fused_reparam.distributions import Normal
        >>> q = Normal(torch.zeros(4, 3), log_std=torch.zeros(4, 3))
        >>> z, kl = q.rsample_and_kl(Normal(0.0, 1.0), (5,))
        >>> z.shape, kl.shape, torch.equal(kl, kl_divergence(q, torch.distributions.Normal(0, 1)))
        (torch.Size([5, 4, 3]), torch.Size([4, 3]), True)
        >>> isinstance(q, torch.distributions.Normal), q.scale.unique()
        (True, tensor([1.]))
    """

    @property
    def variance(self) -> Tensor:
        return self.var

    def entropy(self) -> Tensor:
        return 0.5 + 0.5 * math.log(2.0 * math.pi) + self.log_std

    def _draw(self, noise: SomeNoise) -> Tensor:
        name = self._names[1]
        named = ("loc", self._parameter("loc")), (name, self._parameter(name))
        kind = ATTRIBUTES.index(name)
        return elementwise.sample("gaussian", named, sources(noise), kind, constants=_ANY)[0]

    def _log_prob(self, value: Tensor) -> Tensor:
        return _density(value, self._parameter("loc"), self)

    def _draw_and_log_prob(self, noise: SomeNoise) -> tuple[Tensor, Tensor]:
        z, log_prob, _ = gaussian_rsample_log_prob(
            self._parameter("loc"), **self._scale, dims=(), **noise
        )
        return z, log_prob.to(z.dtype)

    def _draw_and_kl(self, prior: Any, noise: SomeNoise) -> tuple[Tensor, Tensor] | None:
        loc, scale = as_prior(prior)
        values = (loc, *scale.values()) if isinstance(scale, dict) else ()
        if not alike(values, self._like()):
            return None
        return gaussian_latent(
            self._parameter("loc"), **self._scale, reduction="none", prior=(loc, scale), **noise
        )


class LogNormal(Scaled, Transformed, distributions.LogNormal):
    r"""The log-normal distribution, ``torch.distributions.LogNormal`` in one pass.

    .. math::
        z = e^{\mu + \sigma \epsilon}, \quad \epsilon \sim N(0, 1)

    Args:
        loc, scale, validate_args, log_std, logvar, var, rho: those of log z, see :class:`Normal`.

    Source: the reparameterization is the Gaussian's, pushed through exp.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import LogNormal
        >>> bool((LogNormal(torch.zeros(100), logvar=0.0).rsample() > 0).all())
        True
    """

    @derived
    def loc(self) -> Tensor:  # in place of the counterpart's property
        return self._whole("loc")

    @property
    def base_dist(self) -> Normal:  # type: ignore[override]
        """The distribution of log z."""
        given = {name: getattr(self, name) for name in self._names}
        return Normal(**given, validate_args=False)  # type: ignore[arg-type]

    @property
    def transforms(self) -> Any:  # type: ignore[override]
        return [ExpTransform()]

    def entropy(self) -> Tensor:
        return self.base_dist.entropy() + self.loc

    def _draw(self, noise: SomeNoise) -> Tensor:
        return log_normal_rsample(self._parameter("loc"), **self._scale, **noise)

    def _draw_and_kl(self, prior: Any, noise: SomeNoise) -> tuple[Tensor, Tensor] | None:
        loc, scale = as_prior(prior)
        if isinstance(scale, dict) or (loc, scale) != (0.0, 1.0):
            return None
        loc = self._parameter("loc")
        return log_normal_latent(loc, **self._scale, reduction="none", **noise)

    def _log_prob(self, value: Tensor) -> Tensor:
        log_value = torch.log(points(value, self._like()))
        return _density(log_value, self._parameter("loc"), self) - log_value


class HalfNormal(Scaled, OfFamily, Transformed, distributions.HalfNormal):
    r"""The half-normal distribution, ``torch.distributions.HalfNormal`` in one pass.

    .. math::
        z = \sigma |\epsilon|, \quad \epsilon \sim N(0, 1)

    Args:
        scale: the standard deviation of the whole normal distribution, a tensor or a number.
        validate_args: as of :class:`Normal`.

    Source: the Gaussian's reparameterization, folded at 0.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import HalfNormal
        >>> z, kl = HalfNormal(torch.full((4,), 2.0)).rsample_and_kl(HalfNormal(2.0))
        >>> bool((z >= 0).all()), bool(kl.abs().max() < 1e-5)
        (True, True)
    """

    _family = "half_normal"

    def __init__(self, scale: Parameter, validate_args: bool | None = None) -> None:
        self._made_of(("scale",), (scale,), validate_args)

    def entropy(self) -> Tensor:
        return 0.5 * math.log(0.5 * math.pi) + 0.5 + torch.log(self.scale)

    def _log_prob(self, value: Tensor) -> Tensor:
        value = points(value, self._like())
        density = _density(value, 0.0, self) + math.log(2.0)
        return torch.where(value >= 0, density, -math.inf)


def as_prior(prior: Any) -> tuple[Any, Any]:
    """A normal distribution, or one that is made of it, as the package's functions take a prior."""
    loc = prior._parameter("loc") if isinstance(prior, Fused) else prior.loc
    ((name, scale),) = scale_of(prior).items()
    loc, scale = number_of(loc), number_of(scale)
    if name == "std" and not (isinstance(loc, Tensor) or isinstance(scale, Tensor)):
        return loc, scale
    return loc, {name: scale}


def _density(value: Tensor, loc: Parameter, of: Scaled) -> Tensor:
    """The normal log-density, in the dtype that PyTorch's has."""
    like = of._like()
    value = points(value, like)
    found = gaussian_log_prob(value, loc, **of._scale)
    return in_dtype_of(found, value, like)
