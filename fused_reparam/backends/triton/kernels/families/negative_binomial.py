"""Counts: see `fused_reparam.families.negative_binomial`, which has the names and the formula."""

import triton
import triton.language as tl

from .....families.negative_binomial import FACTOR
from ..approx import exp, log, reciprocal, series, sqrt
from ..scale import softplus_parts, times
from .weibull import _SLOPE, _VALUE

FACTOR_OF_3: tl.constexpr = tl.constexpr(FACTOR[3])
FACTOR_OF_9: tl.constexpr = tl.constexpr(FACTOR[9])
_LOG: tl.constexpr = tl.constexpr(tuple(2 / (2 * k + 3) for k in range(11)))
_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def log_of_both(t, q, MATH: tl.constexpr):
    """log(1 + t), and what it is beyond t, of t and of q = 1 + t, each where it has the digits."""
    near = (t > -0.2928) & (t < 0.4142)
    f = tl.where(near, t, 0.0)
    s = f / (2.0 + f)
    half = 0.5 * f * f
    square = s * s
    beyond = s * (half + square * series(square, 11 if t.dtype.is_fp64() else 5, _LOG)) - half
    LEAST: tl.constexpr = 2.0**-1022 if t.dtype.is_fp64() else 2.0**-126
    q = tl.maximum(tl.where(near, 1.0, q), LEAST, propagate_nan=tl.PropagateNan.ALL)
    found = tl.where(near, t + beyond, log(q, MATH))
    return found, tl.where(near, beyond, found - t)


@triton.jit
def correction(inverse):
    return inverse * series(inverse * inverse, 6, _VALUE)


@triton.jit
def slope(inverse):
    square = inverse * inverse
    return square * series(square, 7, _SLOPE)


@triton.jit
def count_parts(x, mu, theta, MATH: tl.constexpr):
    """(theta, 1 / m, theta / m, mu / m, 1 / (theta + s), 1 / (n + s), log((theta / m) (n + s) /
    (theta + s)), and that beyond the quotient less 1).
    """
    LEAST: tl.constexpr = 2.0**-1000 if x.dtype.is_fp64() else 2.0**-120
    MOST: tl.constexpr = 2.0**900 if x.dtype.is_fp64() else 2.0**100
    SHIFT: tl.constexpr = 9 if x.dtype.is_fp64() else 3
    theta = tl.maximum(theta, LEAST, propagate_nan=tl.PropagateNan.ALL)
    theta = tl.minimum(theta, MOST, propagate_nan=tl.PropagateNan.ALL)
    of_m = 1.0 / (theta + mu)
    share = theta * of_m
    rest = mu * of_m
    upper = (x + theta) + SHIFT
    of_upper = 1.0 / upper
    of_lower = 1.0 / (theta + SHIFT)
    t = (share * (x - mu) - SHIFT * rest) * of_lower
    log_share, beyond = log_of_both(t, share * (upper * of_lower), MATH)
    return theta, of_m, share, rest, of_lower, of_upper, log_share, beyond


@triton.jit
def log_of_rest(x, mu, theta, share, rest, of_last, MATH: tl.constexpr):
    """log((mu / m) (n + s) / (x + s)): minus infinity of a mean of 0."""
    SHIFT: tl.constexpr = 9 if x.dtype.is_fp64() else 3
    q = rest * (((x + theta) + SHIFT) * of_last)
    found, _ = log_of_both(-share * ((x - mu) + SHIFT) * of_last, q, MATH)
    return tl.where(mu == 0.0, -_INFINITY, found)


@triton.jit
def count_value(x, mu, theta, share, rest, of_lower, of_upper, log_share, MATH: tl.constexpr):
    SHIFT: tl.constexpr = 9 if x.dtype.is_fp64() else 3
    n = x + theta
    of_last = 1.0 / (x + SHIFT)
    above = theta * of_lower * (FACTOR_OF_9 if x.dtype.is_fp64() else FACTOR_OF_3)
    below = n * of_upper
    for i in tl.static_range(1, SHIFT):
        above = above * (((theta + i) * of_lower) * ((x + i) * of_last))
        below = below * ((n + i) * of_upper)
    powers = above / below * sqrt((theta + SHIFT) * of_upper * of_last, MATH)
    corrections = correction(of_upper) - (correction(of_lower) + correction(of_last))
    LEAST: tl.constexpr = 2.0**-1022 if x.dtype.is_fp64() else 2.0**-126
    powers = tl.maximum(powers, LEAST, propagate_nan=tl.PropagateNan.ALL)
    others = log(powers, MATH) + corrections
    more = x * log_of_rest(x, mu, theta, share, rest, of_last, MATH) + others
    return theta * log_share + tl.where(x == 0.0, 0.0, more)


