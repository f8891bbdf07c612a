"""The backend's three functions: from tensors to the launches of a variant.

Everything that depends only on shapes, strides, types and options is found once and kept: a call
looks it up, and passes addresses and numbers.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

import torch

from ... import noise
from . import backward, fill, finish, forward, keys
from .launch import Layout, Plan, Variant, layout_of, math_form, plan
from .shapes import MANY_GROUPS

_INF = float("inf")
Rows = tuple[tuple[int, int], tuple[tuple[int, int] | None, ...]] | None  # size, strides


# A key as kernels take it (see `keys`): mode, pointer, a generator's state, seed, offset.
Key = tuple[int, torch.Tensor | None, tuple[torch.Tensor | None, torch.Tensor | None], int, int]
_NO_STATE = (None, None)
_NO_KEY: Key = (keys.GIVEN.value, None, _NO_STATE, 0, 0)


def _key(key: torch.Tensor | noise.HostKey | noise.GraphKey | None) -> Key:
    if key is None:
        return _NO_KEY
    if isinstance(key, noise.HostKey):
        return keys.GIVEN.value, None, _NO_STATE, *key
    if isinstance(key, noise.GraphKey):
        return keys.GRAPH.value, key.bits, (key.seed, key.offset), 0, key.intragraph
    if not key.is_cpu:
        return _loaded(key)
    seed, offset = key.view(torch.int64).tolist()
    return keys.GIVEN.value, None, _NO_STATE, seed, offset


def _loaded(key: torch.Tensor) -> Key:
    return keys.LOADED.value, key, _NO_STATE, 0, 0


def _rows(dense: bool, tensors: tuple[torch.Tensor | None, ...]) -> Rows:
    """Size and strides of tensors that are rows; None when they are dense."""
    if dense:
        return None
    rows, columns = next(t.shape for t in tensors if t is not None)
    strides = tuple(None if t is None else t.stride() for t in tensors)
    return (rows, columns), strides  # type: ignore[return-value]


def _layout(rows: Rows, tensors: int, cut: Plan, vector: int) -> Layout:
    size, strides = rows or (None, (None,) * tensors)
    return layout_of(size, strides, cut.shape, vector)


def _tried(n: int) -> str | None:
    """The tile shape that the environment asks for; only large tensors have a choice."""
    return os.environ.get("FUSED_REPARAM_TRITON_SHAPE") if n >= MANY_GROUPS else None


@functools.lru_cache(maxsize=1024)
def _fill(device: torch.device, dtype: torch.dtype, n: int, mode: int, _: str | None) -> Variant:
    vector = 16 // dtype.itemsize
    cut = plan(n, n, vector, device)
    constants = (mode, cut.tail, cut.shape.groups, vector, math_form(device, vector))
    return Variant(fill.fill_kernel, device, cut.programs, constants, cut.shape.warps)


def normal(key: torch.Tensor, out: torch.Tensor) -> None:
    """Fill `out` (dense) with the key's noise stream, in memory order."""
    n = out.numel()
    mode, bits, _, seed, offset = _key(key)
    variant = _fill(out.device, out.dtype, n, mode, _tried(n))
    variant.launch((bits, out), (n, seed, offset))


class Forward(NamedTuple):
    """A forward pass: its kernel, that kernel's first numbers, and how the KL is finished."""

    variant: Variant
    numbers: tuple[int, ...]  # n, length, columns, strides
    partial: int  # sums that the kernel leaves; 0 where it writes the KL itself
    finish: Variant | None  # adds them up


