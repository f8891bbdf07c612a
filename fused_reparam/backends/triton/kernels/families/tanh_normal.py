"""A bounded action, the tanh of a Gaussian: see `fused_reparam.families.tanh_normal`.

Constants: the middle and half the distance of both ends, the density's constant, both ends.
"""

import math

import triton
import triton.language as tl

from .....families import HALF_LOG_2PI
from ..approx import exp, expm1, log, reciprocal, reciprocal_of_any
from ..constants import Constants
from ..formulas import tile_zeros, with_sample
from ..scale import clamp, times
from ..uniform import fast_log


def tanh_normal_constants(low, high, lowest, highest):
    half = 0.5 * (highest - lowest)
    constant = math.log(half) + HALF_LOG_2PI + 2.0 * math.log(2.0)
    return Constants((0.5 * (highest + lowest), half, constant, lowest, highest))


@triton.jit
def tanh_normal_draw(
    p, s, eps, n, GIVEN: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    """The action and its log-density."""
    middle, half, constant, lowest, highest = n
    x = p[0] + s[0] * eps
    size = tl.abs(x)
    e = exp(-size, 2.0, 1.0, EXACT, MATH)
    # 1 - e would have no digits left near zero.
    tanh = -expm1(-2.0 * size, e) * reciprocal(1.0 + e, MATH)
    action = clamp(middle + half * tl.where(x >= 0.0, tanh, -tanh), lowest, highest)
    term = 2.0 * (size + fast_log(1.0 + e, MATH)) - 0.5 * (eps * eps + s[1]) - constant
    return action, term, 0.0


@triton.jit
def tanh_normal_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log = sums
    x = p[0] + s[0] * eps
    e = exp(-tl.abs(x), 2.0, 1.0, EXACT, MATH)
    share = reciprocal(1.0 + e, MATH)
    dx = gz * (4.0 * n[1]) * (e * share) * share
    if g0 is not None:
        sum_log_sigma += g0
        tanh = -expm1(-2.0 * tl.abs(x), e) * share
        dx += 2.0 * g0 * tl.where(x >= 0.0, tanh, -tanh)
    return with_sample(
        (sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log), dx, dx * eps
    )


# The same of a fixed action, whose gradients are those of the Gaussian's log-density at x.
tanh_normal_score_constants = tanh_normal_constants
tanh_normal_score_draw = tanh_normal_draw
# What is added to it is not of the terms' gradients alone.
tanh_normal_score_zeros = tile_zeros


@triton.jit
def tanh_normal_score_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log = sums
    if g0 is not None:
        sum_log_sigma += g0 * (1.0 - eps * eps)
        sum_loc += times(g0, eps * reciprocal_of_any(s[0], MATH))
    return sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log


# Between ends that are parameters 2 and 3; the fourth and fifth sums are their gradients.
# Constants: -, half the spacing of numbers around 1 in the action's dtype, the density's but for
# log half.
_CONSTANT = HALF_LOG_2PI + 2.0 * math.log(2.0)


def tanh_normal_between_constants(low, high, spacing=0.0):
    return Constants((0.0, 0.5 * spacing, _CONSTANT))


tanh_normal_score_between_constants = tanh_normal_between_constants


@triton.jit
def tanh_normal_between_draw(
    p, s, eps, n, GIVEN: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    half = 0.5 * (p[3] - p[2])
    ends = 0.5 * (p[3] + p[2]), half, n[2] + log(half, MATH), p[2], p[3]
    return tanh_normal_draw(p, s, eps, ends, GIVEN, KIND, EXACT, MATH)


tanh_normal_score_between_draw = tanh_normal_between_draw
tanh_normal_score_between_zeros = tile_zeros


@triton.jit
def shares(x, EXACT: tl.constexpr, MATH: tl.constexpr):
    """(1 + tanh x) / 2 and (1 - tanh x) / 2."""
    e = exp(-tl.abs(x), 2.0, 1.0, EXACT, MATH)
    share = reciprocal(1.0 + e, MATH)
    return tl.where(x >= 0.0, share, e * share), tl.where(x >= 0.0, e * share, share)


@triton.jit
def tanh_normal_between_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    width = p[3] - p[2]
    ends = n[0], 0.5 * width, n[2], n[3], n[4]
    sums = tanh_normal_pull(p, s, eps, gz, g0, g1, sums, ends, KIND, EXACT, MATH)
    above, below = shares(p[0] + s[0] * eps, EXACT, MATH)
    to_low = sums[3] + gz * below
    to_high = sums[4] + gz * above
    if g0 is not None:
        of_log = times(g0, reciprocal_of_any(width, MATH))
        to_low += of_log
        to_high -= of_log
    return sums[0], sums[1], sums[2], to_low, to_high


@triton.jit
def tanh_normal_score_between_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    sums = tanh_normal_score_pull(p, s, eps, gz, g0, g1, sums, n, KIND, EXACT, MATH)
    to_low = sums[3]
    to_high = sums[4]
    if g0 is not None:
        width = p[3] - p[2]
        above, below = shares(p[0] + s[0] * eps, EXACT, MATH)
        least = n[1] * tl.maximum(tl.abs(p[2]), tl.abs(p[3]))
        held = (width * above < least) | (width * below < least)
        half = 0.5 * eps * reciprocal_of_any(s[0], MATH)
        unit = reciprocal_of_any(width, MATH)
        of_low = ((half + 1.0) * reciprocal_of_any(above, MATH) - 1.0) * unit
        of_high = ((half - 1.0) * reciprocal_of_any(below, MATH) + 1.0) * unit
        to_low += tl.where(held, 0.0, times(g0, of_low))
        to_high += tl.where(held, 0.0, times(g0, of_high))
    return sums[0], sums[1], sums[2], to_low, to_high
