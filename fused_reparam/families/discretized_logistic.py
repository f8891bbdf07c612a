"""The log-likelihood of values on a grid, under a logistic distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from .bernoulli import unsampled
from .family import Family, over


def discretized_logistic_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: log-probability of the bin around a value.

    Parameters x, loc, scale; constants half a bin's width h, and the first bin's upper and the last
    bin's lower end. With d = x - loc, and the logistic distribution's own
    F(v) = 1 / (1 + e^-v)::

        log p = log(F((d + h) / scale) - F((d - h) / scale))
              = log(1 - e^(-2 h / scale))
                - log(1 + e^(-(d + h) / scale)) - log(1 + e^((d - h) / scale))

    The second form takes no difference of nearly equal numbers, wherever d is. The first bin has
    all that is below it, too, so that log p is the second part alone, and the last one what is
    above it: the third.
    """
    x, loc, scale = p
    half, first, last = constants
    d, lower, upper = x - loc, x < first, x > last
    inner = ~(lower | upper)
    width = _log1mexp(2.0 * half, torch.where(inner, scale, 1.0))
    above = _softplus_of(torch.where(upper, 0.0, -(d + half)), torch.where(upper, 1.0, scale))
    below = _softplus_of(torch.where(lower, 0.0, d - half), torch.where(lower, 1.0, scale))
    value = torch.where(inner, width, 0.0) - torch.where(upper, 0.0, above)
    return unsampled(x, eps), (value - torch.where(lower, 0.0, below),)


def _most(x: Tensor) -> float:
    """From where on e^-x is 0."""
    return 746.0 if x.dtype == torch.float64 else 104.0


def _softplus_of(x: Tensor, y: Tensor) -> Tensor:
    """log(1 + e^(x / y)); nothing infinite meets a gradient of 0."""
    upper = x > 0.0
    far = (x.abs() / y > _most(x)).detach()
    small = torch.where(far, 0.0, torch.where(upper, -x, x))
    rest = torch.log1p(torch.exp(over(small, torch.where(far, 1.0, y))))
    return over(torch.where(upper, x, 0.0), y) + torch.where(far, 0.0, rest)


def _log1mexp(x: float, y: Tensor) -> Tensor:
    """log(1 - e^(-x / y)) of x / y > 0, from the side on which nothing cancels."""
    t = (x / y).detach()
    tiny, large, none = t < 1e-20, t > 0.7, t > _most(y)
    of_tiny = torch.log(torch.full_like(y, x)) - torch.log(torch.where(tiny, y, 1.0))
    q = over(torch.full_like(y, x), torch.where(tiny | none, x, y))
    of_large = torch.log1p(-torch.exp(-torch.where(large, q, 1.0)))
    of_others = torch.log(-torch.expm1(-torch.where(large, 0.5, q)))
    found = torch.where(tiny, of_tiny, torch.where(large, of_large, of_others))
    return torch.where(none, 0.0, found)


DISCRETIZED_LOGISTIC_DENSITY = Family(
    3, 3, "logistic", 1, False, discretized_logistic_density, transform="unsampled",
    term="discretized_logistic_density", names="x loc scale+",
)  # fmt: skip
