"""Which elements of [outers, classes, inners] a program of the `rows` kernels takes.

A tile has three dims. With one inner element (IN == 2) it is [R, G, VEC]: R rows of classes, G
groups of VEC consecutive elements of each. Groups are counted from a multiple of VEC in the output,
so that they are the noise's own and a wide access even where rows begin inside one; elements beside
the row are masked. With more (IN == 0) it is [K, L, B]: K * L classes of B neighbouring inner
elements. Dim IN lies within a thread, so reducing it costs no exchange: a *lane* is an element of
the tile without that dim, a *row* what is reduced over both.

Longer rows are walked in chunks of G groups, or of K * L classes.

TAIL: 0 the tile lies inside the tensor, 1 a group of VEC lies wholly inside or outside, 2 any
element may be outside.
FORM of a tensor: CONTIGUOUS, as y is; WIDE, strided, but a group is one wide access; STRIDED.
"""

# A Triton function returns from every branch or from none.
# ruff: noqa: RET505

import triton
import triton.language as tl

from .approx import INTERPRETED, LOG2E, narrow, widen
from .uniform import first_block, gumbel_log2, uniform_at, uniform_groups

CONTIGUOUS: tl.constexpr = tl.constexpr(0)
WIDE: tl.constexpr = tl.constexpr(1)
STRIDED: tl.constexpr = tl.constexpr(2)
_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def outer_and_inner(inners, C: tl.constexpr):
    """Where this program's C inner elements begin, int64. A division of 64 bits would be a call."""
    across = ((inners + (C - 1)) // C).to(tl.int32)  # no more than there are programs
    outer = tl.program_id(0) // across
    begin = tl.program_id(0) - outer * across
    return outer.to(tl.int64), begin.to(tl.int64) * C


@triton.jit
def place_of(
    chunk, size,
    IN: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
    VEC: tl.constexpr, TAIL: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """(start, group, element, outer, label, inner, mask) of a chunk of this program's [A, B, C].

    start: int64 scalar, a multiple of VEC; group: which groups of VEC after it; element: where each
    element lies after it in the output. outer, label (the class, int32), inner: its indices. All
    but start are tiles, or broadcast to one. size: (outers, classes, inners), int64. BIG: classes *
    inners does not fit 32 bits.
    """
    outers, classes, inners = size
    if IN == 2:
        length = classes.to(tl.int32)
        first = tl.program_id(0).to(tl.int64) * A
        row = tl.arange(0, A)
        start = first * classes // VEC * VEC
        begin = ((first * classes - start).to(tl.int32) + row * length)[:, None]
        if TAIL < 2:
            begin = tl.multiple_of(begin, [VEC, 1])
        group = begin // VEC + chunk * B + tl.arange(0, B)[None, :]
        element = (group * VEC)[:, :, None] + tl.arange(0, VEC)[None, None, :]
        outer = (first + row)[:, None, None]
        label = element - begin[:, :, None]
        if TAIL == 1:
            mask = (group * VEC - begin < length)[:, :, None] & (outer < outers)
        else:
            mask = (label >= 0) & (label < length) & (outer < outers)
        return start, group, element, outer, label, 0, mask
    else:
        inners = inners // VEC * VEC  # it is a multiple: for the compiler
        outer, begin = outer_and_inner(inners, C)
        start = outer * classes * inners + begin
        label = chunk * (A * B) + (tl.arange(0, A) * B)[:, None] + tl.arange(0, B)[None, :]
        mask = (label < classes)[:, :, None] & (begin + tl.arange(0, C) < inners)[None, None, :]
        step = inners if BIG else inners.to(tl.int32)
        group = (label * (step // VEC))[:, :, None] + tl.arange(0, C // VEC)[None, None, :]
        element = (label * step)[:, :, None] + tl.arange(0, C)[None, None, :]
        inner = (begin + tl.arange(0, C))[None, None, :]
        return start, group, element, outer, label[:, :, None], inner, mask


@triton.jit
def tile_pointers(start, element, IN: tl.constexpr, VEC: tl.constexpr):
    """start + element.

    Of two dims that are not contiguous, Triton 3.6 would cut dim 0 into threads, which is the one
    to lie within a thread, and 3.9 dim 1: columns forward took 71.5 and 47.9 instructions for an
    element on sm_90. The 2 decides it for both. It is not true, but nothing reads it besides: how
    wide an access is comes from the last dim, whose run is longer.
    """
    at = start + element
    if IN == 0 and VEC > 2:
        at = tl.max_contiguous(at, [1, 2, VEC])
    return at


@triton.jit
def load_tile(
    pointer, place, strides, beside: tl.constexpr,
    IN: tl.constexpr, VEC: tl.constexpr, TAIL: tl.constexpr, FORM: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """A tile in the type of the arithmetic; `beside`: what lies outside the tensor."""
    start, _, element, outer, label, inner, mask = place
    outer_stride, class_stride, inner_stride = strides
    if FORM == CONTIGUOUS:
        at = tile_pointers(pointer + start, element, IN, VEC)
    elif FORM == WIDE and IN == 2:
        at = pointer + outer * (outer_stride // VEC * VEC) + label
    elif FORM == WIDE:
        at = pointer + outer * (outer_stride // VEC * VEC)
        at = tile_pointers(at, label * (class_stride // VEC * VEC) + inner, IN, VEC)
    else:
        at = pointer + outer * outer_stride + label * class_stride + inner * inner_stride
    if TAIL > 0:
        return widen(tl.load(at, mask=mask, other=beside), MATH)
    else:
        return widen(tl.load(at), MATH)


@triton.jit
def store_tile(pointer, place, value, IN: tl.constexpr, VEC: tl.constexpr, TAIL: tl.constexpr):
    at = tile_pointers(pointer + place[0], place[2], IN, VEC)
    if TAIL > 0:
        tl.store(at, narrow(value, pointer.dtype.element_ty), mask=place[6])
    else:
        tl.store(at, narrow(value, pointer.dtype.element_ty))


@triton.jit
def gumbel_tile(
    noise, key, place, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
    VEC: tl.constexpr, TAIL: tl.constexpr, DOUBLE: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The noise of a tile times log2(e): from a tensor, or (noise None) from the key, seed and
    offset, and then but for a constant.
    """
    seed, offset = key
    if noise is not None:
        return load_tile(noise, place, (0, 0, 0), 0.0, 2, VEC, TAIL, CONTIGUOUS, MATH) * LOG2E
    elif VEC == 1:
        index = place[0] + place[2]
        v, upper = uniform_at(seed, offset, index, DOUBLE, MATH)
        return gumbel_log2(v, upper, MATH)
    else:
        v, upper = uniform_groups(first_block(offset, place[0], place[1], VEC), seed, VEC, MATH)
        return tl.reshape(gumbel_log2(v, upper, MATH), (A, B, C))


@triton.jit
def larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest(x, AXIS: tl.constexpr, KEEP: tl.constexpr = False):
    """The maximum along a dim, NaN where one is among them: `tl.max` would pass it over."""
    if INTERPRETED:  # it takes a function of one's own number by number
        spoilt = tl.max((x != x).to(tl.int32), AXIS, keep_dims=KEEP) > 0
        found = tl.max(tl.where(x == x, x, -_INFINITY), AXIS, keep_dims=KEEP)
        return tl.where(spoilt, float("nan"), found)
    else:
        return tl.reduce(x, AXIS, larger, keep_dims=KEEP)


# Values of rows are tiles of lanes with the other reduced dim kept: [R, 1] or [1, B].


@triton.jit
def row_max(x, IN: tl.constexpr):
    return largest(x, 1 if IN == 2 else 0, True)


@triton.jit
def row_min(x, IN: tl.constexpr):
    return tl.min(x, 1 if IN == 2 else 0, keep_dims=True)


@triton.jit
def row_sum(x, IN: tl.constexpr):
    return tl.sum(x, 1 if IN == 2 else 0, keep_dims=True)


@triton.jit
def row_values(pointer, size, IN: tl.constexpr, A: tl.constexpr, C: tl.constexpr):
    """(pointers, mask) to one number for each row in [outers, inners]."""
    outers, _, inners = size
    if IN == 2:
        index = (tl.program_id(0).to(tl.int64) * A + tl.arange(0, A))[:, None]
        return pointer + index, index < outers
    else:
        outer, begin = outer_and_inner(inners, C)
        inner = (begin + tl.arange(0, C))[None, :]
        return pointer + outer * inners + inner, inner < inners
