"""Which elements a program works on, and where they lie in memory.

A program owns a tile of Q groups of VEC consecutive elements. `start` (int64 scalar) is the index
of the tile's first element, a multiple of VEC; `group` (int32 [Q]) counts groups from there. 64-bit
arithmetic is done once for a program, or once for a group where strides demand it, never for each
element.

FLAT tiles follow one another: program p starts at p * Q * VEC. SEGMENT tiles hold R = Q / GROUPS
whole segments of the KL (`length` elements each), GROUPS groups apiece; where a segment does not
begin at a group's edge, its first and last group are made by two programs and stored by mask.

LAYOUT: DENSE (element i lies at i), ROWS (2-D, groups never cross a row: C % VEC == 0), or
SCATTERED (2-D, any C). Bit k of UNIT says that tensor k's columns are adjacent and its rows start
at a multiple of VEC, so that a group is one wide access.

TAIL: 0 every group is full and inside, 1 a group is wholly inside or outside, 2 any element may be
outside.
"""

# A Triton function returns from every branch or from none.
# ruff: noqa: RET505

import triton
import triton.language as tl

DENSE: tl.constexpr = tl.constexpr(0)
ROWS: tl.constexpr = tl.constexpr(1)
SCATTERED: tl.constexpr = tl.constexpr(2)


@triton.jit
def flat_tile(Q: tl.constexpr, VEC: tl.constexpr):
    """(start, group) of this program's tile in a row of tiles."""
    return tl.program_id(0).to(tl.int64) * (Q * VEC), tl.arange(0, Q)


@triton.jit
def flat_mask(start, group, n, Q: tl.constexpr, VEC: tl.constexpr, TAIL: tl.constexpr):
    """[Q, 1] or [Q, VEC]: which elements lie before n."""
    left = tl.minimum(n - start, Q * VEC).to(tl.int32)
    if TAIL == 1:
        return (group * VEC < left)[:, None]
    else:
        return (group * VEC)[:, None] + tl.arange(0, VEC)[None, :] < left


@triton.jit
def segment_tile(length, Q: tl.constexpr, VEC: tl.constexpr, GROUPS: tl.constexpr):
    """(start, group, segment, begin): the segment (int64 [Q]) that each group serves, and where it
    begins.
    """
    slot = tl.arange(0, Q)
    first = tl.program_id(0).to(tl.int64) * (Q // GROUPS)
    segment = first + slot // GROUPS
    start = first * length // VEC * VEC
    begin = (segment * length - start).to(tl.int32)
    return start, begin // VEC + slot % GROUPS, segment, begin


@triton.jit
def segment_mask(group, segment, begin, length, n, VEC: tl.constexpr, TAIL: tl.constexpr):
    """[Q, 1] or [Q, VEC]: which elements belong to the segment that their group serves."""
    end = begin + length.to(tl.int32)
    inside = segment * length < n
    if TAIL == 1:
        return ((group * VEC < end) & inside)[:, None]
    else:
        element = (group * VEC)[:, None] + tl.arange(0, VEC)[None, :]
        return (element >= begin[:, None]) & (element < end[:, None]) & inside[:, None]


@triton.jit
def row_and_column(
    start,
    group,
    columns,
    VEC: tl.constexpr,
    LAYOUT: tl.constexpr,
    LONG_ROWS: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
):
    """(row, column) as int64, of each group ([Q]) for ROWS, of each element ([Q, VEC]) when
    SCATTERED.

    LONG_ROWS: a row is at least as long as a tile, so that a comparison replaces the division.
    WIDE_INDEX: columns do not fit 32 bits.
    """
    row0 = start // columns
    column0 = start - row0 * columns
    step = group * VEC
    if LAYOUT != ROWS:
        step = step[:, None] + tl.arange(0, VEC)[None, :]
    if WIDE_INDEX:
        place = column0 + step
        width = columns
    else:
        place = column0.to(tl.int32) + step
        width = columns.to(tl.int32)
    if LONG_ROWS:
        carry = (place >= width).to(tl.int32)
        column = tl.where(place >= width, place - width, place)
    else:
        carry = place // width
        column = place - carry * width
    return row0 + carry, column.to(tl.int64)


@triton.jit
def locate(
    pointer, start, group, row, column, row_stride, column_stride, VEC: tl.constexpr, LAYOUT:
    tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """[Q, VEC] pointers to a tile's elements. WIDE: this tensor's bit of UNIT."""
    lane = tl.arange(0, VEC)[None, :]
    if LAYOUT == DENSE:
        return pointer + start + ((group * VEC)[:, None] + lane)
    elif LAYOUT == ROWS:
        if WIDE:
            offset = tl.multiple_of(row * row_stride + column, VEC)
            return pointer + offset[:, None] + lane
        else:
            offset = row * row_stride + column * column_stride
            return pointer + offset[:, None] + lane * column_stride
    else:
        return pointer + row * row_stride + column * column_stride
