"""Gumbel-softmax: from tensors to the launch of a variant, as in `calls`."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import triton

from ...families.categorical import ONE_HOT
from .gaussian import _NO_KEY, _key
from .kernels import softmax_backward as backward
from .kernels import softmax_forward as forward
from .kernels.softmax_tiles import CONTIGUOUS, STRIDED, STRIDED_AGAIN, WIDE, WIDE_AGAIN
from .launch import Variant, math_form
from .shapes import MANY_GROUPS

Size = tuple[int, int, int]  # outers, classes, inners
Strides = tuple[int, int, int]

# For each thread, so many elements of a tile: 16 float32 registers for each tensor.
_PER_THREAD = {2: 16, 4: 16, 8: 8}
_MOST_WARPS = 16
_WARP = 64 if torch.version.hip else 32
_MANY_THREADS = MANY_GROUPS // 4
_FEW_PROGRAMS = 512  # fewer get more warps, and narrower tiles that make more of them
_LINE, _SECTOR = 128, 32  # bytes: what one access of a warp should fill, and what it must


class Tile(NamedTuple):
    """What `softmax_tiles` cuts a tensor by."""

    inner: int  # IN
    shape: Size  # A, B, C
    vector: int
    tail: int
    wide_index: bool
    programs: int
    chunks: int  # 1: resident
    warps: int


def _power(n: int) -> int:
    return triton.next_power_of_2(n)


def tile_of(size: Size, itemsize: int, warp: int) -> Tile:
    """`warp`: threads in one."""
    return (_rows if size[2] == 1 else _columns)(size, itemsize, warp)


def _chunk_warps(programs: int) -> int:
    return _MOST_WARPS if programs < _FEW_PROGRAMS else 8


def _rows(size: Size, itemsize: int, warp: int) -> Tile:
    """Rows of consecutive classes, several to a program where they are short."""
    outers, classes, _ = size
    vector = 16 // itemsize
    aligned = classes % vector == 0
    cover = classes // vector if aligned else (classes + vector - 2) // vector + 1
    each = _PER_THREAD[itemsize] // vector  # groups that a thread holds
    groups = _power(cover)
    if groups <= each * _MOST_WARPS * warp:
        if outers * groups // each < _MANY_THREADS:
            each = max(1, each // 2)
        # The threads of a row exchange what they find: it gets no more of them than it needs. Rows
        # within a warp lie side by side.
        warps = min(max(1 if groups > warp else 4, groups // (each * warp)), _MOST_WARPS)
        rows = max(1, min(each * warps * warp // groups, _power(outers)))
        chunks = 1
    else:
        rows, warps = 1, _chunk_warps(outers)
        groups = each * warps * warp
        chunks = -(-cover // groups)
    exact = aligned and cover == groups * chunks and outers % rows == 0
    tail = 0 if exact else 1 if aligned else 2
    return Tile(2, (rows, groups, vector), vector, tail, False, -(-outers // rows), chunks, warps)


def _columns(size: Size, itemsize: int, warp: int) -> Tile:
    """Classes that lie apart: a tile is as many neighbouring inner elements as make a line."""
    outers, classes, inners = size
    vectors = [16 // itemsize, 4, 1] if itemsize < 8 else [2, 1]
    vector = next(v for v in vectors if inners % v == 0)
    line, sector = _LINE // itemsize, _SECTOR // itemsize
    extent = _power(classes)
    each = _PER_THREAD[itemsize] * warp  # elements that a warp holds
    width = min(line, _power(inners))

    def programs() -> int:
        return outers * -(-inners // width)

    while width > sector and (extent * width > _MOST_WARPS * each or programs() < _FEW_PROGRAMS):
        width //= 2
    if extent * width <= _MOST_WARPS * each:
        while extent * width < 4 * each and width < inners:
            width *= 2
        warps = max(4, extent * width // each)
        held = extent
    else:
        warps = _chunk_warps(programs())
        held = warps * each // width
    lanes = min(max(1, warps * warp * vector // width), held)
    chunks = -(-classes // held)
    tail = 0 if classes == held * chunks and inners % width == 0 else 1
    shape = (held // lanes, lanes, width)
    return Tile(0, shape, vector, tail, classes * inners >= 1 << 31, programs(), chunks, warps)


def _form(size: Size, strides: Strides | None, tile: Tile, distinct: int = 0) -> int:
    """How a tensor of these strides is read; None for no tensor. A dim of one has any stride.

    ``distinct``: how many outers it has, where it has fewer and repeats.
    """
    if strides is None:
        return CONTIGUOUS.value
    outer, label, inner = (0 if n == 1 else s for n, s in zip(size, strides, strict=True))
    _, classes, inners = size
    dense = (classes * inners, inners, 1)
    again = 0 < distinct < size[0]
    if not again and all(n == 1 or s == d for n, s, d in zip(size, strides, dense, strict=True)):
        return CONTIGUOUS.value
    if tile.inner == 2:
        wide = tile.tail < 2 and (label == 1 or classes == 1) and outer % tile.vector == 0
    else:
        wide = inner == 1 and label % tile.vector == 0 and outer % tile.vector == 0
    if again:
        return (WIDE_AGAIN if wide else STRIDED_AGAIN).value
    return (WIDE if wide else STRIDED).value


def _repeated(logits: torch.Tensor, outers: int) -> torch.Tensor:
    """Logits that stand for more outers than they have: as many, where 32 bits can't count them."""
    return logits if outers < 1 << 31 else logits.repeat(outers // logits.shape[0], 1, 1)


def _constexprs(tile: Tile) -> tuple:
    return tile.inner, *tile.shape, tile.vector, tile.tail, tile.wide_index


def _each(control: torch.Tensor | None) -> bool:
    """Whether every variable has a number of its own."""
    return control is not None and control.numel() > 1


@functools.lru_cache(maxsize=1024)
def _forward(
    device: torch.device,
    dtype: torch.dtype,
    size: Size,
    distinct: int,
    strides: Strides,
    mode: int,
    each: bool,
    mixed: bool,
    key_mode: int,
    given: tuple[bool, ...],
) -> tuple[Variant, tuple[int, ...]]:
    """`given`: which of noise, y, soft, kl and control are not None."""
    tile = tile_of(size, dtype.itemsize, _WARP)
    constexprs = (
        key_mode, mode, each, mixed, tile.chunks == 1, *_constexprs(tile),
        _form(size, strides, tile, distinct),
        dtype == torch.float64, math_form(device, 16 // dtype.itemsize),
    )  # fmt: skip
    variant = Variant(forward.softmax_forward_kernel, device, tile.programs, constexprs, tile.warps)
    return variant, (*size, tile.chunks, *strides, distinct)


def softmax_forward(
    mode, tau, unimix, logits, key, noise, y, soft, kl, control=None
) -> None:  # fmt: skip
    key_mode, bits, state, seed, offset = _key(key) if y is not None else _NO_KEY
    outers, (_, classes, inners) = (kl if y is None else y).shape[0], logits.shape
    if logits.shape[0] < outers:
        logits = _repeated(logits, outers)
    variant, head = _forward(
        logits.device, logits.dtype, (outers, classes, inners), logits.shape[0], logits.stride(),
        mode, _each(control),
        mode == ONE_HOT and (control is not None or unimix > 0.0) and y is not None, key_mode,
        (noise is not None, y is not None, soft is not None, kl is not None, control is not None),
    )  # fmt: skip
    variant.launch(
        (logits, bits, *state, noise, y, soft, kl, control),
        (*head, seed, offset, 1.0 / tau, 1.0 - unimix, unimix / classes,
         math.log(classes)),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _backward(
    device: torch.device,
    dtype: torch.dtype,
    size: Size,
    distinct: int,
    strides: Strides,
    grad_strides: Strides | None,
    each: bool,
    given: tuple[bool, ...],
) -> tuple[Variant, tuple[int, ...]]:
    """`given`: whether grad_kl, soft and control are not None."""
    tile = tile_of(size, dtype.itemsize, _WARP)
    constexprs = (
        each, tile.chunks == 1, *_constexprs(tile), _form(size, strides, tile, distinct),
        _form(size, grad_strides, tile), dtype == torch.float64,
        math_form(device, 16 // dtype.itemsize),
    )  # fmt: skip
    variant = Variant(
        backward.softmax_backward_kernel, device, tile.programs, constexprs, tile.warps
    )
    head = *size, tile.chunks, *strides, distinct
    return variant, (*head, *(grad_strides or (0, 0, 0)))


def softmax_backward(
    mode, tau, unimix, grad_y, grad_kl, logits, soft, grad_logits, control=None
) -> None:  # fmt: skip
    if mode == ONE_HOT or grad_y is None:
        soft = None
    outers, (_, classes, inners) = grad_logits.shape[0], logits.shape
    if logits.shape[0] < outers:
        logits = _repeated(logits, outers)
    variant, head = _backward(
        logits.device, logits.dtype, (outers, classes, inners), logits.shape[0], logits.stride(),
        None if grad_y is None else grad_y.stride(), _each(control),
        (grad_kl is not None, soft is not None, control is not None),
    )  # fmt: skip
    factor = 1.0 - unimix if mode == ONE_HOT else 1.0 / tau
    variant.launch((grad_y, grad_kl, logits, soft, grad_logits, control), (*head, factor))
