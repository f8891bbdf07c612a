"""What is added to a standard deviation, so that none is less."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.scalars import is_number, real
from ..core.scales import RHO, SCALE_KINDS, STD, sigma_of
from ..core.storage import check_given
from .arguments import check_tensor, moments_dim, number


def raised(kind: int, scale: Tensor | float, min_std: float) -> tuple[int, Tensor | float]:
    """``std + min_std`` or ``softplus(rho) + min_std``, as std: in PyTorch's operators."""
    least = number("min_std", min_std)
    if least < 0.0:
        raise ValueError(f"min_std must be at least 0, got {least}")
    if kind not in (STD, RHO):
        raise ValueError(
            f"min_std is added to std or softplus(rho), the scale given is {SCALE_KINDS[kind]}"
        )
    if not isinstance(scale, Tensor) and is_number(scale):
        x = real(SCALE_KINDS[kind], scale)
        scale = x if kind == STD else max(x, 0.0) + math.log1p(math.exp(-abs(x)))
        return STD, scale + least
    check_tensor(SCALE_KINDS[kind], scale)  # type: ignore[arg-type]
    assert isinstance(scale, Tensor)
    check_given(SCALE_KINDS[kind], scale)
    return STD, torch.add(sigma_of(scale, kind), least)


def from_moments(
    moments: Tensor, dim: int, kind: int, min_std: float | None
) -> tuple[Tensor, Tensor | float | None, int, int]:
    """Means and scales, the position of their keyword, and the dim along which they are halved.

    One tensor is read in place; only with ``min_std`` it becomes two, and the dim is -1.
    """
    dim = moments_dim(moments, dim)
    if min_std is None:
        return moments, None, kind, dim
    check_given("moments", moments)
    mu, scale = moments.chunk(2, dim)
    kind, raised_scale = raised(kind, scale, min_std)
    return mu, raised_scale, kind, -1
