"""The base noise of every family: what `BASES` defines, made from the words of a tile."""

# A Triton function returns from every branch or from none, and knows no `in`.
# ruff: noqa: RET505, SIM109

import math

import triton
import triton.language as tl

from ....families import Family
from ....rng.bases import BASES
from .approx import PI, PTX, cos_sin_pi, exp, expm1, ptx, reciprocal, series, sqrt
from .box_muller import normal_elements, normal_tile
from .uniform import (
    even_odd_words,
    fast_log,
    gumbel,
    log_uniform,
    uniform32,
    uniform64,
    uniform_at,
    uniform_tile,
)

INDEX = {name: index for index, name in enumerate(BASES)}
NORMAL: tl.constexpr = tl.constexpr(INDEX["normal"])
EXPONENTIAL: tl.constexpr = tl.constexpr(INDEX["exponential"])
GUMBEL: tl.constexpr = tl.constexpr(INDEX["gumbel"])
LAPLACE: tl.constexpr = tl.constexpr(INDEX["laplace"])
LOGISTIC: tl.constexpr = tl.constexpr(INDEX["logistic"])
UNIFORM: tl.constexpr = tl.constexpr(INDEX["uniform"])
CAUCHY: tl.constexpr = tl.constexpr(INDEX["cauchy"])
STUDENT_T: tl.constexpr = tl.constexpr(INDEX["student_t"])
# Student's t of degrees of freedom that are a tile.
STUDENT_T_DF: tl.constexpr = tl.constexpr(len(INDEX))
# sin(x) / x in powers of x^2
_SINE: tl.constexpr = tl.constexpr(tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(6)))


def base_index(family: Family) -> int:
    """BASE of a family."""
    return INDEX[family.base] if family.base_parameter is None else STUDENT_T_DF.value  # type: ignore[no-any-return]


def constants(base: str, number: float) -> tuple[float, float]:
    """The two constants that kernels take for base noise: see `student_t`."""
    return (number, -2.0 / number) if base == "student_t" else (0.0, 0.0)


@triton.jit
def sine(x, TERMS: tl.constexpr):
    """sin x by its series: relative error 6e-8 with 6 terms for |x| <= pi / 2, 2e-9 with 5 up to
    pi / 4. The hardware's sine has an absolute error.
    """
    return x * series(x * x, TERMS, _SINE)


@triton.jit
def fast_sqrt(x, MATH: tl.constexpr):
    """`sqrt` of zero or a normal number: there is nothing to scale for subnormal ones."""
    if MATH == PTX:
        return ptx("sqrt.approx.ftz.f32", x)
    else:
        return sqrt(x, MATH)


@triton.jit
def cotangent(v, MATH: tl.constexpr):
    """cot(pi v) for 0 < v <= 1/2."""
    if v.dtype.is_fp64():
        c, s = cos_sin_pi(v, MATH)
        return c / s
    else:  # of the nearer of 0 and pi / 2, so that a series of the sine serves both
        s = sine(tl.minimum(v, 0.5 - v) * PI, 5)
        c = fast_sqrt(1.0 - s * s, MATH)
        low = v < 0.25
        return tl.where(low, c, s) * reciprocal(tl.where(low, s, c), MATH)


@triton.jit
def student_t(v, upper, angle, df, power, MATH: tl.constexpr):
    """t, and of it the power's exponent T and e^T - 1. df: degrees of freedom; power: -2 / df."""
    t = power * log_uniform(v, upper, MATH)
    growth = expm1(t, exp(t, 1.0, 1.0, True, MATH))
    if v.dtype.is_fp64():
        cosine, _ = cos_sin_pi(2.0 * angle, MATH)
    else:  # cos(2 pi v) from its distance to the zero at 1/4
        cosine = sine((0.25 - angle) * (2.0 * PI), 6)
    # Where e^t - 1 is e^t to the last bit, its root is made by quarters: e^t may overflow before
    # the result does.
    FAR: tl.constexpr = 40.0 if v.dtype.is_fp64() else 16.0
    quarter = exp(t, 0.25, 1.0, True, MATH)
    far = fast_sqrt(df, MATH) * cosine * quarter * quarter
    return tl.where(t < FAR, fast_sqrt(df * growth, MATH) * cosine, far), t, growth


