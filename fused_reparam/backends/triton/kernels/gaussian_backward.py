"""The backward kernel: makes the noise again and writes the gradients that are asked for."""

# Triton reads "i64" as a number's type, and wants a return in every branch or in none.
# ruff: noqa: F821, RET505

import triton
import triton.language as tl

from .approx import narrow, widen
from .box_muller import normal_tile
from .keys import read_key
from .scale import clamp, derivatives, gradient
from .tiles import DENSE, flat_mask, flat_tile, locate, row_and_column, segment_mask, segment_tile

# Where the incoming gradient of the KL lies:
GKL_NONE: tl.constexpr = tl.constexpr(0)
GKL_EACH: tl.constexpr = tl.constexpr(1)  # one number for each element
GKL_ONE: tl.constexpr = tl.constexpr(2)  # one number
GKL_SPLIT: tl.constexpr = tl.constexpr(3)  # one for each segment, a tile meets at most two
GKL_SEGMENT: tl.constexpr = tl.constexpr(4)  # one for each segment, a tile holds whole segments


@triton.jit
def scaled_gradient(
    grad_kl, factor, start, group, mask, segment, row, column, length, kl_row, kl_column, n,
    GKL: tl.constexpr, LAYOUT: tl.constexpr, UNIT: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """factor * grad_kl for each element: a scalar, or a tile that broadcasts to [Q, VEC]."""
    multiplier = tl.full((), factor, grad_kl.dtype.element_ty)
    if GKL == GKL_ONE:
        return tl.load(grad_kl) * multiplier
    elif GKL == GKL_EACH:
        at = locate(grad_kl, start, group, row, column, kl_row, kl_column, VEC, LAYOUT, UNIT & 64)
        return tl.load(at, mask=mask) * multiplier
    elif GKL == GKL_SPLIT:
        first = start // length
        boundary = tl.minimum((first + 1) * length - start, Q * VEC).to(tl.int32)
        last = tl.minimum(first + 1, n // length - 1)
        before = (group * VEC)[:, None] + tl.arange(0, VEC)[None, :] < boundary
        return tl.where(before, tl.load(grad_kl + first), tl.load(grad_kl + last)) * multiplier
    else:
        inside = segment * length < n
        return (tl.load(grad_kl + segment, mask=inside, other=0.0) * multiplier)[:, None]


@triton.jit
def backward_tile(
    grad_z, grad_kl, loc, scale, seed, offset, eps, grad_loc, grad_scale, n, length, columns,
    loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, gz_row, gz_column,
    gloc_row, gloc_column, gscale_row, gscale_column, gkl_row, gkl_column, low, high, factor,
    KIND: tl.constexpr, CLAMP: tl.constexpr, GKL: tl.constexpr, GROUPS: tl.constexpr, LAYOUT:
    tl.constexpr,
    UNIT: tl.constexpr, LONG_ROWS: tl.constexpr, WIDE_INDEX: tl.constexpr, TAIL: tl.constexpr,
    Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = tl.float64 if VEC == 2 else tl.float32
    EXACT: tl.constexpr = VEC == 4
    segment = 0
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

    if grad_z is not None:
        at = locate(grad_z, start, group, row, column, gz_row, gz_column, VEC, LAYOUT, UNIT & 8)
        dz = widen(tl.load(at, mask=mask), MATH)
    if GKL != GKL_NONE:
        dkl = scaled_gradient(
            grad_kl, factor, start, group, mask, segment, row, column, length, gkl_row, gkl_column,
            n,
            GKL, LAYOUT, UNIT, Q, VEC,
        )  # fmt: skip

    if grad_loc is not None:
        if GKL == GKL_NONE:
            total = dz
        else:
            at = locate(loc, start, group, row, column, loc_row, loc_column, VEC, LAYOUT, UNIT & 1)
            total = widen(tl.load(at, mask=mask), MATH) * dkl
            if grad_z is not None:
                total += dz
        at = locate(
            grad_loc, start, group, row, column, gloc_row, gloc_column, VEC, LAYOUT, UNIT & 16
        )
        tl.store(at, narrow(total, grad_loc.dtype.element_ty), mask=mask)

    if grad_scale is not None:
        at = locate(
            scale, start, group, row, column, scale_row, scale_column, VEC, LAYOUT, UNIT & 2
        )
        x = widen(tl.load(at, mask=mask), MATH)
        if CLAMP:
            floor = tl.full((), low, dtype)
            ceiling = tl.full((), high, dtype)
            outside = (x < floor) | (x > ceiling)
            x = clamp(x, floor, ceiling)
        slope, kl_slope = derivatives(x, KIND, EXACT, MATH)
        drawn = tl.zeros((Q, VEC), dtype)
        if grad_z is not None:
            if eps is None:
                noise = normal_tile(seed, offset, start, group, Q, VEC, MATH)
            else:
                at = locate(
                    eps, start, group, row, column, eps_row, eps_column, VEC, LAYOUT, UNIT & 4
                )
                noise = widen(tl.load(at, mask=mask), MATH)
            drawn = dz * noise
        if GKL == GKL_NONE:
            dkl = 0.0
        zeros: tl.constexpr = grad_z is None or GKL != GKL_ONE
        total = gradient(slope, kl_slope, drawn, dkl, GKL != GKL_NONE, zeros, KIND)
        if CLAMP:
            total = tl.where(outside, 0.0, total)
        at = locate(
            grad_scale, start, group, row, column, gscale_row, gscale_column, VEC, LAYOUT, UNIT & 32
        )
        tl.store(at, narrow(total, grad_scale.dtype.element_ty), mask=mask)


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
        "gz_row",
        "gz_column",
        "gloc_row",
        "gloc_column",
        "gscale_row",
        "gscale_column",
        "gkl_row",
        "gkl_column",
        "seed",
        "offset",
    ]
)
def gaussian_backward_kernel(
    grad_z, grad_kl, loc, scale, key, eps, grad_loc, grad_scale,
    n: "i64", length: "i64", columns: "i64",
    loc_row: "i64", loc_column: "i64", scale_row: "i64", scale_column: "i64", eps_row: "i64",
    eps_column: "i64",
    gz_row: "i64", gz_column: "i64", gloc_row: "i64", gloc_column: "i64", gscale_row: "i64",
    gscale_column: "i64",
    gkl_row: "i64", gkl_column: "i64", seed: "i64", offset: "i64",
    low: "fp64", high: "fp64", factor: "fp64",
    KEY: tl.constexpr, KIND: tl.constexpr, CLAMP: tl.constexpr, GKL: tl.constexpr,
    GROUPS: tl.constexpr, LAYOUT: tl.constexpr,
    UNIT: tl.constexpr, LONG_ROWS: tl.constexpr, WIDE_INDEX: tl.constexpr, TAIL: tl.constexpr,
    Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """One tile of the gradients (n elements).

    grad_z, loc, scale, eps, grad_loc, grad_scale: n elements each, LAYOUT and strides as in
    `tiles`; grad_z, eps, grad_loc, grad_scale may be None. key, seed, offset: as
    `keys.read_key` takes them. grad_kl: see GKL.
    """
    n = tl.cast(n, tl.int64)
    length = tl.cast(length, tl.int64)
    columns = tl.cast(columns, tl.int64)
    seed, offset = read_key(key, seed, offset, KEY)
    if TAIL > 0 and GROUPS == 0:  # masks cost instructions and wide accesses: in the last tile only
        if (tl.program_id(0).to(tl.int64) + 1) * (Q * VEC) <= n:
            backward_tile(
                grad_z, grad_kl, loc, scale, seed, offset, eps, grad_loc, grad_scale, n, length,
                columns,
                loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, gz_row,
                gz_column,
                gloc_row, gloc_column, gscale_row, gscale_column, gkl_row, gkl_column, low, high,
                factor,
                KIND, CLAMP, GKL, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX, 0, Q, VEC, MATH,
            )  # fmt: skip
        else:
            backward_tile(
                grad_z, grad_kl, loc, scale, seed, offset, eps, grad_loc, grad_scale, n, length,
                columns,
                loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, gz_row,
                gz_column,
                gloc_row, gloc_column, gscale_row, gscale_column, gkl_row, gkl_column, low, high,
                factor,
                KIND, CLAMP, GKL, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX, TAIL, Q, VEC, MATH,
            )  # fmt: skip
    else:
        backward_tile(
            grad_z, grad_kl, loc, scale, seed, offset, eps, grad_loc, grad_scale, n, length,
            columns,
            loc_row, loc_column, scale_row, scale_column, eps_row, eps_column, gz_row, gz_column,
            gloc_row, gloc_column, gscale_row, gscale_column, gkl_row, gkl_column, low, high,
            factor,
            KIND, CLAMP, GKL, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX, TAIL, Q, VEC, MATH,
        )  # fmt: skip
