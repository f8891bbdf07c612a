"""A normal distribution pushed through tanh, between two bounds: actions of a policy."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.distributions import TransformedDistribution, constraints
from torch.distributions.transforms import AffineTransform, TanhTransform
from torch.types import _size

from ..core.scalars import is_number
from ..functional.tanh_normal import tanh_normal_log_prob, tanh_normal_rsample, tanh_normal_sample
from .base import (
    NO_DIMS,
    Noise,
    Parameter,
    SomeNoise,
    in_dtype_of,
    number_of,
    points,
    with_shape,
)
from .normal import Normal
from .scales import Scaled, one_scale

__all__ = ["TanhNormal"]


class TanhNormal(Scaled, TransformedDistribution):
    r"""The tanh of a normal variable, between two bounds, in one pass with its log-density.

    .. math::
        z = m + h \tanh x, \quad x = \mu + \sigma \epsilon, \qquad
        \log p(z) = \log N(x; \mu, \sigma^2) - \log h - 2 (\log 2 - |x| - \log(1 + e^{-2 |x|}))

    with m and h the bounds' mean and half their distance. Each element has its own density:
    ``Independent(TanhNormal(...), 1)`` sums those of an action, as of every other distribution.

    Args:
        loc, scale, validate_args, log_std, logvar, var, rho: those of x, see :class:`Normal`.
        low, high: the bounds, low < high: numbers, tensors, or arrays as of a space of actions.

    ``rsample_and_log_prob`` computes the density from x, so that it is right where tanh rounds to
    1. The divergence between two of the same bounds is that of the normal distributions. Bounds
    that are tensors are compared where one of the two validates; where neither does, nothing waits
    for a device, and they are taken to be the same.

    Source: Haarnoja et al., "Soft actor-critic", 2018, appendix C.

    Example:
        >>> import torch
        >>> from fused_reparam.distributions import TanhNormal
        >>> policy = TanhNormal(torch.zeros(256, 6), log_std=torch.tensor(-1.0), low=-2.0, high=2.0)
        >>> action, log_prob = policy.rsample_and_log_prob()
        >>> action.shape, log_prob.sum(-1).shape, bool(action.abs().max() <= 2.0)
        (torch.Size([256, 6]), torch.Size([256]), True)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(
        self,
        loc: Parameter,
        scale: Parameter | None = None,
        low: Any = -1.0,
        high: Any = 1.0,
        validate_args: bool | None = None,
        *,
        log_std: Parameter | None = None,
        logvar: Parameter | None = None,
        var: Parameter | None = None,
        rho: Parameter | None = None,
    ) -> None:
        name, value = one_scale(scale, log_std, logvar, var, rho)
        self._constrain(name)
        like = loc if isinstance(loc, Tensor) else value
        ends = _bound(low, like), _bound(high, like)
        names = "low", "high", "loc", name
        self._made_of(names, (*ends, loc, value), validate_args)
        if self._validate_args and not torch.as_tensor(ends[0] < ends[1]).all():
            raise ValueError(f"low must be below high, got low {ends[0]} and high {ends[1]}")

    @property
    def base_dist(self) -> Normal:  # type: ignore[override]
        """The distribution of x."""
        name = self._names[-1]
        given = {name: getattr(self, name)}
        return Normal(self.loc, **given, validate_args=False)  # type: ignore[arg-type]

    @property
    def transforms(self) -> Any:  # type: ignore[override]
        half = 0.5 * (self.high - self.low)
        return [TanhTransform(), AffineTransform(self.low + half, half)]

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def median(self) -> Tensor:
        """What a policy does without noise: the tanh of the mean, between the bounds."""
        half = 0.5 * (self.high - self.low)
        return self.low + half + half * torch.tanh(self.loc)

    def sample_and_log_prob(
        self, sample_shape: _size = NO_DIMS, **noise: Unpack[Noise]
    ) -> tuple[Tensor, Tensor]:
        """A sample without a gradient, and its log-density with that of the score."""
        z, log_prob = tanh_normal_sample(
            **self._policy(), dims=(), **with_shape(sample_shape, noise)
        )
        return z, log_prob.to(z.dtype)

    def _policy(self) -> dict[str, Any]:
        ends = {"low": self._parameter("low"), "high": self._parameter("high")}
        return {"mean": self._parameter("loc"), **self._scale, **ends}

    def _draw(self, noise: SomeNoise) -> Tensor:
        return self._draw_and_log_prob(noise)[0]

    def _draw_and_log_prob(self, noise: SomeNoise) -> tuple[Tensor, Tensor]:
        z, log_prob = tanh_normal_rsample(**self._policy(), dims=(), **noise)
        return z, log_prob.to(z.dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        like = self._like()
        value = points(value, like)
        found = tanh_normal_log_prob(value, **self._policy(), dims=())
        return in_dtype_of(found, value, like)


def same_bounds(p: TanhNormal, q: TanhNormal) -> bool:
    """Numbers are compared. So is what tensors hold, but for that a device would be waited for."""
    waits = p._validate_args or q._validate_args
    for name in ("low", "high"):
        a, b = number_of(p._parameter(name)), number_of(q._parameter(name))
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            if waits and a is not b and not torch.as_tensor(a == b).all():
                return False
        elif a != b:
            return False
    return True


def _bound(value: Any, like: Any) -> Parameter:
    if isinstance(value, Tensor) or is_number(value) or not isinstance(like, Tensor):
        return value  # type: ignore[no-any-return]
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
