"""Location-scale distributions: z = loc + scale * eps, eps of a standard distribution."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, constraints

from ..functional import elementwise
from ..functional.loc_scale import loc_scale_latent, loc_scale_rsample
from .base import Fused, Parameter, SomeNoise, Transformed, number_of, sources

__all__ = ["Cauchy", "Gumbel", "Laplace", "Logistic", "StudentT", "Uniform"]


class _LocScale(Fused):
    """Of loc and scale alone."""

    _base: ClassVar[str]
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Parameter, scale: Parameter, validate_args: bool | None = None) -> None:
        self._made_of(("loc", "scale"), (loc, scale), validate_args)

    def _draw(self, noise: SomeNoise) -> Tensor:
        named = ("loc", self._parameter("loc")), ("scale", self._parameter("scale"))
        return elementwise.sample(self._base, named, sources(noise))[0]

    def _standardized(self, value: Tensor) -> Tensor:
        return (value - self.loc) / self.scale

    def _draw_and_kl(self, prior: Any, noise: SomeNoise) -> tuple[Tensor, Tensor] | None:
        # To another one than the standard it is PyTorch's own.
        place, spread = number_of(prior.loc), number_of(prior.scale)
        if isinstance(place, Tensor) or isinstance(spread, Tensor) or (place, spread) != (0.0, 1.0):
            return None
        return loc_scale_latent(self.loc, self.scale, self._base, reduction="none", **noise)


class Laplace(_LocScale, distributions.Laplace):
    r"""The Laplace distribution, ``torch.distributions.Laplace`` in one pass.

    .. math::
        z = \mathrm{loc} + \mathrm{scale} \cdot \epsilon, \qquad
        \log p(z) = -\frac{|z - \mathrm{loc}|}{\mathrm{scale}} - \log(2 \, \mathrm{scale})

    Args:
        loc, scale, validate_args: as of ``torch.distributions.Laplace``.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import Laplace
        >>> z, log_prob = Laplace(torch.zeros(3), 2.0).rsample_and_log_prob((4,))
        >>> z.shape, log_prob.shape
        (torch.Size([4, 3]), torch.Size([4, 3]))
    """

    _base = "laplace"

    def _log_prob(self, value: Tensor) -> Tensor:
        return -self._standardized(value).abs() - torch.log(2.0 * self.scale)


class Gumbel(_LocScale, Transformed, distributions.Gumbel):
    r"""The Gumbel distribution, ``torch.distributions.Gumbel`` in one pass.

    .. math::
        z = \mathrm{loc} - \mathrm{scale} \log(-\log u), \qquad
        \log p(z) = y - e^y - \log \mathrm{scale}, \quad
        y = \frac{\mathrm{loc} - z}{\mathrm{scale}}

    Args:
        loc, scale, validate_args: as of ``torch.distributions.Gumbel``.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import Gumbel
        >>> Gumbel(torch.zeros(3), 2.0).rsample((4,)).shape
        torch.Size([4, 3])
    """

    _base = "gumbel"

    def _log_prob(self, value: Tensor) -> Tensor:
        y = -self._standardized(value)
        return (y - torch.exp(y)) - torch.log(self.scale)


class Cauchy(_LocScale, distributions.Cauchy):
    r"""The Cauchy distribution, ``torch.distributions.Cauchy`` in one pass.

    .. math::
        z = \mathrm{loc} + \mathrm{scale} \tan(\pi (u - \tfrac12))

    Args:
        loc, scale, validate_args: as of ``torch.distributions.Cauchy``.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import Cauchy
        >>> Cauchy(torch.zeros(3), 2.0).rsample((4,)).shape
        torch.Size([4, 3])
    """

    _base = "cauchy"

    def _log_prob(self, value: Tensor) -> Tensor:
        return -torch.log(math.pi * self.scale) - self._standardized(value).square().log1p()


class Logistic(_LocScale, Distribution):
    r"""The logistic distribution, which ``torch.distributions`` has not.

    .. math::
        z = \mathrm{loc} + \mathrm{scale} \log \frac{u}{1 - u}, \qquad
        P(z \le x) = \mathrm{sigmoid}\Big(\frac{x - \mathrm{loc}}{\mathrm{scale}}\Big)

    Args:
        loc: location, the mean; a tensor or a number, which broadcast.
        scale: positive.
        validate_args: as of :class:`Normal`.

    Its divergence to another one is not closed.

    Source: Devroye, "Non-uniform random variate generation", 1986, chapter 2.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import Logistic
        >>> q = Logistic(torch.zeros(3), 2.0)
        >>> q.rsample((4,)).shape, q.cdf(torch.zeros(3)).unique(), round(q.entropy()[0].item(), 4)
        (torch.Size([4, 3]), tensor([0.5000]), 2.6931)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.real
    _base = "logistic"

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.scale * (math.pi / math.sqrt(3.0))

    @property
    def variance(self) -> Tensor:
        return self.stddev.square()

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.sigmoid(self._standardized(value))

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * torch.logit(value)

    def entropy(self) -> Tensor:
        return torch.log(self.scale) + 2.0

    def _log_prob(self, value: Tensor) -> Tensor:
        y = self._standardized(value).abs()
        return -y - 2.0 * torch.log1p(torch.exp(-y)) - torch.log(self.scale)


