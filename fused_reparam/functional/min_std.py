"""What is added to a standard deviation, so that none is less."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..core.dtypes import compute_dtype
from ..core.scalars import is_number, real
from ..core.scales import RHO, SCALE_KINDS, STD, sigma_of
from ..core.storage import check_given
from .arguments import bounds_of, check_tensor, clamped, moments_dim, number
from .tensor_numbers import changing, in_graph


def raised(
    kind: int, scale: Tensor | float, min_std: float, like: Tensor | float
) -> tuple[int, Tensor | float]:
    """``std + min_std`` or ``softplus(rho) + min_std``, as std: in PyTorch's operators.

    ``like``: the location.
    """
    least = number("min_std", min_std)
    if least < 0.0:
        raise ValueError(f"min_std must be at least 0, got {least}")
    if kind not in (STD, RHO):
        raise ValueError(
            f"min_std is added to std or softplus(rho), the scale given is {SCALE_KINDS[kind]}"
        )
    if kind == RHO and changing(scale) and isinstance(like, Tensor):
        wide = in_graph("rho", scale, like, compute_dtype(like.dtype))
        return STD, torch.add(sigma_of(wide, kind), least).to(like.dtype)
    if not isinstance(scale, Tensor) and is_number(scale):
        x = real(SCALE_KINDS[kind], scale)
        scale = x if kind == STD else max(x, 0.0) + math.log1p(math.exp(-abs(x)))
        return STD, scale + least
    check_tensor(SCALE_KINDS[kind], scale)  # type: ignore[arg-type]
    assert isinstance(scale, Tensor)
    check_given(SCALE_KINDS[kind], scale)
    return STD, torch.add(sigma_of(scale, kind), least)


def from_moments(
    moments: Tensor,
    dim: int,
    kind: int,
    min_std: float | None,
    clamp: tuple[float, float] | None,
) -> tuple[tuple[Tensor, Tensor | float | None, int, tuple[float, float]], int]:
    """Means and scales, the position of their keyword, their bounds; and the dim along which they
    are halved.

    One tensor is read in place. It becomes two, and the dim -1, with ``min_std`` or with bounds
    that a compiler has found to change from call to call.
    """
    moving = clamp is not None and is_compiling() and any(map(changing, clamp))
    if min_std is None and not moving:
        bounds = bounds_of(clamp, kind)
        return (moments, None, kind, bounds), moments_dim(moments, dim)
    dim = moments_dim(moments, dim)
    check_given("moments", moments)
    mu, scale = moments.chunk(2, dim)
    if min_std is not None:
        kind, scale = raised(kind, scale, min_std, mu)  # type: ignore[assignment]
    scale, bounds = clamped(scale, clamp, kind)  # type: ignore[assignment]
    return (mu, scale, kind, bounds), -1
