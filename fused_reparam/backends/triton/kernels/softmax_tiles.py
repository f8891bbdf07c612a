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
FORM of a tensor: CONTIGUOUS, as y is; WIDE, strided, but a group is one wide access; STRIDED. Of
logits with fewer outers, which repeat, WIDE_AGAIN and STRIDED_AGAIN.
"""

# A Triton function returns from every branch or from none, and knows no `in`.
# ruff: noqa: RET505, SIM109

import triton
import triton.language as tl

from .approx import INTERPRETED, LOG2E, narrow, widen
from .uniform import first_block, gumbel_log2, uniform_at, uniform_groups

CONTIGUOUS: tl.constexpr = tl.constexpr(0)
WIDE: tl.constexpr = tl.constexpr(1)
STRIDED: tl.constexpr = tl.constexpr(2)
WIDE_AGAIN: tl.constexpr = tl.constexpr(3)
STRIDED_AGAIN: tl.constexpr = tl.constexpr(4)
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
    VEC: tl.constexpr, TAIL: tl.constexpr, WIDE_INDEX: tl.constexpr,
):  # fmt: skip
    """(start, group, element, outer, column, inner, mask, label) of a chunk of this program's
    [A, B, C].

    start: int64 scalar, a multiple of VEC; group: which groups of VEC after it; element: where each
    element lies after it in the output. outer, column (the class, int32), inner: its indices. All
    but start have the shape in which memory is accessed, or are broadcast to it: [A, B, C], and
    [A * B, C] where IN == 0. label: the class again, broadcast to [A, B, C] in any case.
    size: (outers, classes, inners), int64. WIDE_INDEX: classes * inners does not fit 32 bits.

    Columns are accessed in two dims because of three, [K, L, B], the compiler may choose which it
    cuts into threads after B. Triton 3.9 takes L, but 3.6 takes K, which is to lie within a thread:
    then columns take 71.5 instructions for a float32 element forward and 24.4 backward on sm_90,
    where they take 49.1 and 13.1 from [K * L, B], which leaves nothing to choose: threads take L
    neighbouring rows of it, and K times as many are K registers.
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
        return start, group, element, outer, label, 0, mask, label
    else:
        # The number is a multiple of VEC; the compiler sees that only in a product.
        inners = inners // VEC * VEC
        outer, begin = outer_and_inner(inners, C)
        start = outer * classes * inners + begin
        column = (chunk * (A * B) + tl.arange(0, A * B))[:, None]
        inner = (begin + tl.arange(0, C))[None, :]
        mask = (column < classes) & (inner < inners)
        step = inners if WIDE_INDEX else inners.to(tl.int32)
        group = column * (step // VEC) + tl.arange(0, C // VEC)[None, :]
        element = column * step + tl.arange(0, C)[None, :]
        label = chunk * (A * B) + (tl.arange(0, A) * B)[:, None] + tl.arange(0, B)[None, :]
        return start, group, element, outer, column, inner, mask, label[:, :, None]


@triton.jit
def in_row(place, size):
    """Which elements of a tile [A, B, C] are classes of a row. A row outside the tensor has such
    elements too: for these `place` has a mask.
    """
    return (place[7] >= 0) & (place[7] < size[1].to(tl.int32))


@triton.jit
def load_tile(
    pointer, place, strides, beside: tl.constexpr,
    IN: tl.constexpr, VEC: tl.constexpr, TAIL: tl.constexpr, FORM: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """A tile in the type of the arithmetic; `beside`: what lies outside the tensor."""
    start, _, element, outer, column, inner, mask, label = place
    outer_stride, class_stride, inner_stride, distinct = strides
    if FORM > STRIDED:  # in 32 bits: a remainder in 64 would be a call
        outer = (outer.to(tl.int32) % distinct.to(tl.int32)).to(tl.int64)
    if FORM == CONTIGUOUS:
        at = pointer + start + element
    elif (FORM == WIDE or FORM == WIDE_AGAIN) and IN == 2:
        at = pointer + outer * (outer_stride // VEC * VEC) + column
    elif FORM == WIDE or FORM == WIDE_AGAIN:
        at = pointer + outer * (outer_stride // VEC * VEC)
        at += column * (class_stride // VEC * VEC) + inner
    else:
        at = pointer + outer * outer_stride + column * class_stride + inner * inner_stride
    x = tl.load(at, mask=mask, other=beside) if TAIL > 0 else tl.load(at)
    if IN == 0:
        x = tl.reshape(x, (label.shape[0], label.shape[1], x.shape[1]))
    return widen(x, MATH)


@triton.jit
def store_tile(pointer, place, value, IN: tl.constexpr, TAIL: tl.constexpr):
    at = pointer + place[0] + place[2]
    if IN == 0:
        value = tl.reshape(value, at.shape)
    if TAIL > 0:
        tl.store(at, narrow(value, pointer.dtype.element_ty), mask=place[6])
    else:
        tl.store(at, narrow(value, pointer.dtype.element_ty))


@triton.jit
def gumbel_tile(
    noise, key, place, IN: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
    VEC: tl.constexpr, TAIL: tl.constexpr, DOUBLE: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The noise of a tile times log2(e): from a tensor, or (noise None) from the key, seed and
    offset, and then but for a constant.
    """
    seed, offset = key
    if noise is not None:
        return load_tile(noise, place, (0, 0, 0, 0), 0.0, IN, VEC, TAIL, CONTIGUOUS, MATH) * LOG2E
    elif VEC == 1:
        index = place[0] + place[2]
        v, upper = uniform_at(seed, offset, index, DOUBLE, MATH)
        return tl.reshape(gumbel_log2(v, upper, MATH), (A, B, C))
    else:
        v, upper = uniform_groups(first_block(offset, place[0], place[1], VEC), seed, VEC, MATH)
        return tl.reshape(gumbel_log2(v, upper, MATH), (A, B, C))


@triton.jit
def control_of(
    pointer, size, EACH: tl.constexpr, IN: tl.constexpr, A: tl.constexpr, C: tl.constexpr
):
    """One number, or that of each row."""
    if EACH:
        at, inside = row_values(pointer, size, IN, A, C)
        return tl.load(at, mask=inside, other=1.0)
    else:
        return tl.load(pointer)


@triton.jit
def inverse_of(tau):
    """1 / tau, neither of them denormal or infinite; NaN of none above 0."""
    bounded = tl.minimum(tl.maximum(tau, 2.0**-126), 2.0**126)
    return tl.where(tau > 0.0, 1.0 / bounded, float("nan"))


@triton.jit
def beside(x, IN: tl.constexpr, EACH: tl.constexpr):
    """What is one number, or by EACH that of each row, as it broadcasts to a tile."""
    if EACH:
        return tl.expand_dims(x, IN)
    else:
        return x


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
def rounded_sum(x, AXIS: tl.constexpr, KEEP: tl.constexpr = False):
    """The sum along a dim, the same bits in every thread that gets it.

    Threads that share a sum exchange what they have, and each adds the other's to its own. Where
    its own is a product, the compiler contracts product and addition into one instruction, so that
    a thread rounds the other's product, but not its own: their sums differ, and which of them is
    stored is a matter of time. With zero added, it is that addition which is contracted. It costs a
    product nothing, and anything else one addition.
    """
    return tl.sum(x + 0.0, AXIS, keep_dims=KEEP)


@triton.jit
def row_sum(x, IN: tl.constexpr):
    return rounded_sum(x, 1 if IN == 2 else 0, True)


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
