"""The backward kernel of Gumbel-softmax: see `families.categorical`. It needs no noise.

Rows that fit a program's registers (RESIDENT) are read once, longer ones twice, because a row's
sums are known at its end only.
"""

# Triton reads the annotations "i64" and "fp64" as the types of numbers.
# ruff: noqa: F821

import triton
import triton.language as tl

from .approx import LOG2E, exp2
from .softmax_forward import lowest, moved, shares
from .softmax_tiles import (
    CONTIGUOUS,
    beside,
    control_of,
    inverse_of,
    larger,
    largest,
    load_tile,
    place_of,
    rounded_sum,
    row_max,
    row_sum,
    row_values,
    store_tile,
)

_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def load_operands(
    grad_y, logits, soft, place, strides, grad_strides, P: tl.constexpr,
    IN: tl.constexpr, VEC: tl.constexpr, TAIL: tl.constexpr, FORM: tl.constexpr,
    GRAD_FORM: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """(logits, grad_y, soft) of a tile; 0 for what is not there or not needed."""
    x, g, stored = 0.0, 0.0, 0.0
    if P:
        x = load_tile(logits, place, strides, -_INFINITY, IN, VEC, TAIL, FORM, MATH)
    if grad_y is not None:
        g = load_tile(grad_y, place, grad_strides, 0.0, IN, VEC, TAIL, GRAD_FORM, MATH)
    if soft is not None:
        stored = load_tile(soft, place, (0, 0, 0, 0), 0.0, IN, VEC, TAIL, CONTIGUOUS, MATH)
    return x, g, stored


@triton.jit
def add_tile(
    x, g, stored, top, total, weighted, dot, P: tl.constexpr, GRAD: tl.constexpr,
    SOFT: tl.constexpr, IN: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The lanes' sums, relative to their top so far: see `softmax_forward.scan`."""
    if P:
        new_top = larger(top, largest(x, IN))
        shift = top - new_top
        e, product = shares(x - tl.expand_dims(new_top, IN), MATH)
        if GRAD and not SOFT:
            dot = dot * exp2(shift * LOG2E, MATH) + rounded_sum(e * g, IN)
        total, weighted = moved(total, weighted, shift, MATH)
        total += tl.sum(e, IN)
        weighted += rounded_sum(product, IN)
        top = new_top
    if GRAD and SOFT:
        dot += rounded_sum(g * stored, IN)
    return top, total, weighted, dot


@triton.jit
def row_sums(
    top, total, weighted, dot, P: tl.constexpr, GRAD: tl.constexpr, SOFT: tl.constexpr,
    IN: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """(top, 1 / total, mean of x - top, dot) of the rows, from those of their lanes."""
    inverse, mean = 0.0, 0.0
    if P:
        row_top = row_max(top, IN)
        shift = top - row_top
        if GRAD and not SOFT:
            dot *= exp2(shift * LOG2E, MATH)
        total, weighted = moved(total, weighted, shift, MATH)
        inverse = 1.0 / row_sum(total, IN)
        mean = row_sum(weighted, IN) * inverse
        top = row_top
    if GRAD:
        dot = row_sum(dot, IN)
        if not SOFT:
            dot *= inverse
    return top, inverse, mean, dot


@triton.jit
def gradient(
    x, g, stored, sums, gk, factor, P: tl.constexpr, GRAD: tl.constexpr, SOFT: tl.constexpr,
    KL: tl.constexpr, IN: tl.constexpr, EACH: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """factor shares (g - dot) + gk p (log p - mean log p); the shares are soft (SOFT) or p."""
    top, inverse, mean, dot = sums
    gradient = 0.0
    if P:
        x -= tl.expand_dims(top, IN)
        p = exp2(x * LOG2E, MATH) * tl.expand_dims(inverse, IN)
    if GRAD:
        # The share first: factor may be 2^126, and where it makes an infinity a share may be zero.
        gradient = (g - tl.expand_dims(dot, IN)) * (stored if SOFT else p)
        gradient *= beside(factor, IN, EACH)
    if KL:
        away = tl.where(p > 0.0, x - tl.expand_dims(mean, IN), 0.0)
        gradient += tl.expand_dims(gk, IN) * p * away
    return gradient


@triton.jit(
    do_not_specialize=[
        "outers", "classes", "inners", "chunks", "outer_stride", "class_stride", "inner_stride",
        "distinct", "grad_outer", "grad_class", "grad_inner",
    ]
)  # fmt: skip
def softmax_backward_kernel(
    grad_y, grad_kl, logits, soft, grad_logits, control,
    outers: "i64", classes: "i64", inners: "i64", chunks: "i64",
    outer_stride: "i64", class_stride: "i64", inner_stride: "i64", distinct: "i64",
    grad_outer: "i64", grad_class: "i64", grad_inner: "i64", factor: "fp64",
    EACH: tl.constexpr, RESIDENT: tl.constexpr,
    IN: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, VEC: tl.constexpr,
    TAIL: tl.constexpr, WIDE_INDEX: tl.constexpr, FORM: tl.constexpr, GRAD_FORM: tl.constexpr,
    DOUBLE: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The rows of one tile.

    logits [distinct, classes, inners], over and over, and grad_y [outers, classes, inners]: by
    FORM, GRAD_FORM and the strides; soft, grad_logits: contiguous; grad_kl [outers, inners]. grad_y
    or grad_kl may be None, and soft is for the gradient of p. factor: 1 / tau, or 1 - unimix;
    control, where it is not None, replaces tau or unimix as in `softmax_forward`.
    """
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    GRAD: tl.constexpr = grad_y is not None
    SOFT: tl.constexpr = soft is not None
    KL: tl.constexpr = grad_kl is not None
    P: tl.constexpr = KL or (GRAD and not SOFT)
    size = (tl.cast(outers, tl.int64), tl.cast(classes, tl.int64), tl.cast(inners, tl.int64))
    strides = (outer_stride, class_stride, inner_stride, tl.cast(distinct, tl.int64))
    grad_strides = (grad_outer, grad_class, grad_inner, 0)
    factor = tl.full((), factor, dtype)
    if control is not None:
        number = control_of(control, size, EACH, IN, A, C)
        factor = inverse_of(number) if SOFT else 1.0 - number
    gk = 0.0
    if KL:
        at, inside = row_values(grad_kl, size, IN, A, C)
        gk = tl.load(at, mask=inside, other=0.0)

    zeros = tl.zeros((A, B) if IN == 2 else (B, C), dtype)
    top = zeros + lowest(dtype)
    total, weighted, dot = zeros, zeros, zeros
    if RESIDENT:
        place = place_of(0, size, IN, A, B, C, VEC, TAIL, WIDE_INDEX)
        x, g, stored = load_operands(
            grad_y, logits, soft, place, strides, grad_strides,
            P, IN, VEC, TAIL, FORM, GRAD_FORM, MATH,
        )  # fmt: skip
        top, total, weighted, dot = add_tile(
            x, g, stored, top, total, weighted, dot, P, GRAD, SOFT, IN, MATH
        )
        sums = row_sums(top, total, weighted, dot, P, GRAD, SOFT, IN, MATH)
        result = gradient(x, g, stored, sums, gk, factor, P, GRAD, SOFT, KL, IN, EACH, MATH)
        store_tile(grad_logits, place, result, IN, TAIL)
    else:
        walks = tl.cast(chunks, tl.int32)
        for chunk in range(walks):
            place = place_of(chunk, size, IN, A, B, C, VEC, TAIL, WIDE_INDEX)
            x, g, stored = load_operands(
                grad_y, logits, soft, place, strides, grad_strides,
                P, IN, VEC, TAIL, FORM, GRAD_FORM, MATH,
            )  # fmt: skip
            top, total, weighted, dot = add_tile(
                x, g, stored, top, total, weighted, dot, P, GRAD, SOFT, IN, MATH
            )
        sums = row_sums(top, total, weighted, dot, P, GRAD, SOFT, IN, MATH)
        for chunk in range(walks):
            place = place_of(chunk, size, IN, A, B, C, VEC, TAIL, WIDE_INDEX)
            x, g, stored = load_operands(
                grad_y, logits, soft, place, strides, grad_strides,
                P, IN, VEC, TAIL, FORM, GRAD_FORM, MATH,
            )  # fmt: skip
            result = gradient(x, g, stored, sums, gk, factor, P, GRAD, SOFT, KL, IN, EACH, MATH)
            store_tile(grad_logits, place, result, IN, TAIL)