class StudentT(Fused, distributions.StudentT):
    r"""Student's t distribution, ``torch.distributions.StudentT`` in one pass.

    .. math::
        z = \mathrm{loc} + \mathrm{scale} \sqrt{\mathrm{df} (u^{-2 / \mathrm{df}} - 1)} \,
        \cos(2 \pi u')

    Args:
        df, loc, scale, validate_args: as of ``torch.distributions.StudentT``. The gradient of a df
            that is a tensor is that of the formula above.

    Source: Bailey, "Polar generation of random variates with the t-distribution", 1994.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import StudentT
        >>> StudentT(4.0, torch.zeros(3), 2.0).rsample((4,)).shape
        torch.Size([4, 3])
    """

    _number: float | None = None
    """The degrees of freedom where they are a number."""

    def __init__(
        self,
        df: Parameter,
        loc: Parameter = 0.0,
        scale: Parameter = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        if isinstance(df, (int, float)):
            self._number = float(df)
        self._made_of(("df", "loc", "scale"), (df, loc, scale), validate_args)

    def _expand_others(self, new: Any) -> None:
        super()._expand_others(new)
        if self._number is not None:
            new._number = self._number

    def _draw(self, noise: SomeNoise) -> Tensor:
        df = self.df if self._number is None else self._number
        return loc_scale_rsample(self.loc, self.scale, "student_t", df=df, **noise)

    def _log_prob(self, value: Tensor) -> Tensor:
        df = self.df
        more = 0.5 * (df + 1.0)
        normalizer = torch.lgamma(more) - torch.lgamma(0.5 * df) - 0.5 * torch.log(math.pi * df)
        y = (value - self.loc) / self.scale
        return normalizer - torch.log(self.scale) - more * torch.log1p(y.square() / df)


class Uniform(Fused, distributions.Uniform):
    r"""The uniform distribution, ``torch.distributions.Uniform``.

    .. math::
        z = \mathrm{low} + u (\mathrm{high} - \mathrm{low})

    Args:
        low, high, validate_args: as of ``torch.distributions.Uniform``.

    u is of one pass, and z of another, by ``torch.lerp``: so that z never leaves the bounds. As
    ``eps`` it takes 2 u - 1, see :func:`fused_reparam.loc_scale_rsample`.

    Source: the definition.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import Uniform
        >>> z = Uniform(torch.zeros(100), 3.0).rsample()
        >>> bool(((z >= 0.0) & (z <= 3.0)).all())
        True
    """

    def __init__(self, low: Parameter, high: Parameter, validate_args: bool | None = None) -> None:
        self._made_of(("low", "high"), (low, high), validate_args)

    def _draw(self, noise: SomeNoise) -> Tensor:
        half = torch.full_like(self.low, 0.5, requires_grad=False)
        return torch.lerp(self.low, self.high, loc_scale_rsample(half, half, "uniform", **noise))

    def _log_prob(self, value: Tensor) -> Tensor:
        inside = (value >= self.low) & (value < self.high)
        return torch.where(inside, -torch.log(self.high - self.low), -math.inf)
