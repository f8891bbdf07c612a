"""Divergences of location-scale families to their standard members, and log-densities: see
`fused_reparam.families.loc_scale`. The scale is sigma itself.
"""

import math

import triton
import triton.language as tl

from ..approx import exp, log, reciprocal, reciprocal_of_any, sqrt
from ..formulas import finite, in_scales
from ..scale import times
from ..uniform import fast_log

LOG_2: tl.constexpr = tl.constexpr(math.log(2.0))


@triton.jit
def laplace_divergence(
    p, s, n, KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    size = tl.abs(p[0])
    shrunk = exp(-in_scales(size, reciprocal(s[0], MATH)), 1.0, 1.0, EXACT, MATH)
    return s[0] * shrunk + size - 0.5 * s[1] - 1.0


@triton.jit
def laplace_divergence_gradients(
    p, s, gk, found, to_sigma, to_log, n,
    KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    loc, inverse = p[0], reciprocal(s[0], MATH)
    t = in_scales(tl.abs(loc), inverse)
    shrunk = exp(-t, 1.0, 1.0, EXACT, MATH)
    to_loc = found[0] + gk * tl.where(loc >= 0.0, 1.0 - shrunk, shrunk - 1.0)
    return to_loc, found[1] + times(gk, shrunk + shrunk * t - inverse), found[2], found[3]


@triton.jit
def laplace_density_term(
    x, loc, scale, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    size = tl.abs(x - loc) * finite(reciprocal_of_any(scale, MATH))
    return -size - log(scale, MATH) - LOG_2


@triton.jit
def laplace_density_term_gradients(
    x, loc, scale, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    inverse = finite(reciprocal_of_any(scale, MATH))
    slope = times(gk, inverse)
    to_loc = tl.where(x > loc, slope, tl.where(x < loc, -slope, 0.0 * (x - loc)))
    to_scale = times(slope, tl.abs(x - loc) * inverse - 1.0)
    return -to_loc, to_loc, to_scale, 0.0


@triton.jit
def uniform_divergence(
    p, s, n, KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    end = tl.abs(p[0]) + s[0]
    return tl.where(end > 1.0, float("inf"), 0.0 * end - 0.5 * s[1])


@triton.jit
def uniform_divergence_gradients(
    p, s, gk, found, to_sigma, to_log, n,
    KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    end = tl.abs(p[0]) + s[0]
    to_loc = tl.where(end > 1.0, 0.0, 0.0 * end)
    to_scale = tl.where(end > 1.0, 0.0, 0.0 * end - times(gk, reciprocal(s[0], MATH)))
    return found[0] + to_loc, found[1] + to_scale, found[2], found[3]


@triton.jit
def hypotenuse(x, y, MATH: tl.constexpr):
    """sqrt(x^2 + y^2) of numbers that are not negative, whose squares may overflow."""
    most = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    share = tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL) * reciprocal(most, MATH)
    return most * sqrt(1.0 + share * share, MATH)


@triton.jit
def cauchy_divergence(
    p, s, n, KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    distance = hypotenuse(1.0 + s[0], tl.abs(p[0]), MATH)
    return 2.0 * fast_log(0.5 * distance, MATH) - 0.5 * s[1]


@triton.jit
def cauchy_divergence_gradients(
    p, s, gk, found, to_sigma, to_log, n,
    KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    inverse = reciprocal(hypotenuse(1.0 + s[0], tl.abs(p[0]), MATH), MATH)
    twice = 2.0 * gk * inverse
    to_scale = twice * ((1.0 + s[0]) * inverse) - times(gk, reciprocal(s[0], MATH))
    return found[0] + twice * (p[0] * inverse), found[1] + to_scale, found[2], found[3]
