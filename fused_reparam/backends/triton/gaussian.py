"""The backend's functions but for the draws: from tensors to the launches of a variant.

Everything that depends only on shapes, strides, types and options is found once and kept: a call
looks it up, and passes addresses and scalars.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ...rng import keys as rng_keys
from ..reference.memory import flat
from .kernels import bases, fill, finish, keys
from .kernels import gaussian_backward as backward
from .kernels import gaussian_forward as forward
from .launch import LaunchConfiguration, Layout, Variant, launch_configuration, layout_of, math_form
from .shapes import MANY_GROUPS

_INF = float("inf")
Rows = tuple[tuple[int, int], tuple[tuple[int, int] | None, ...]] | None  # size, strides


# A key as kernels take it (see `keys`): mode, pointer, a generator's state, seed, offset.
Key = tuple[int, torch.Tensor | None, tuple[torch.Tensor | None, torch.Tensor | None], int, int]
_NO_STATE = (None, None)
_GIVEN: int = keys.GIVEN.value
_NO_KEY: Key = (keys.NONE.value, None, _NO_STATE, 0, 0)


def _key(key: torch.Tensor | rng_keys.HostKey | rng_keys.GraphKey | None) -> Key:
    if key is None:
        return _NO_KEY
    if isinstance(key, rng_keys.HostKey):
        return _GIVEN, None, _NO_STATE, *key
    if isinstance(key, rng_keys.GraphKey):
        return keys.GRAPH.value, key.bits, (key.seed, key.offset), 0, key.intragraph
    if not key.is_cpu:
        return _loaded(key)
    # The view of another dtype takes four times as long as all else.
    seed, offset = (key if key.dtype is torch.int64 else key.view(torch.int64)).tolist()
    return _GIVEN, None, _NO_STATE, seed, offset


def _loaded(key: torch.Tensor) -> Key:
    return keys.LOADED.value, key, _NO_STATE, 0, 0


def _rows(dense: bool, tensors: tuple[torch.Tensor | None, ...]) -> Rows:
    """Size and strides of tensors that are rows; None when they are dense."""
    if dense:
        return None
    rows, columns = next(t.shape for t in tensors if t is not None)
    strides = tuple(None if t is None else t.stride() for t in tensors)
    return (rows, columns), strides  # type: ignore[return-value]


def _layout(rows: Rows, tensors: int, config: LaunchConfiguration, vector: int) -> Layout:
    size, strides = rows or (None, (None,) * tensors)
    return layout_of(size, strides, config.shape, vector)


def _tried(n: int) -> str | None:
    """The tile shape that the environment asks for; only large tensors have a choice."""
    return os.environ.get("FUSED_REPARAM_TRITON_SHAPE") if n >= MANY_GROUPS else None


@functools.lru_cache(maxsize=1024)
def _fill(
    device: torch.device, dtype: torch.dtype, n: int, base: str, mode: int, _: str | None
) -> Variant:
    vector = 16 // dtype.itemsize
    config = launch_configuration(n, n, vector, device)
    constexprs = (
        mode, bases.INDEX[base], config.tail, config.shape.groups, vector,
        math_form(device, vector),
    )  # fmt: skip
    return Variant(fill.fill_kernel, device, config.programs, constexprs, config.shape.warps)


def base_noise(base: str, number: float, key: torch.Tensor, out: torch.Tensor) -> None:
    """Fill `out` (dense) with the key's base noise, in memory order."""
    n = out.numel()
    mode, bits, _, seed, offset = _key(key)
    variant = _fill(out.device, out.dtype, n, base, mode, _tried(n))
    variant.launch((bits, out), (n, seed, offset, *bases.constants(base, number)))


def normal(key: torch.Tensor, out: torch.Tensor) -> None:
    """Fill `out` (dense) with the key's noise stream, in memory order."""
    base_noise("normal", 0.0, key, out)


def kl_mode(n: int, segments: int, config: LaunchConfiguration, vector: int) -> tuple[int, int]:
    """`forward`'s KL for sums over segments, and how many sums each program leaves to be finished;
    0 where the kernel writes the sums itself, or for no KL (no segments).
    """
    if segments in (0, n):
        return (forward.KL_EACH if segments else forward.KL_NONE).value, 0
    if config.segment_groups:
        return forward.KL_SEGMENT.value, 0
    tile = config.shape.groups * vector
    if segments == 1 or n // segments % tile == 0:  # no slot where each tile is a whole segment
        return forward.KL_TILE.value, int(config.programs != segments)
    return forward.KL_SPLIT.value, 2