@triton.jit
def student_t_and_slope(v, upper, angle, df, MATH: tl.constexpr):
    """The same for a tile of df, NaN where it is not positive, and its derivative in df."""
    df = tl.where(df > 0.0, df, float("nan"))
    drawn, t, growth = student_t(v, upper, angle, df, -2.0 / df, MATH)
    # Half of drawn / df (1 - t / (1 - e^-t)): the divisor is growth / (1 + growth).
    least: tl.constexpr = 1e-300 if v.dtype.is_fp64() else 1e-37
    bounded = tl.maximum(growth, least, propagate_nan=tl.PropagateNan.ALL)
    return drawn, 0.5 * ((1.0 - t / bounded) - t) / df * drawn


@triton.jit
def of_uniform(v, upper, BASE: tl.constexpr, MATH: tl.constexpr):
    if BASE == EXPONENTIAL:
        return -log_uniform(v, upper, MATH)
    elif BASE == GUMBEL:
        return gumbel(v, upper, MATH)
    else:
        if BASE == LAPLACE:
            size = -fast_log(2.0 * v, MATH)
        elif BASE == LOGISTIC:
            size = fast_log(1.0 - v, MATH) - fast_log(v, MATH)
        elif BASE == UNIFORM:
            size = 1.0 - 2.0 * v
        else:
            tl.static_assert(BASE == CAUCHY)
            size = cotangent(v, MATH)
        return tl.where(upper, size, -size)


@triton.jit
def uniform_pairs(
    seed, offset, first, group, Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr
):
    """(v, upper, angle) [Q, VEC]: the uniform of word 2 i, and v of word 2 i + 1, for element i."""
    DOUBLE: tl.constexpr = VEC == 2
    WORDS: tl.constexpr = 8 if DOUBLE else 2 * VEC
    blocks = (first if DOUBLE else first // 2).to(tl.uint64)
    counter = (offset + blocks) + (group * (WORDS // 4)).to(tl.uint64)
    even, odd = even_odd_words(counter, seed, WORDS, MATH)
    if DOUBLE:
        v, upper = uniform64(even, odd)
        v, angle = tl.split(v)
        upper, _ = tl.split(upper)
    else:
        v, upper = uniform32(even)
        angle, _ = uniform32(odd)
    shape: tl.constexpr = (Q, VEC)
    return tl.reshape(v, shape), tl.reshape(upper, shape), tl.reshape(angle, shape)


@triton.jit
def base_tile(
    seed, offset, first, group, df, power,
    BASE: tl.constexpr, ALIGNED: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """[Q, VEC] base noise: row q holds the elements first + VEC * group[q] ... of the key's stream.

    first: int64 scalar, with ALIGNED a multiple of VEC; without it every element makes its own
    block. df, power: as `student_t` takes them; of STUDENT_T_DF df is a tile, and the result has
    its derivative in df too.
    """
    DOUBLE: tl.constexpr = VEC == 2
    index = first + ((group * VEC)[:, None] + tl.arange(0, VEC)[None, :])
    if BASE == NORMAL:
        if ALIGNED:
            return normal_tile(seed, offset, first, group, Q, VEC, MATH)
        else:
            return normal_elements(seed, offset, index, MATH, DOUBLE)
    elif BASE == STUDENT_T or BASE == STUDENT_T_DF:
        if ALIGNED:
            v, upper, angle = uniform_pairs(seed, offset, first, group, Q, VEC, MATH)
        else:
            v, upper = uniform_at(seed, offset, 2 * index, DOUBLE, MATH)
            angle, _ = uniform_at(seed, offset, 2 * index + 1, DOUBLE, MATH)
        if BASE == STUDENT_T_DF:
            return student_t_and_slope(v, upper, angle, df, MATH)
        else:
            drawn, _, _ = student_t(v, upper, angle, df, power, MATH)
            return drawn
    else:
        if ALIGNED:
            v, upper = uniform_tile(seed, offset, first, group, Q, VEC, MATH)
        else:
            v, upper = uniform_at(seed, offset, index, DOUBLE, MATH)
        return of_uniform(v, upper, BASE, MATH)