@functools.lru_cache(maxsize=1024)
def _forward(
    device: torch.device,
    dtype: torch.dtype,
    n: int,
    segments: int,
    kind: int,
    clamped: bool,
    mode: int,
    given: tuple[bool, bool],
    rows: Rows,
    _: str | None,
) -> Forward:
    """`segments`: 0 for no KL; `given`: whether there is an eps, and a z."""
    vector = 16 // dtype.itemsize
    wanted, segments = segments > 0, segments or n
    cut = plan(n, segments, vector, device)
    shape, tile, length = cut.shape, cut.shape.groups * vector, n // segments
    place = _layout(rows, 4, cut, vector)
    slots = 0
    if not wanted:
        kl = forward.KL_NONE
    elif segments == n:
        kl = forward.KL_EACH
    elif cut.segment_groups:
        kl = forward.KL_SEGMENT
    else:
        slots = 1 if segments == 1 or length % tile == 0 else 2
        kl = forward.KL_TILE if slots == 1 else forward.KL_SPLIT
        if slots == 1 and cut.programs == segments:
            slots = 0  # each tile is a whole segment
    constants = (
        mode, kind, clamped, kl.value, cut.segment_groups, place.layout, place.unit, place.long,
        place.big, cut.tail, shape.groups, vector, math_form(device, vector),
    )  # fmt: skip
    last = None
    if slots:
        block = 4096 if cut.programs > 64 * segments else 256
        last = Variant(
            finish.finish_kernel, device, segments, (slots, segments == 1, tile, block),
            8 if block > 256 else 4,
        )  # fmt: skip
    return Forward(
        Variant(forward.forward_kernel, device, cut.programs, constants, shape.warps),
        (n, length, place.columns, *place.strides[:6]),
        cut.programs * slots,
        last,
    )


def gaussian_forward(loc, scale, key, eps, kind, low, high, weight, dense, z, kl) -> None:
    n = loc.numel()
    mode, bits, state, seed, offset = _key(key)
    call = _forward(
        loc.device, loc.dtype, n, 0 if kl is None else kl.numel(), kind,
        low != -_INF or high != _INF, mode, (eps is not None, z is not None),
        _rows(dense, (loc, scale, eps, z)), _tried(n),
    )  # fmt: skip
    target, factor = kl, weight
    if call.finish is not None:
        target, factor = torch.empty(call.partial, dtype=kl.dtype, device=kl.device), 1.0
    call.variant.launch(
        (loc, scale, bits, *state, eps, z, target),
        (*call.numbers, seed, offset, low, high, factor),
    )
    if call.finish is not None:
        tiles = call.variant.programs
        call.finish.launch((target, kl), (tiles, call.numbers[1], weight))


@functools.lru_cache(maxsize=1024)
def _backward(
    device: torch.device,
    dtype: torch.dtype,
    n: int,
    segments: int,
    kind: int,
    clamped: bool,
    mode: int,
    given: tuple[bool, ...],
    rows: Rows,
    _: str | None,
) -> tuple[Variant, tuple[int, ...]]:
    """`segments`: 0 for no gradient of the KL; `given`: which pointers are not None."""
    vector = 16 // dtype.itemsize
    wanted, segments = segments > 0, segments or n
    cut = plan(n, segments, vector, device)
    if not wanted:
        kl = backward.GKL_NONE
    elif segments == n:
        kl = backward.GKL_EACH
    elif segments == 1:
        kl = backward.GKL_ONE
    else:
        kl = backward.GKL_SEGMENT if cut.segment_groups else backward.GKL_SPLIT
    place = _layout(rows, 7, cut, vector)
    constants = (
        mode, kind, clamped, kl.value, cut.segment_groups, place.layout, place.unit, place.long,
        place.big, cut.tail, cut.shape.groups, vector, math_form(device, vector),
    )  # fmt: skip
    variant = Variant(backward.backward_kernel, device, cut.programs, constants, cut.shape.warps)
    return variant, (n, n // segments, place.columns, *place.strides)


def gaussian_backward(
    grad_z, grad_kl, loc, scale, key, eps, kind, low, high, weight, dense, grad_loc, grad_scale
) -> None:
    n = loc.numel()
    segments = 0 if grad_kl is None else grad_kl.numel()
    mode, bits, _, seed, offset = _key(key)
    each = grad_kl if segments == n else None
    variant, numbers = _backward(
        loc.device, loc.dtype, n, segments, kind, low != -_INF or high != _INF, mode,
        (grad_z is not None, eps is not None, grad_loc is not None, grad_scale is not None),
        _rows(dense, (loc, scale, eps, grad_z, grad_loc, grad_scale, each)), _tried(n),
    )  # fmt: skip
    variant.launch(
        (grad_z, grad_kl, loc, scale, bits, eps, grad_loc, grad_scale),
        (*numbers, seed, offset, low, high, weight),
    )
