"""The scale keywords: how sigma is parameterized, and its formulas, element by element.

Ops and backends receive a keyword's position. x is the parameter; the formulas are differentiable
PyTorch code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

SCALE_KINDS = ("logvar", "log_std", "std", "var", "rho")
LOGVAR, LOG_STD, STD, VAR, RHO = range(5)


def clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Bound the scale parameter; NaN stays NaN. Its gradient is ``inside``."""
    if low == -torch.inf and high == torch.inf:
        return x
    # torch.clamp's own gradient at the bounds is not the same in every release of PyTorch.
    least, most = _held(low, x), _held(high, x)
    return torch.where(inside(x, low, high), x, x.detach().clamp(least, most))


def inside(x: Tensor, low: float, high: float) -> Tensor:
    """Where the gradient of the clamp is 1: at and inside the bounds, and at NaN."""
    return ~((x < _held(low, x)) | (x > _held(high, x)))


def _held(bound: float, x: Tensor) -> float:
    """A bound as x's dtype holds it: PyTorch refuses a number that is beyond it."""
    return math.copysign(math.inf, bound) if abs(bound) > torch.finfo(x.dtype).max else bound


def sigma_of(x: Tensor, kind: int) -> Tensor:
    """The standard deviation."""
    if kind == LOGVAR:
        return torch.exp(0.5 * x)
    if kind == LOG_STD:
        return torch.exp(x)
    if kind == STD:
        return x
    if kind == VAR:
        return torch.sqrt(x)
    return _softplus(x)


def log_var_of(x: Tensor, sigma: Tensor, kind: int) -> Tensor:
    """``log sigma^2``."""
    if kind == LOGVAR:
        return x
    if kind == LOG_STD:
        return 2.0 * x
    if kind == STD:
        return 2.0 * torch.log(sigma)
    if kind == VAR:
        return torch.log(x)
    linear = x < -softplus_edge(x)
    return 2.0 * torch.where(linear, x, torch.log(torch.where(linear, 1.0, sigma)))


def dsigma_of(x: Tensor, sigma: Tensor, kind: int) -> Tensor:
    """``d sigma / d x``."""
    if kind == LOGVAR:
        return 0.5 * sigma
    if kind == LOG_STD:
        return sigma
    if kind == STD:
        return torch.ones_like(x)
    if kind == VAR:
        return 0.5 / sigma
    return torch.sigmoid(x)


def dlog_sigma_of(x: Tensor, sigma: Tensor, kind: int) -> Tensor:
    """``d log sigma / d x``."""
    if kind == LOGVAR:
        return torch.full_like(x, 0.5)
    if kind == LOG_STD:
        return torch.ones_like(x)
    if kind == STD:
        return 1.0 / x
    if kind == VAR:
        return 0.5 / x
    linear = x < -softplus_edge(x)  # there it tends to 1, and both of the quotient underflow
    return torch.where(linear, 1.0, torch.sigmoid(x) / torch.where(linear, 1.0, sigma))


def _softplus(x: Tensor) -> Tensor:
    return softplus(x, threshold=softplus_edge(x))


def softplus_edge(x: Tensor) -> float:
    """Beyond it softplus(x) is x, and below its negative exp(x), to the dtype's last bit."""
    return 40.0 if x.dtype == torch.float64 else 20.0