@triton.jit
def count_gradients(
    x, mu, theta, of_m, share, rest, of_lower, of_upper, beyond, gk, MATH: tl.constexpr
):
    """Of x, of mu and of theta."""
    SHIFT: tl.constexpr = 9 if x.dtype.is_fp64() else 3
    n = x + theta
    of_last = 1.0 / (x + SHIFT)
    each = (0.5 * of_upper - SHIFT * of_m) * of_lower
    apart = 0.5 * (of_last - of_upper) + (slope(of_last) - slope(of_upper)) - 1.0 / n
    for i in tl.static_range(1, SHIFT):
        each += 1.0 / ((theta + i) * (n + i))
        apart += theta / ((x + i) * (n + i))
    to_theta = beyond + (x * each + x / n / theta) + (slope(of_lower) - slope(of_upper))
    to_x = log_of_rest(x, mu, theta, share, rest, of_last, MATH) + apart
    to_mu = share * tl.where(x == 0.0, -1.0, (x - mu) / tl.where(x == 0.0, 1.0, mu))
    return times(gk, to_x), times(gk, to_mu), gk * to_theta


@triton.jit
def negative_binomial_density_term(
    x, mu, theta, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    theta, _, share, rest, of_lower, of_upper, log_share, _ = count_parts(x, mu, theta, MATH)
    return count_value(x, mu, theta, share, rest, of_lower, of_upper, log_share, MATH)


@triton.jit
def negative_binomial_density_term_gradients(
    x, mu, theta, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    theta, of_m, share, rest, of_lower, of_upper, _, beyond = count_parts(x, mu, theta, MATH)
    to_x, to_mu, to_theta = count_gradients(
        x, mu, theta, of_m, share, rest, of_lower, of_upper, beyond, gk, MATH
    )  # fmt: skip
    return to_x, to_mu, to_theta, 0.0


@triton.jit
def zero_inflated_negative_binomial_density_term(
    x, mu, theta, logits, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    theta, _, share, rest, of_lower, of_upper, log_share, _ = count_parts(x, mu, theta, MATH)
    value = count_value(x, mu, theta, share, rest, of_lower, of_upper, log_share, MATH)
    of_logits, _, _ = softplus_parts(-tl.abs(logits), MATH)
    of_both, _, _ = softplus_parts(-tl.abs(value - logits), MATH)
    low = tl.minimum(logits, 0.0, propagate_nan=tl.PropagateNan.ALL)
    high = tl.maximum(logits, 0.0, propagate_nan=tl.PropagateNan.ALL)
    larger = tl.maximum(value, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(x == 0.0, larger + (of_both - of_logits), value - (high + of_logits))


@triton.jit
def zero_inflated_negative_binomial_density_term_gradients(
    x, mu, theta, logits, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    theta, of_m, share, rest, of_lower, of_upper, log_share, beyond = count_parts(
        x, mu, theta, MATH
    )  # fmt: skip
    apart = theta * log_share - logits
    e = exp(-tl.abs(apart), 1.0, 1.0, EXACT, MATH)
    r = reciprocal(1.0 + e, MATH)
    of_count = tl.where(apart > 0.0, r, e * r)  # of the zeros
    of_others = tl.where(apart > 0.0, e * r, r)
    e = exp(-tl.abs(logits), 1.0, 1.0, EXACT, MATH)
    half = reciprocal(1.0 + e, MATH)
    of_zero = tl.where(logits > 0.0, e * half - of_count, of_others - e * half)
    of_some = -tl.where(logits > 0.0, half, e * half)
    to_value = tl.where(x == 0.0, gk * of_count, gk)
    to_x, to_mu, to_theta = count_gradients(
        x, mu, theta, of_m, share, rest, of_lower, of_upper, beyond, to_value, MATH
    )  # fmt: skip
    return to_x, to_mu, to_theta, gk * tl.where(x == 0.0, of_zero, of_some)
