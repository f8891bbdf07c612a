"""The backward kernel of the element-wise families: the noise is made again, the gradients of all
samples are added up in registers and written once.
"""

# Triton reads "i64" as a number's type, and wants a return in every branch or in none.
# ruff: noqa: F821, RET505

import triton
import triton.language as tl

from .approx import narrow
from .bases import STUDENT_T_DF, base_tile
from .elementwise_forward import load_constants, load_parameters, load_rows, sample_shift
from .gaussian_backward import GKL_EACH, GKL_NONE, scaled_gradient
from .keys import read_key
from .scale import clamp
from .tiles import DENSE, flat_mask, flat_tile, locate, row_and_column, segment_mask, segment_tile


@triton.jit
def pull_sample(
    k, sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log, p, s, n, grad_z, grad0,
    grad1, eps, seed, offset, start, group, mask, segment, row, column, gz_row, gz_column, eps_row,
    eps_column, size, length, count, factor,
    PREPARE: tl.constexpr, GRADIENTS: tl.constexpr, BASE: tl.constexpr, KIND: tl.constexpr,
    GTERM: tl.constexpr,
    ONE_SAMPLE: tl.constexpr, ALIGNED: tl.constexpr, LAYOUT: tl.constexpr, UNIT: tl.constexpr,
    Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The sums with sample k's part of the gradients added."""
    EXACT: tl.constexpr = VEC == 4
    if ONE_SAMPLE:
        first = start
        shift = k
    else:
        first = start + sample_shift(k, size, ALIGNED, VEC)
        shift = sample_shift(k, count, ALIGNED and GTERM == GKL_EACH, VEC)
    if eps is None:
        df = p[2] if BASE == STUDENT_T_DF else n[0]
        noise = base_tile(seed, offset, first, group, df, n[1], BASE, ALIGNED, Q, VEC, MATH)
    elif ONE_SAMPLE:
        noise = load_rows(
            eps, start, group, mask, row, column, eps_row, eps_column, VEC, LAYOUT, UNIT & 16, MATH
        )
    else:
        noise = load_rows(eps, first, group, mask, 0, 0, 0, 0, VEC, DENSE, 0, MATH)
    if grad_z is None:
        gz = tl.zeros((Q, VEC), noise.dtype)
    elif ONE_SAMPLE:
        gz = load_rows(
            grad_z, start, group, mask, row, column, gz_row, gz_column, VEC, LAYOUT, UNIT & 32, MATH
        )
    else:
        gz = load_rows(grad_z, first, group, mask, 0, 0, 0, 0, VEC, DENSE, 0, MATH)
    g0 = None
    g1 = None
    if GTERM != GKL_NONE:
        if grad0 is not None:
            g0 = scaled_gradient(
                grad0 + shift, factor, start, group, mask, segment, 0, 0, length, 0, 0, size,
                GTERM, DENSE, 0, Q, VEC,
            )  # fmt: skip
        if grad1 is not None:
            g1 = scaled_gradient(
                grad1 + shift, factor, start, group, mask, segment, 0, 0, length, 0, 0, size,
                GTERM, DENSE, 0, Q, VEC,
            )  # fmt: skip
    if PREPARE is None:
        parts = GRADIENTS(
            p[0], p[1], p[2], noise, gz, n[0], n[1], n[2], n[3], n[4], EXACT, MATH
        )  # fmt: skip
        sum_loc, sum_sigma, sum_prior_loc = added(sum_loc, sum_sigma, sum_prior_loc, parts)
        return sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log
    else:
        sums = sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log
        return GRADIENTS(p, s, noise, gz, g0, g1, sums, n, KIND, EXACT, MATH)


@triton.jit
def added(sum_loc, sum_sigma, sum_prior_loc, parts):
    """The sums with what a family's function gives for its parameters added."""
    return sum_loc + parts[0], sum_sigma + parts[1], sum_prior_loc + parts[2]


@triton.jit
def pull_tile(
    grad_z, grad0, grad1, p0, p1, p2, p3, seed, offset, eps, out0, out1, out2, out3,
    size, length, columns, samples, count,
    row0, column0, row1, column1, row2, column2, row3, column3, eps_row, eps_column,
    gz_row, gz_column, out0_row, out0_column, out1_row, out1_column, out2_row, out2_column,
    out3_row, out3_column, low, high, m2, m3, m4, m5, m6, factor,
    PREPARE: tl.constexpr, GRADIENTS: tl.constexpr, TERM_GRADIENTS: tl.constexpr,
    ZEROS: tl.constexpr, FINISH: tl.constexpr,
    BASE: tl.constexpr, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr,
    CLAMP: tl.constexpr, FLOOR: tl.constexpr, SAMPLED: tl.constexpr, GTERM: tl.constexpr,
    ONE_SAMPLE: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr, LAYOUT: tl.constexpr,
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
            mask = segment_mask(group, segment, begin, length, size, VEC, TAIL)
    else:
        start, group = flat_tile(Q, VEC)
        if TAIL > 0:
            mask = flat_mask(start, group, size, Q, VEC, TAIL)
    row = 0
    column = 0
    if LAYOUT != DENSE:
        row, column = row_and_column(start, group, columns, VEC, LAYOUT, LONG_ROWS, WIDE_INDEX)
    a, b, c, d = load_parameters(
        p0, p1, p2, p3, start, group, mask, row, column, row0, column0, row1, column1, row2,
        column2, row3, column3, LAYOUT, UNIT, VEC, MATH,
    )  # fmt: skip
    if CLAMP:
        least = tl.full((), low, dtype)
        most = tl.full((), high, dtype)
        outside = (b < least) | (b > most)
        b = clamp(b, least, most)
    p = a, b, c, d
    n = load_constants(m2, m3, m4, m5, m6, dtype)
    s = None
    if PREPARE is not None:
        s = PREPARE(p, n, KIND, PRIOR_KIND, FLOOR, EXACT, MATH)
    sum_loc = tl.zeros((Q, VEC), dtype)
    sum_sigma = sum_loc
    sum_log_sigma = ZEROS(GTERM, Q, VEC, dtype)
    sum_prior_loc = sum_loc
    sum_prior_log = sum_loc
    if grad_z is not None or SAMPLED:
        if ONE_SAMPLE:
            sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log = pull_sample(
                0, sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log, p, s, n,
                grad_z, grad0, grad1, eps, seed, offset, start, group, mask, segment, row, column,
                gz_row, gz_column, eps_row, eps_column, size, length, count, factor,
                PREPARE, GRADIENTS, BASE, KIND, GTERM if SAMPLED else GKL_NONE, ONE_SAMPLE, ALIGNED,
                LAYOUT, UNIT, Q, VEC, MATH,
            )  # fmt: skip
        else:
            for k in range(samples):
                sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log = pull_sample(
                    k, sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log, p, s, n,
                    grad_z, grad0, grad1, eps, seed, offset, start, group, mask, segment, row,
                    column, gz_row, gz_column, eps_row, eps_column, size, length, count, factor,
                    PREPARE, GRADIENTS, BASE, KIND, GTERM if SAMPLED else GKL_NONE, ONE_SAMPLE,
                    ALIGNED, LAYOUT, UNIT, Q, VEC, MATH,
                )  # fmt: skip
    gk = None
    if GTERM != GKL_NONE and not SAMPLED:
        gk = scaled_gradient(
            grad0, factor, start, group, mask, segment, 0, 0, length, 0, 0, size,
            GTERM, DENSE, 0, Q, VEC,
        )  # fmt: skip
    if PREPARE is None:
        if gk is not None:
            parts = TERM_GRADIENTS(
                p[0], p[1], p[2], p[3], gk, n[0], n[1], n[2], n[3], n[4], EXACT, MATH
            )  # fmt: skip
            sum_loc, sum_sigma, sum_prior_loc = added(sum_loc, sum_sigma, sum_prior_loc, parts)
            sum_prior_log = sum_prior_log + parts[3]
        to_a, to_b, to_c, to_d = sum_loc, sum_sigma, sum_prior_loc, sum_prior_log
    else:
        sums = sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log
        to_a, to_b, to_c, to_d = FINISH(
            p, s, gk, sums, n, TERM_GRADIENTS, KIND, PRIOR_KIND, FLOOR, SAMPLED, EXACT, MATH
        )
    if CLAMP:
        to_b = tl.where(outside, 0.0, to_b)
    store_rows(
        out0, to_a, start, group, mask, row, column, out0_row, out0_column, VEC, LAYOUT, UNIT & 64
    )
    store_rows(
        out1, to_b, start, group, mask, row, column, out1_row, out1_column, VEC, LAYOUT, UNIT & 128
    )
    store_rows(
        out2, to_c, start, group, mask, row, column, out2_row, out2_column, VEC, LAYOUT, UNIT & 256
    )
    store_rows(
        out3, to_d, start, group, mask, row, column, out3_row, out3_column, VEC, LAYOUT, UNIT & 512
    )


@triton.jit
def store_rows(
    out, value, start, group, mask, row, column, row_stride, column_stride,
    VEC: tl.constexpr, LAYOUT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Where `out` is wanted."""
    if out is not None:
        at = locate(
            out, start, group, row, column, row_stride, column_stride, VEC, LAYOUT, WIDE
        )  # fmt: skip
        tl.store(at, narrow(value, out.dtype.element_ty), mask=mask)


@triton.jit(
    do_not_specialize=[
        "n",
        "length",
        "columns",
        "samples",
        "count",
        "row0",
        "column0",
        "row1",
        "column1",
        "row2",
        "column2",
        "row3",
        "column3",
        "eps_row",
        "eps_column",
        "gz_row",
        "gz_column",
        "out0_row",
        "out0_column",
        "out1_row",
        "out1_column",
        "out2_row",
        "out2_column",
        "out3_row",
        "out3_column",
        "seed",
        "offset",
    ]
)
def elementwise_backward_kernel(
    grad_z, grad0, grad1, p0, p1, p2, p3, key, eps, out0, out1, out2, out3,
    n: "i64", length: "i64", columns: "i64", samples: "i64", count: "i64",
    row0: "i64", column0: "i64", row1: "i64", column1: "i64", row2: "i64", column2: "i64",
    row3: "i64", column3: "i64", eps_row: "i64", eps_column: "i64", gz_row: "i64",
    gz_column: "i64", out0_row: "i64", out0_column: "i64", out1_row: "i64", out1_column: "i64",
    out2_row: "i64", out2_column: "i64", out3_row: "i64", out3_column: "i64", seed: "i64",
    offset: "i64",
    low: "fp64", high: "fp64", m2: "fp64", m3: "fp64", m4: "fp64", m5: "fp64", m6: "fp64",
    factor: "fp64",
    PREPARE: tl.constexpr, GRADIENTS: tl.constexpr, TERM_GRADIENTS: tl.constexpr,
    ZEROS: tl.constexpr, FINISH: tl.constexpr,
    BASE: tl.constexpr, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr,
    CLAMP: tl.constexpr, FLOOR: tl.constexpr, SAMPLED: tl.constexpr, GTERM: tl.constexpr,
    KEY: tl.constexpr, ONE_SAMPLE: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr,
    LAYOUT: tl.constexpr, UNIT: tl.constexpr, LONG_ROWS: tl.constexpr, WIDE_INDEX: tl.constexpr,
    TAIL: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """One tile of the parameters' gradients out0 .. out3 (n elements; None: not wanted).

    PREPARE .. FINISH: the family's functions (see `families`).
    p0 .. p3, eps, key, seed, offset, the constants, count and ALIGNED: as in
    `elementwise_forward_kernel`.
    grad_z (None: none came) lies as eps does. grad0, grad1 (None: none came): see GTERM, which is
    `backward`'s GKL; consecutive.
    """
    n = tl.cast(n, tl.int64)
    length = tl.cast(length, tl.int64)
    columns = tl.cast(columns, tl.int64)
    count = tl.cast(count, tl.int64)
    seed, offset = read_key(key, seed, offset, KEY)
    # Masks cost instructions and wide accesses: in the last tile only.
    MASKED: tl.constexpr = TAIL > 0 and GROUPS == 0
    full = True
    if MASKED:
        full = (tl.program_id(0).to(tl.int64) + 1) * (Q * VEC) <= n
    if full:
        pull_tile(
            grad_z, grad0, grad1, p0, p1, p2, p3, seed, offset, eps, out0, out1, out2, out3,
            n, length, columns, samples, count,
            row0, column0, row1, column1, row2, column2, row3, column3, eps_row, eps_column,
            gz_row, gz_column, out0_row, out0_column, out1_row, out1_column, out2_row, out2_column,
            out3_row, out3_column, low, high, m2, m3, m4, m5, m6, factor,
            PREPARE, GRADIENTS, TERM_GRADIENTS, ZEROS, FINISH, BASE, KIND, PRIOR_KIND, CLAMP, FLOOR,
            SAMPLED, GTERM, ONE_SAMPLE, ALIGNED, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX,
            0 if MASKED else TAIL, Q, VEC, MATH,
        )  # fmt: skip
    else:
        pull_tile(
            grad_z, grad0, grad1, p0, p1, p2, p3, seed, offset, eps, out0, out1, out2, out3,
            n, length, columns, samples, count,
            row0, column0, row1, column1, row2, column2, row3, column3, eps_row, eps_column,
            gz_row, gz_column, out0_row, out0_column, out1_row, out1_column, out2_row, out2_column,
            out3_row, out3_column, low, high, m2, m3, m4, m5, m6, factor,
            PREPARE, GRADIENTS, TERM_GRADIENTS, ZEROS, FINISH, BASE, KIND, PRIOR_KIND, CLAMP, FLOOR,
            SAMPLED, GTERM, ONE_SAMPLE, ALIGNED, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX,
            TAIL, Q, VEC, MATH,
        )  # fmt: skip
