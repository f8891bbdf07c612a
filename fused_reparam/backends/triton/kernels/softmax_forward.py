"""The forward kernel of Gumbel-softmax: see `families.categorical`.

Rows that fit a program's registers (RESIDENT) are read once, their noise is made once, and y is
written once: 8 bytes and about 42 instructions for each float32 element. Longer ones are walked
twice. The second walk reads the logits and makes the noise again: 4 bytes and 37 instructions more.
Storing what it needs instead would take 8 bytes more (a write and a read), the same exponential,
and is possible in float32 alone: a half-precision y can't hold an unnormalised value. An H100 runs
9 instructions in the time of a byte, so the two come to the same there, and only one of them serves
every type. A one-hot y needs its row's label only: its second walk reads and makes nothing.
"""

# Triton reads the annotations "i64" and "fp64" as the types of numbers, and wants a return in every
# branch or in none.
# ruff: noqa: F821, RET505

import triton
import triton.language as tl

from .approx import LOG2E, exp2
from .keys import GRAPH, derive_key, read_key
from .softmax_tiles import (
    beside,
    control_of,
    gumbel_tile,
    in_row,
    inverse_of,
    larger,
    largest,
    load_tile,
    place_of,
    rounded_sum,
    row_max,
    row_min,
    row_sum,
    row_values,
    store_tile,
)
from .uniform import fast_log, fast_log2

SOFT: tl.constexpr = tl.constexpr(0)
HARD: tl.constexpr = tl.constexpr(1)
ONE_HOT: tl.constexpr = tl.constexpr(2)
_NO_LABEL: tl.constexpr = tl.constexpr(0x7FFFFFFF)
_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def lowest(dtype: tl.constexpr):
    """The most negative number: no finite logit is below it, and it less itself is 0."""
    if dtype == tl.float64:
        return -1.7976931348623157e308
    else:
        return -3.4028234663852886e38


@triton.jit
def shares(x, MATH: tl.constexpr):
    """(exp(x), x exp(x)) for x <= 0, -inf included."""
    e = exp2(x * LOG2E, MATH)
    return e, tl.where(e > 0.0, e * x, 0.0)


@triton.jit
def moved(total, weighted, shift, MATH: tl.constexpr):
    """Sums of `shares` of x as those of x + shift, shift <= 0."""
    factor = exp2(shift * LOG2E, MATH)
    weighted = tl.where(factor > 0.0, (weighted + shift * total) * factor, 0.0)
    return total * factor, weighted


