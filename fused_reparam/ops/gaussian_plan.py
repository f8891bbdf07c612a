"""Where the operands of a short Gaussian call lie, and what it computes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from . import gaussian_call, layout
from .gaussian_call import Inputs, Spec
from .operands import check_size


class Geometry(NamedTuple):
    """Where the operands of a call lie in memory."""

    shape: torch.Size  # of z, which is contiguous
    dense: bool  # whether the operands are, too; if not they are rows
    size: tuple[int, int]  # rows, columns
    loc: tuple[int, int]  # the two strides of the rows
    scale: tuple[int, int]
    shift: int  # from loc's first element to scale's, where loc holds both
    strides: tuple[tuple[int, ...], tuple[int, ...] | None]  # of the tensors themselves


@functools.lru_cache(maxsize=4096)
def geometry_of(
    loc_shape: torch.Size,
    loc_strides: tuple[int, ...],
    scale_shape: torch.Size | None,
    scale_strides: tuple[int, ...] | None,
    dim: int,
) -> Geometry | None:
    """The geometry of loc and scale, or of moments; None where it takes the general way."""
    check_size(loc_shape)
    loc = torch.empty_strided(loc_shape, loc_strides, device="meta")
    shift = 0
    if scale_shape is None or scale_strides is None:
        if not loc.is_contiguous() or loc_shape[dim] % 2:
            return None
        loc, scale = gaussian_call.halves(loc, dim)
        shift = int(scale.storage_offset())
    elif scale_shape == loc_shape:
        scale = torch.empty_strided(scale_shape, scale_strides, device="meta")
    else:
        return None
    if not loc.numel() or layout.memory_order(loc):
        return None
    z = torch.empty(loc.shape, device="meta")
    plan = layout.plan((), loc.shape, (loc.stride(), scale.stride(), z.stride()), 3)
    strides = (loc_strides, scale_strides)
    if plan is None:
        return Geometry(loc.shape, True, (1, loc.numel()), (0, 1), (0, 1), shift, strides)
    of_loc, of_scale, of_z = plan.strides
    if of_loc is None or of_scale is None or of_z is None:
        return None
    return Geometry(loc.shape, False, plan.size, of_loc, of_scale, shift, strides)


class Call(NamedTuple):
    """What a call computes, and by which backend."""

    backend: ModuleType
    kind: int
    low: float
    high: float
    weight: float
    reduction: str | None  # None: no KL
    dim: int
    geometry: Geometry
    sample: bool = True

    def general_backward(
        self,
        backend: ModuleType,
        needs: Sequence[bool],
        grads: Sequence[Tensor | None],
        key: Tensor,
        inputs: Sequence[Tensor],
    ) -> tuple[Tensor | None, ...]:
        """The backward pass where it is not of the usual kind."""
        from .gaussian import latent_backward  # which imports this

        loc, *scale = inputs
        grad_z = grads[0] if self.sample else None
        grad_kl = None if self.reduction is None else grads[-1]
        found = latent_backward(
            functools.partial(gaussian_call.backward, backend),
            grad_z,
            grad_kl,
            Inputs(loc, scale[0] if scale else None, key, None),
            Spec([], self.kind, self.low, self.high, self.reduction, self.sample, self.dim),
            (needs[0], bool(scale) and needs[1], False),
        )
        return found[: len(inputs)]