def finish_of(
    device: torch.device,
    segments: int,
    samples: int,
    slots: int,
    config: LaunchConfiguration,
    vector: int,
) -> Variant | None:
    """The kernel that adds up so many sums of each program."""
    if not slots:
        return None
    # 64M elements in one segment leave 32768 sums: what a turn loads is on its way at once.
    sums = config.programs // segments
    block, warps = (256, 4) if sums <= 64 else (4096, 8) if sums <= 4096 else (16384, 32)
    constexprs = (slots, segments == 1, config.shape.groups * vector, block)
    return Variant(finish.finish_kernel, device, segments * samples, constexprs, warps)


def gkl_mode(n: int, segments: int, config: LaunchConfiguration) -> int:
    """`backward`'s GKL for a gradient of so many sums; 0: none came."""
    if segments == 0:
        return backward.GKL_NONE.value
    if segments == n:
        return backward.GKL_EACH.value
    if segments == 1:
        return backward.GKL_ONE.value
    return (backward.GKL_SEGMENT if config.segment_groups else backward.GKL_SPLIT).value


class Forward(NamedTuple):
    """A forward pass: its kernel, that kernel's first scalars, and how the KL is finished."""

    variant: Variant
    head: tuple[int, ...]  # n, length, columns, strides
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
    config = launch_configuration(n, segments or n, vector, device)
    place = _layout(rows, 4, config, vector)
    kl, slots = kl_mode(n, segments, config, vector)
    constexprs = (
        mode, kind, clamped, kl, config.segment_groups, place.layout, place.unit, place.long_rows,
        place.wide_index, config.tail, config.shape.groups, vector, math_form(device, vector),
    )  # fmt: skip
    return Forward(
        Variant(
            forward.gaussian_forward_kernel, device, config.programs, constexprs, config.shape.warps
        ),
        (n, n // (segments or n), place.columns, *place.strides[:6]),
        config.programs * slots,
        finish_of(device, segments, 1, slots, config, vector),
    )


class Launch(NamedTuple):
    """A pass but for what changes from call to call: addresses and the key."""

    variant: Variant
    head: tuple[int, ...]  # the scalars ahead of the key
    tail: tuple[float, ...]  # and behind it
    parameters: tuple[None, ...]  # that the kernel takes and this call has not
    terms: tuple[None, ...]  # likewise
    partial: int = 0  # as in Forward
    finish: Variant | None = None
    finish_scalars: tuple[float, ...] = ()


def gaussian_forward(mode, params, eps, kind, constants, factor, dense, z, terms) -> Launch:
    (loc, scale), (low, high), n = params, constants[:2], params[0].numel()
    segments = terms[0].numel() if terms else 0
    found = _forward(
        loc.device, loc.dtype, n, segments, kind, low != -_INF or high != _INF, mode,
        (eps is not None, z is not None),
        _rows(dense, (loc, scale, eps, None if dense or z is None else flat(z).view(loc.shape))),
        _tried(n),
    )  # fmt: skip
    return forward_launch(found, (low, high), (), terms, 1, segments, factor)


def forward_launch(
    found: Forward,
    scalars: tuple,
    absent: tuple,
    terms: Sequence,
    most: int,
    segments: int,
    factor: float,
) -> Launch:
    """`segments`: of one sample's terms; `most`: terms that the kernel takes."""
    variant, head, partial, finish = found
    at_once = factor if finish is None else 1.0
    return Launch(
        variant, head, (*scalars, at_once), absent, (None,) * (most - len(terms)), partial, finish,
        (variant.programs, head[1], segments, factor),
    )  # fmt: skip


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
    config = launch_configuration(n, segments or n, vector, device)
    place = _layout(rows, 7, config, vector)
    constexprs = (
        mode, kind, clamped, gkl_mode(n, segments, config), config.segment_groups, place.layout,
        place.unit, place.long_rows, place.wide_index, config.tail, config.shape.groups, vector,
        math_form(device, vector),
    )  # fmt: skip
    kernel = backward.gaussian_backward_kernel
    variant = Variant(kernel, device, config.programs, constexprs, config.shape.warps)
    return variant, (n, n // (segments or n), place.columns, *place.strides)


def gaussian_backward(
    mode, grad_z, grad_terms, params, eps, kind, constants, factor, dense, grads
) -> Launch:
    (loc, scale), (low, high), n = params, constants[:2], params[0].numel()
    grad_kl = grad_terms[0] if grad_terms else None
    segments = 0 if grad_kl is None else grad_kl.numel()
    # z and what is element-wise of the KL are consecutive whatever the others are.
    each = grad_kl if segments == n else None
    if each is not None and not dense:
        each = flat(each).view(loc.shape)
    variant, head = _backward(
        loc.device, loc.dtype, n, segments, kind, low != -_INF or high != _INF, mode,
        tuple(t is not None for t in (grad_z, eps, *grads)),
        _rows(dense, (loc, scale, eps, grad_z, *grads, each)), _tried(n),
    )  # fmt: skip
    return Launch(variant, head, (low, high, factor), (), (None,) * (1 - len(grad_terms)))
