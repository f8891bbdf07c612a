"""The forward kernel: noise, sample and KL in one pass over the inputs."""

# Triton reads the annotations "i64" and "fp64" as the types of numbers.
# ruff: noqa: F821

import triton
import triton.language as tl

from .approx import narrow, widen
from .box_muller import normal_tile
from .keys import GRAPH, NONE, derive_key, read_key
from .scale import clamp, located, sigma_squares
from .tiles import DENSE, flat_mask, flat_tile, locate, row_and_column, segment_mask, segment_tile

# What becomes of the element-wise KL:
KL_NONE: tl.constexpr = tl.constexpr(0)
KL_EACH: tl.constexpr = tl.constexpr(1)  # stored as it is
KL_TILE: tl.constexpr = tl.constexpr(2)  # one sum for each tile
KL_SPLIT: tl.constexpr = tl.constexpr(
    3
)  # two sums: before and after the segment boundary in the tile
KL_SEGMENT: tl.constexpr = tl.constexpr(4)  # a tile holds whole segments: one sum for each


@triton.jit
def sample_tile(
    loc, scale, seed, offset, eps, z, start, group, mask, low, high, row, column,
    loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, z_row,
    KIND: tl.constexpr, CLAMP: tl.constexpr, KL: tl.constexpr, LAYOUT: tl.constexpr, UNIT:
    tl.constexpr,
    Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """Store z's tile; return twice the element-wise KL (zero outside the mask)."""
    at = locate(loc, start, group, row, column, loc_row, loc_column, VEC, LAYOUT, UNIT & 1)
    mean = tl.load(at, mask=mask)
    at = locate(scale, start, group, row, column, scale_row, scale_column, VEC, LAYOUT, UNIT & 2)
    x = tl.load(at, mask=mask)
    dtype: tl.constexpr = tl.float64 if VEC == 2 else tl.float32
    EXACT: tl.constexpr = VEC == 4
    mean = widen(mean, MATH)
    x = widen(x, MATH)
    if CLAMP:
        x = clamp(x, tl.full((), low, dtype), tl.full((), high, dtype))
    sigma, square, log_square = sigma_squares(x, KIND, EXACT, MATH, KL != 0)
    if z is not None:
        if eps is None:
            noise = normal_tile(seed, offset, start, group, Q, VEC, MATH)
        else:
            at = locate(eps, start, group, row, column, eps_row, eps_column, VEC, LAYOUT, UNIT & 4)
            noise = widen(tl.load(at, mask=mask), MATH)
        at = locate(z, start, group, row, column, z_row, 1, VEC, LAYOUT, UNIT & 8)
        drawn = located(mean, sigma, noise, GIVEN)
        tl.store(at, narrow(drawn, z.dtype.element_ty), mask=mask)
    divergence = mean * mean + (square - 1.0) - log_square
    if mask is not None:
        divergence = tl.where(mask, divergence, 0.0)
    return divergence


@triton.jit
def forward_tile(
    loc, scale, seed, offset, eps, z, kl, n, length, columns,
    loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, low, high, factor,
    KIND: tl.constexpr, CLAMP: tl.constexpr, KL: tl.constexpr, GROUPS: tl.constexpr, LAYOUT:
    tl.constexpr,
    UNIT: tl.constexpr, LONG_ROWS: tl.constexpr, WIDE_INDEX: tl.constexpr, TAIL: tl.constexpr,
    Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    mask = None
    if GROUPS > 0:
        start, group, segment, begin = segment_tile(length, Q, VEC, GROUPS)
        if TAIL > 0:
            mask = segment_mask(group, segment, begin, length, n, VEC, TAIL)
    else:
        start, group = flat_tile(Q, VEC)
        if TAIL > 0:
            mask = flat_mask(start, group, n, Q, VEC, TAIL)
    row = 0
    column = 0
    if LAYOUT != DENSE:
        row, column = row_and_column(start, group, columns, VEC, LAYOUT, LONG_ROWS, WIDE_INDEX)
    twice = sample_tile(
        loc, scale, seed, offset, eps, z, start, group, mask, low, high, row, column,
        loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, columns,
        KIND, CLAMP, KL, LAYOUT, UNIT, Q, VEC, MATH, GIVEN,
    )  # fmt: skip
    if KL != KL_NONE:
        multiplier = tl.full((), factor, twice.dtype) * 0.5
        store_kl(twice, kl, multiplier, start, group, mask, n, length, KL, GROUPS, Q, VEC)


@triton.jit
def store_kl(
    each, kl, multiplier, start, group, mask, n, length,
    KL: tl.constexpr, GROUPS: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Each element's number, or their sums as KL says, times the scalar factor."""
    if KL == KL_EACH:
        tl.store(locate(kl, start, group, 0, 0, 0, 0, VEC, DENSE, 0), each * multiplier, mask=mask)
    elif KL == KL_TILE:
        tl.store(kl + tl.program_id(0), tl.sum(each) * multiplier)
    elif KL == KL_SPLIT:
        boundary = tl.minimum((start // length + 1) * length - start, Q * VEC).to(tl.int32)
        before = (group * VEC)[:, None] + tl.arange(0, VEC)[None, :] < boundary
        slot = kl + tl.program_id(0).to(tl.int64) * 2
        tl.store(slot, tl.sum(tl.where(before, each, 0.0)) * multiplier)
        tl.store(slot + 1, tl.sum(tl.where(before, 0.0, each)) * multiplier)
    else:
        ROWS: tl.constexpr = Q // GROUPS
        sums = tl.sum(tl.reshape(each, (ROWS, GROUPS * VEC)), axis=1)
        index = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        tl.store(kl + index, sums * multiplier, mask=index * length < n)


@triton.jit(
    do_not_specialize=[
        "n",
        "length",
        "columns",
        "loc_row",
        "loc_column",
        "scale_row",
        "scale_column",
        "eps_row",
        "eps_column",
        "seed",
        "offset",
    ]
)
def gaussian_forward_kernel(
    loc, scale, key, state_seed, state_offset, eps, z, kl,
    n: "i64", length: "i64", columns: "i64",
    loc_row: "i64", loc_column: "i64", scale_row: "i64", scale_column: "i64", eps_row: "i64",
    eps_column: "i64", seed: "i64", offset: "i64",
    low: "fp64", high: "fp64", factor: "fp64",
    KEY: tl.constexpr, KIND: tl.constexpr, CLAMP: tl.constexpr, KL: tl.constexpr,
    GROUPS: tl.constexpr, LAYOUT: tl.constexpr,
    UNIT: tl.constexpr, LONG_ROWS: tl.constexpr, WIDE_INDEX: tl.constexpr, TAIL: tl.constexpr,
    Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """One tile of z (n elements) and of the KL, times `factor`.

    loc, scale, eps (None: from key), z (None: not wanted): n elements, LAYOUT and strides as in
    `tiles`.
    key, seed, offset: as `keys.read_key` takes them; for GRAPH key, state_seed and state_offset as
    `derive_key` does, offset being the position within the graph.
    kl, by KL: n elements; one number for each tile; two for each tile; one for each segment.
    """
    n = tl.cast(n, tl.int64)
    length = tl.cast(length, tl.int64)
    columns = tl.cast(columns, tl.int64)
    if KEY == GRAPH:
        seed, offset = derive_key(key, state_seed, state_offset, offset)
    else:
        seed, offset = read_key(key, seed, offset, KEY)
    if TAIL > 0 and GROUPS == 0:  # masks cost instructions and wide accesses: in the last tile only
        if (tl.program_id(0).to(tl.int64) + 1) * (Q * VEC) <= n:
            forward_tile(
                loc, scale, seed, offset, eps, z, kl, n, length, columns,
                loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, low, high,
                factor,
                KIND, CLAMP, KL, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX, 0, Q, VEC, MATH,
                KEY == NONE,
            )  # fmt: skip
        else:
            forward_tile(
                loc, scale, seed, offset, eps, z, kl, n, length, columns,
                loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, low, high,
                factor,
                KIND, CLAMP, KL, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX, TAIL, Q, VEC, MATH,
                KEY == NONE,
            )  # fmt: skip
    else:
        forward_tile(
            loc, scale, seed, offset, eps, z, kl, n, length, columns,
            loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, low, high, factor,
            KIND, CLAMP, KL, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX, TAIL, Q, VEC, MATH,
            KEY == NONE,
        )  # fmt: skip
