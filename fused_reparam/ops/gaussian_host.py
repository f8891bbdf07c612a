"""The Gaussian's calls that the native backend's host path makes: all of a short way in C++."""

from __future__ import annotations

import functools
import struct
from typing import Any

import torch
from torch import Tensor

from ..backends import native_host, select
from . import gaussian_call
from .gaussian_call import Inputs, Spec
from .gaussian_check import check
from .gaussian_plan import Call, geometry_of
from .library import strided

# A LatentPlan of kernels/host_latent.h.
_pack_plan = struct.Struct("=10q3d").pack


@functools.lru_cache(maxsize=4096)
def _call(
    loc_shape: torch.Size,
    loc_strides: tuple[int, ...],
    scale_shape: torch.Size | None,
    scale_strides: tuple[int, ...] | None,
    dim: int,
    kind: int,
    low: float,
    high: float,
    reduction: str | None,
    sample: bool,
) -> tuple[Call, bytes] | None:
    """A call of the native backend and its plan for the host path."""
    geometry = geometry_of(loc_shape, loc_strides, scale_shape, scale_strides, dim)
    if geometry is None:
        return None
    weight = gaussian_call.kl_weight(geometry.shape, reduction)
    plan = _pack_plan(
        0 if geometry.dense else geometry.size[1], *geometry.loc, *geometry.scale, geometry.shift,
        dim, sample, reduction is not None, kind, low, high, weight,
    )  # fmt: skip
    native = select.load("native")
    return Call(native, kind, low, high, weight, reduction, dim, geometry, sample), plan


def latent(
    loc: Tensor,
    scale: Tensor | float | None,
    dim: int,
    kind: int,
    bounds: tuple[float, float],
    reduction: str | None,
    sample: bool,
    key: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor | None] | None:
    """What the host path makes of a call; None where it declines or there is none."""
    host = None if torch.compiler.is_compiling() else native_host.module
    if host is None or not _may(loc, scale, reduction):
        return None
    of_scale = (None, None) if scale is None else (scale.shape, scale.stride())  # type: ignore[union-attr]
    planned = _call(loc.shape, loc.stride(), *of_scale, dim, kind, *bounds, reduction, sample)
    if planned is None:
        return None
    return host.latent(loc, scale, *planned, key, generator)  # type: ignore[no-any-return]


def plan_of_op(loc: Tensor, scale: Tensor | None, *rest: Any) -> bytes | None:
    """The plan of the op's arguments, or None when they go the general way; raises as the op."""
    spec = Spec(*rest[2:])
    check(Inputs(loc, scale, *rest[:2]), spec)
    if spec.reduction is not None and spec.reduction not in gaussian_call.SUMMED:
        return None
    if scale is None and spec.dim < 0:  # the plan counts from the first
        return None
    of_scale = (None, None) if scale is None else (scale.shape, scale.stride())
    planned = _call(
        loc.shape, loc.stride(), *of_scale, spec.dim, spec.kind, spec.low, spec.high,
        spec.reduction, spec.sample,
    )  # fmt: skip
    return None if planned is None else planned[1]


def kl(
    loc: Tensor, scale: Tensor | float, kind: int, bounds: tuple[float, float], reduction: str
) -> Tensor | None:
    """The KL alone, or None when the call has to go the general way."""
    found = latent(loc, scale, -1, kind, bounds, reduction, False, None, None)
    return None if found is None else found[1]


def _may(loc: Tensor, scale: Tensor | float | None, reduction: str | None) -> bool:
    """Whether the host path may be asked: it checks the rest."""
    return (
        strided(loc)
        and loc.is_cpu
        and (scale is None or strided(scale))
        and (reduction is None or reduction in gaussian_call.SUMMED)
    )