@triton.jit
def score_of(
    x, noise, total, keep, share, IN: tl.constexpr, EACH: tl.constexpr, MIXED: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """In units of ln 2, as noise; the class with the largest is drawn. x: logits less their row's
    largest; total: the row's sum of exp(x).
    """
    if MIXED:  # log of the mixture times the row's total
        even = beside(share, IN, EACH) * total
        return fast_log2(beside(keep, IN, EACH) * exp2(x * LOG2E, MATH) + even, MATH) + noise
    else:
        return x * LOG2E + noise


@triton.jit
def store_kl(
    kl, total, weighted, log_classes, size,
    IN: tl.constexpr, A: tl.constexpr, C: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """From the rows' sums of `shares`."""
    at, inside = row_values(kl, size, IN, A, C)
    tl.store(at, weighted / total - fast_log(total, MATH) + log_classes, mask=inside)


@triton.jit
def store_one_hot(
    y, place, label, best, rate, MODE: tl.constexpr, EACH: tl.constexpr, IN: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    zero = best - best  # NaN where there is no best
    if MODE == HARD:
        zero *= beside(rate, IN, EACH)  # or no temperature
    store_tile(y, place, tl.where(place[7] == label, zero + 1.0, zero), IN, TAIL)


@triton.jit
def resident(
    logits, noise, y, soft, kl, key, size, strides, rate, keep, share, log_classes,
    MODE: tl.constexpr, EACH: tl.constexpr, MIXED: tl.constexpr,
    IN: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, VEC: tl.constexpr,
    TAIL: tl.constexpr, WIDE_INDEX: tl.constexpr, FORM: tl.constexpr, DOUBLE: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """Rows that are one chunk."""
    place = place_of(0, size, IN, A, B, C, VEC, TAIL, WIDE_INDEX)
    x = load_tile(logits, place, strides, -_INFINITY, IN, VEC, TAIL, FORM, MATH)
    top = row_max(largest(x, IN), IN)
    x -= tl.expand_dims(top, IN)
    total = top
    if MIXED or kl is not None:
        e, weighted = shares(x, MATH)
        total = row_sum(tl.sum(e, IN), IN)
        if kl is not None:
            weighted = row_sum(rounded_sum(weighted, IN), IN)
            store_kl(kl, total, weighted, log_classes, size, IN, A, C, MATH)
    if y is not None:
        g = gumbel_tile(noise, key, place, IN, A, B, C, VEC, TAIL, DOUBLE, MATH)
        score = score_of(x, g, tl.expand_dims(total, IN), keep, share, IN, EACH, MIXED, MATH)
        if MIXED and TAIL > 0:  # beside the row there is no share
            score = tl.where(in_row(place, size), score, -_INFINITY)
        best = tl.expand_dims(row_max(largest(score, IN), IN), IN)
        if MODE != SOFT:
            label = tl.where(score == best, place[7], _NO_LABEL)
            label = row_min(tl.min(label, IN), IN)
            label = tl.expand_dims(label, IN)
            store_one_hot(y, place, label, best, rate, MODE, EACH, IN, TAIL)
        if MODE == SOFT or soft is not None:
            e = exp2((score - best) * beside(rate, IN, EACH), MATH)
            e *= 1.0 / tl.expand_dims(row_sum(tl.sum(e, IN), IN), IN)
            if MODE == SOFT:
                store_tile(y, place, e, IN, TAIL)
            if soft is not None:
                store_tile(soft, place, e, IN, TAIL)


@triton.jit
def scan(
    logits, noise, key, size, strides, chunks, given_top, given_total, rate, keep, share,
    SHARES: tl.constexpr, SCORES: tl.constexpr, SUMS: tl.constexpr, LABELS: tl.constexpr,
    EACH: tl.constexpr, MIXED: tl.constexpr,
    IN: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, VEC: tl.constexpr,
    TAIL: tl.constexpr, WIDE_INDEX: tl.constexpr, FORM: tl.constexpr, DOUBLE: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """One walk along the rows: (top, total, weighted, best, sum, label) of each row.

    top: the largest logit, at least given_top. By SHARES total and weighted, the sums of `shares`;
    by SCORES best, the largest score, with SUMS sum, of 2^((score - best) / tau), and with LABELS
    the label of best. Each lane keeps its own, relative to its own top so far, and they are brought
    together at the end: a chunk needs no exchange between threads.
    """
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    zeros = tl.zeros((A, B) if IN == 2 else (B, C), dtype)
    top = zeros + given_top
    total, weighted, sums = zeros, zeros, zeros
    best = zeros + lowest(dtype)
    label = zeros.to(tl.int32)
    for chunk in range(chunks):
        place = place_of(chunk, size, IN, A, B, C, VEC, TAIL, WIDE_INDEX)
        x = load_tile(logits, place, strides, -_INFINITY, IN, VEC, TAIL, FORM, MATH)
        new_top = larger(top, largest(x, IN))
        shift = top - new_top
        top = new_top
        x -= tl.expand_dims(top, IN)
        if SHARES:
            total, weighted = moved(total, weighted, shift, MATH)
            e, product = shares(x, MATH)
            total += tl.sum(e, IN)
            weighted += rounded_sum(product, IN)
        if SCORES:
            g = gumbel_tile(noise, key, place, IN, A, B, C, VEC, TAIL, DOUBLE, MATH)
            score = score_of(x, g, given_total, keep, share, IN, EACH, MIXED, MATH)
            if MIXED and TAIL > 0:
                score = tl.where(in_row(place, size), score, -_INFINITY)
            here = largest(score, IN)
            before = best + shift * LOG2E
            best = larger(before, here)
            if LABELS:
                first = tl.where(score == tl.expand_dims(here, IN), place[7], _NO_LABEL)
                label = tl.where(here > before, tl.min(first, IN), label)
            if SUMS:
                each = exp2((score - tl.expand_dims(best, IN)) * beside(rate, IN, EACH), MATH)
                sums = sums * exp2((before - best) * rate, MATH) + tl.sum(each, IN)
    row_top = row_max(top, IN)
    shift = top - row_top
    total, weighted = moved(total, weighted, shift, MATH)
    best += shift * LOG2E
    row_best = row_max(best, IN)
    # No score is as low as where it began, but those of a row that is -inf throughout.
    row_best = tl.where(row_best > lowest(dtype), row_best, float("nan"))
    sums = row_sum(sums * exp2((best - row_best) * rate, MATH), IN)
    label = row_min(tl.where(best == row_best, label, _NO_LABEL), IN)
    return row_top, row_sum(total, IN), row_sum(weighted, IN), row_best, sums, label


@triton.jit
def chunked(
    logits, noise, y, soft, kl, key, size, strides, chunks, rate, keep, share, log_classes,
    MODE: tl.constexpr, EACH: tl.constexpr, MIXED: tl.constexpr,
    IN: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, VEC: tl.constexpr,
    TAIL: tl.constexpr, WIDE_INDEX: tl.constexpr, FORM: tl.constexpr, DOUBLE: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """Rows of many chunks. The mixture needs its row's total before any score: a third walk."""
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    SAMPLE: tl.constexpr = y is not None
    SUMS: tl.constexpr = MODE == SOFT or soft is not None
    top, total, weighted, best, sums, label = scan(
        logits, noise, key, size, strides, chunks, lowest(dtype), 0.0, rate, keep, share,
        kl is not None or MIXED, SAMPLE and not MIXED, SUMS, MODE != SOFT, EACH, False,
        IN, A, B, C, VEC, TAIL, WIDE_INDEX, FORM, DOUBLE, MATH,
    )  # fmt: skip
    if kl is not None:
        store_kl(kl, total, weighted, log_classes, size, IN, A, C, MATH)
    if MIXED:
        _, _, _, best, sums, label = scan(
            logits, noise, key, size, strides, chunks, top, tl.expand_dims(total, IN), rate, keep,
            share, False, True, False, True, EACH, True,
            IN, A, B, C, VEC, TAIL, WIDE_INDEX, FORM, DOUBLE, MATH,
        )  # fmt: skip
    if SAMPLE:
        inverse = 1.0 / sums
        for chunk in range(chunks):
            place = place_of(chunk, size, IN, A, B, C, VEC, TAIL, WIDE_INDEX)
            if MODE != SOFT:
                store_one_hot(
                    y, place, tl.expand_dims(label, IN), tl.expand_dims(best, IN), rate,
                    MODE, EACH, IN, TAIL,
                )  # fmt: skip
            if SUMS:
                x = load_tile(logits, place, strides, -_INFINITY, IN, VEC, TAIL, FORM, MATH)
                g = gumbel_tile(noise, key, place, IN, A, B, C, VEC, TAIL, DOUBLE, MATH)
                score = score_of(
                    x - tl.expand_dims(top, IN), g, 0.0, keep, share, IN, EACH, False, MATH
                )
                e = exp2((score - tl.expand_dims(best, IN)) * beside(rate, IN, EACH), MATH)
                e *= tl.expand_dims(inverse, IN)
                if MODE == SOFT:
                    store_tile(y, place, e, IN, TAIL)
                if soft is not None:
                    store_tile(soft, place, e, IN, TAIL)


@triton.jit(
    do_not_specialize=[
        "outers", "classes", "inners", "chunks", "outer_stride", "class_stride", "inner_stride",
        "distinct", "seed", "offset",
    ]
)  # fmt: skip
def softmax_forward_kernel(
    logits, key, state_seed, state_offset, noise, y, soft, kl, control,
    outers: "i64", classes: "i64", inners: "i64", chunks: "i64",
    outer_stride: "i64", class_stride: "i64", inner_stride: "i64", distinct: "i64",
    seed: "i64", offset: "i64",
    rate: "fp64", keep: "fp64", share: "fp64", log_classes: "fp64",
    KEY: tl.constexpr, MODE: tl.constexpr, EACH: tl.constexpr, MIXED: tl.constexpr,
    RESIDENT: tl.constexpr,
    IN: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, VEC: tl.constexpr,
    TAIL: tl.constexpr, WIDE_INDEX: tl.constexpr, FORM: tl.constexpr, DOUBLE: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """The rows of one tile.

    logits [distinct, classes, inners]: by FORM and the strides, over and over; noise (None: from
    the key), y, soft: contiguous; kl [outers, inners]. y, soft and kl may be None. key and what
    belongs to it: as in `forward`. rate: 1 / tau; keep: 1 - unimix, and share: unimix / classes,
    for MIXED. control: None, or what replaces tau, or ONE_HOT's unimix: one number, or by EACH
    [outers, inners].
    """
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    size = (tl.cast(outers, tl.int64), tl.cast(classes, tl.int64), tl.cast(inners, tl.int64))
    strides = (outer_stride, class_stride, inner_stride, tl.cast(distinct, tl.int64))
    rate = tl.full((), rate, dtype)
    keep = tl.full((), keep, dtype)
    share = tl.full((), share, dtype)
    if control is not None:
        number = control_of(control, size, EACH, IN, A, C)
        if MODE == ONE_HOT:
            keep, share = 1.0 - number, number / classes
        else:
            rate = inverse_of(number)
    log_classes = tl.full((), log_classes, dtype)
    if KEY == GRAPH:
        seed, offset = derive_key(key, state_seed, state_offset, offset)
    else:
        seed, offset = read_key(key, seed, offset, KEY)
    if RESIDENT:
        resident(
            logits, noise, y, soft, kl, (seed, offset), size, strides, rate, keep, share,
            log_classes, MODE, EACH, MIXED, IN, A, B, C, VEC, TAIL, WIDE_INDEX, FORM, DOUBLE, MATH,
        )  # fmt: skip
    else:
        chunked(
            logits, noise, y, soft, kl, (seed, offset), size, strides, tl.cast(chunks, tl.int32),
            rate, keep, share, log_classes,
            MODE, EACH, MIXED, IN, A, B, C, VEC, TAIL, WIDE_INDEX, FORM, DOUBLE, MATH,
        )  # fmt: skip
