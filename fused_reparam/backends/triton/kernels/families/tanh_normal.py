"""A bounded action, the tanh of a Gaussian: see `fused_reparam.families.tanh_normal`.

Constants: the middle and half the distance of both ends, the density's constant, both ends.
"""

import math

import triton
import triton.language as tl

from .....families import HALF_LOG_2PI
from ..approx import exp, expm1, reciprocal, reciprocal_of_any
from ..constants import Constants
from ..formulas import tile_zeros, with_sample
from ..scale import clamp, times
from ..uniform import fast_log


def tanh_normal_constants(low, high, lowest, highest):
    half = 0.5 * (highest - lowest)
    constant = math.log(half) + HALF_LOG_2PI + 2.0 * math.log(2.0)
    return Constants((0.5 * (highest + lowest), half, constant, lowest, highest))


@triton.jit
def tanh_normal_draw(p, s, eps, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr):
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
