"""The forward kernel of the element-wise families: samples and their terms in one pass."""

# Triton reads the annotations "i64" and "fp64" as the types of numbers.
# ruff: noqa: F821

import triton
import triton.language as tl

from .approx import narrow, widen
from .bases import STUDENT_T_DF, base_tile
from .gaussian_forward import KL_EACH, KL_NONE, store_kl
from .keys import GRAPH, NONE, derive_key, read_key
from .scale import clamp
from .tiles import DENSE, flat_mask, flat_tile, locate, row_and_column, segment_mask, segment_tile


@triton.jit
def load_rows(
    pointer, start, group, mask, row, column, row_stride, column_stride,
    VEC: tl.constexpr, LAYOUT: tl.constexpr, WIDE: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    at = locate(
        pointer, start, group, row, column, row_stride, column_stride, VEC, LAYOUT, WIDE
    )  # fmt: skip
    return widen(tl.load(at, mask=mask), MATH)


@triton.jit
def sample_shift(k, n, ALIGNED: tl.constexpr, VEC: tl.constexpr):
    """Where sample k begins among n elements each."""
    shift = k * n
    if ALIGNED:
        shift = tl.multiple_of(shift, VEC)
    return shift


@triton.jit
def store_term(
    term, pointer, shift, factor, start, group, mask, n, length,
    TERM: tl.constexpr, GROUPS: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Store a tile of terms as TERM says, `shift` further on."""
    if TERM != KL_EACH and mask is not None:
        term = tl.where(mask, term, 0.0)
    store_kl(
        term, pointer + shift, tl.full((), factor, term.dtype), start, group, mask, n, length,
        TERM, GROUPS, Q, VEC,
    )  # fmt: skip


@triton.jit
def one_sample(
    k, p, s, n, eps, z, term0, term1, seed, offset, start, group, mask, row, column,
    eps_row, eps_column, size, length, count, factor,
    PREPARE: tl.constexpr, SAMPLE: tl.constexpr, BASE: tl.constexpr, KIND: tl.constexpr,
    TERM: tl.constexpr, ONE_SAMPLE: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr,
    LAYOUT: tl.constexpr, UNIT: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr,
    MATH: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """Sample k's tile of z, and of the terms that depend on its noise.

    p, s, n: the parameters, what is prepared of them, and the constants (see `families`).
    """
    EXACT: tl.constexpr = VEC == 4
    first = start if ONE_SAMPLE else start + sample_shift(k, size, ALIGNED, VEC)
    if eps is None:
        df = p[2] if BASE == STUDENT_T_DF else n[0]
        noise = base_tile(seed, offset, first, group, df, n[1], BASE, ALIGNED, Q, VEC, MATH)
    elif ONE_SAMPLE:
        noise = load_rows(
            eps, start, group, mask, row, column, eps_row, eps_column, VEC, LAYOUT, UNIT & 16, MATH
        )
    else:
        noise = load_rows(eps, first, group, mask, 0, 0, 0, 0, VEC, DENSE, 0, MATH)
    if PREPARE is None:
        drawn = SAMPLE(p[0], p[1], p[2], noise, n[0], n[1], n[2], n[3], n[4], EXACT, MATH)
    else:
        drawn, first_term, second_term = SAMPLE(
            p, s, noise, n, GIVEN, KIND, EXACT, MATH
        )  # fmt: skip
    if z is not None:
        at = locate(z, first, group, 0, 0, 0, 0, VEC, DENSE, 0)
        tl.store(at, narrow(drawn, z.dtype.element_ty), mask=mask)
    if TERM != KL_NONE:  # of families that prepare something
        shift = 0 if ONE_SAMPLE else sample_shift(k, count, ALIGNED and TERM == KL_EACH, VEC)
        store_term(
            first_term, term0, shift, factor, start, group, mask, size, length,
            TERM, GROUPS, Q, VEC,
        )  # fmt: skip
        if term1 is not None:
            store_term(
                second_term, term1, shift, factor, start, group, mask, size, length,
                TERM, GROUPS, Q, VEC,
            )  # fmt: skip


@triton.jit
def draw_tile(
    p0, p1, p2, p3, seed, offset, eps, z, term0, term1, size, length, columns, samples, count,
    row0, column0, row1, column1, row2, column2, row3, column3, eps_row, eps_column,
    low, high, m2, m3, m4, m5, m6, factor,
    PREPARE: tl.constexpr, SAMPLE: tl.constexpr, TERM_OF: tl.constexpr, BASE: tl.constexpr,
    KIND: tl.constexpr, PRIOR_KIND: tl.constexpr,
    CLAMP: tl.constexpr, FLOOR: tl.constexpr, SAMPLED: tl.constexpr, TERM: tl.constexpr,
    ONE_SAMPLE: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr, LAYOUT: tl.constexpr,
    UNIT: tl.constexpr, LONG_ROWS: tl.constexpr, WIDE_INDEX: tl.constexpr, TAIL: tl.constexpr,
    Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = tl.float64 if VEC == 2 else tl.float32
    EXACT: tl.constexpr = VEC == 4
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
        b = clamp(b, tl.full((), low, dtype), tl.full((), high, dtype))
    p = a, b, c, d
    n = load_constants(m2, m3, m4, m5, m6, dtype)
    s = None
    if PREPARE is not None:
        s = PREPARE(p, n, KIND, PRIOR_KIND, TERM != KL_NONE, EXACT, MATH)
    if TERM != KL_NONE and not SAMPLED:
        if PREPARE is None:
            term = TERM_OF(p[0], p[1], p[2], p[3], n[0], n[1], n[2], n[3], n[4], EXACT, MATH)
        else:
            term = TERM_OF(p, s, n, KIND, FLOOR, EXACT, MATH)
        store_term(term, term0, 0, factor, start, group, mask, size, length, TERM, GROUPS, Q, VEC)
    TERMS: tl.constexpr = TERM if SAMPLED else KL_NONE
    if z is not None or SAMPLED:
        if ONE_SAMPLE:
            one_sample(
                0, p, s, n, eps, z, term0, term1, seed, offset, start, group, mask, row, column,
                eps_row, eps_column, size, length, count, factor,
                PREPARE, SAMPLE, BASE, KIND, TERMS, ONE_SAMPLE, ALIGNED, GROUPS, LAYOUT, UNIT, Q,
                VEC, MATH, GIVEN,
            )  # fmt: skip
        else:
            for k in range(samples):
                one_sample(
                    k, p, s, n, eps, z, term0, term1, seed, offset, start, group, mask, row, column,
                    eps_row, eps_column, size, length, count, factor,
                    PREPARE, SAMPLE, BASE, KIND, TERMS, ONE_SAMPLE, ALIGNED, GROUPS, LAYOUT, UNIT,
                    Q, VEC, MATH, GIVEN,
                )  # fmt: skip


@triton.jit
def load_parameters(
    p0, p1, p2, p3, start, group, mask, row, column, row0, column0, row1, column1, row2, column2,
    row3, column3,
    LAYOUT: tl.constexpr, UNIT: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The tiles of four parameters; in place of one that the family has not, the first again."""
    a = load_rows(p0, start, group, mask, row, column, row0, column0, VEC, LAYOUT, UNIT & 1, MATH)
    b = a
    c = a
    d = a
    if p1 is not None:
        b = load_rows(
            p1, start, group, mask, row, column, row1, column1, VEC, LAYOUT, UNIT & 2, MATH
        )
    if p2 is not None:
        c = load_rows(
            p2, start, group, mask, row, column, row2, column2, VEC, LAYOUT, UNIT & 4, MATH
        )
    if p3 is not None:
        d = load_rows(
            p3, start, group, mask, row, column, row3, column3, VEC, LAYOUT, UNIT & 8, MATH
        )
    return a, b, c, d


@triton.jit
def load_constants(m2, m3, m4, m5, m6, dtype: tl.constexpr):
    """n2 .. n6, in the type that the kernel computes in."""
    return (
        tl.full((), m2, dtype),
        tl.full((), m3, dtype),
        tl.full((), m4, dtype),
        tl.full((), m5, dtype),
        tl.full((), m6, dtype),
    )


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
        "seed",
        "offset",
    ]
)
def elementwise_forward_kernel(
    p0, p1, p2, p3, key, state_seed, state_offset, eps, z, term0, term1,
    n: "i64", length: "i64", columns: "i64", samples: "i64", count: "i64",
    row0: "i64", column0: "i64", row1: "i64", column1: "i64", row2: "i64", column2: "i64",
    row3: "i64", column3: "i64", eps_row: "i64", eps_column: "i64", seed: "i64", offset: "i64",
    low: "fp64", high: "fp64", m2: "fp64", m3: "fp64", m4: "fp64", m5: "fp64", m6: "fp64",
    factor: "fp64",
    PREPARE: tl.constexpr, SAMPLE: tl.constexpr, TERM_OF: tl.constexpr, BASE: tl.constexpr,
    KIND: tl.constexpr, PRIOR_KIND: tl.constexpr,
    CLAMP: tl.constexpr, FLOOR: tl.constexpr, SAMPLED: tl.constexpr, TERM: tl.constexpr,
    KEY: tl.constexpr, ONE_SAMPLE: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr,
    LAYOUT: tl.constexpr, UNIT: tl.constexpr, LONG_ROWS: tl.constexpr, WIDE_INDEX: tl.constexpr,
    TAIL: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """One tile of the parameters (n elements), of every sample of z and of the terms.

    PREPARE, SAMPLE, TERM_OF: the family's functions (see `families`).

    p0 .. p3 (None: the family has fewer): n elements, LAYOUT and strides as in `tiles`; so is eps
    (None: from key) if there is ONE_SAMPLE sample, else it has `samples * n` consecutive elements,
    as z
    always (None: not wanted). key, state_seed, state_offset, seed, offset: as in
    `gaussian_forward_kernel`.
    low .. m6: the family's constants. term0, term1 (None: not wanted): TERM says how, as
    `forward`'s KL; where the terms depend on the noise (SAMPLED) each sample has `count` of them.
    ALIGNED: n is a multiple of VEC, or there is ONE_SAMPLE sample.
    """
    n = tl.cast(n, tl.int64)
    length = tl.cast(length, tl.int64)
    columns = tl.cast(columns, tl.int64)
    count = tl.cast(count, tl.int64)
    if KEY == GRAPH:
        seed, offset = derive_key(key, state_seed, state_offset, offset)
    else:
        seed, offset = read_key(key, seed, offset, KEY)
    # Masks cost instructions and wide accesses: in the last tile only.
    MASKED: tl.constexpr = TAIL > 0 and GROUPS == 0
    full = True
    if MASKED:
        full = (tl.program_id(0).to(tl.int64) + 1) * (Q * VEC) <= n
    if full:
        draw_tile(
            p0, p1, p2, p3, seed, offset, eps, z, term0, term1, n, length, columns, samples,
            count, row0, column0, row1, column1, row2, column2, row3, column3, eps_row, eps_column,
            low, high, m2, m3, m4, m5, m6, factor,
            PREPARE, SAMPLE, TERM_OF, BASE, KIND, PRIOR_KIND, CLAMP, FLOOR, SAMPLED, TERM,
            ONE_SAMPLE,
            ALIGNED, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX, 0 if MASKED else TAIL, Q, VEC,
            MATH, KEY == NONE,
        )  # fmt: skip
    else:
        draw_tile(
            p0, p1, p2, p3, seed, offset, eps, z, term0, term1, n, length, columns, samples,
            count, row0, column0, row1, column1, row2, column2, row3, column3, eps_row, eps_column,
            low, high, m2, m3, m4, m5, m6, factor,
            PREPARE, SAMPLE, TERM_OF, BASE, KIND, PRIOR_KIND, CLAMP, FLOOR, SAMPLED, TERM,
            ONE_SAMPLE,
            ALIGNED, GROUPS, LAYOUT, UNIT, LONG_ROWS, WIDE_INDEX, TAIL, Q, VEC, MATH,
            KEY == NONE,
        )  # fmt: skip
