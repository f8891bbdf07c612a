"""The Gaussian's divergence and its log-densities: see `fused_reparam.families.gaussian`.

Prepared are (sigma, log sigma^2, the prior's mean, one over its sigma in two factors, sigma over
its sigma, and the log of its sigma^2); there is one factor where the prior is of numbers. Constants
of one of numbers: its mean, 1 / std, 2 log std, the least divergence; PRIOR_KIND says whether its
std is far from 1. Of one of tensors only the least divergence, in the same place.
"""

# A Triton function returns from every branch or from none, and knows no `in`.
# ruff: noqa: RET505, SIM109

import math

import triton
import triton.language as tl

from .....families import HALF_LOG_2PI as _HALF_LOG_2PI
from ..approx import exp
from ..constants import Constants
from ..formulas import finite, of_log, scale_finish, tile_zeros, with_sample
from ..scale import (
    RHO,
    STD,
    VAR,
    inverse_of,
    located,
    ratio_to,
    sigma_squares,
    slopes,
    times,
)

HALF_LOG_2PI: tl.constexpr = tl.constexpr(_HALF_LOG_2PI)


def gaussian_constants(low, high, mean, std, floor=-math.inf):
    far = not 2.0**-20 <= 1.0 / std <= 2.0**20
    return Constants((mean, 1.0 / std, 2.0 * math.log(std), floor), floor, far)


def gaussian_prior_constants(low, high, floor):
    return Constants((0.0, 0.0, 0.0, floor), floor)


log_prob_constants = gaussian_constants


@triton.jit
def gaussian_prepare(
    p, n, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    inverse = finite(n[1]) if PRIOR_KIND != 0 else n[1]
    BY_LOGS: tl.constexpr = PRIOR_KIND != 0 and KIND != STD and KIND != VAR
    sigma, _, log_square = sigma_squares(p[1], KIND, EXACT, MATH, LOGS or BY_LOGS)
    if BY_LOGS:  # noqa: SIM108  # sigma may be beyond the dtype where the ratio is not
        ratio = exp(log_square - n[2], 0.5, 1.0, EXACT, MATH)
    else:
        ratio = sigma * inverse
    return sigma, log_square, n[0], inverse, 1.0, ratio, n[2]


@triton.jit
def of_prior(x, KIND: tl.constexpr):
    """A prior's scale parameter; NaN, as the divergence and all gradients then are, where it has no
    sigma above 0.
    """
    if KIND == STD or KIND == VAR:
        return tl.where(x > 0.0, x, float("nan"))
    else:
        return x


@triton.jit
def gaussian_prior_prepare(
    p, n, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    sigma, _, log_square = sigma_squares(p[1], KIND, EXACT, MATH, LOGS)
    x = of_prior(p[3], PRIOR_KIND)
    prior, _, prior_log = sigma_squares(x, PRIOR_KIND, EXACT, MATH, LOGS)
    inverse, unit = inverse_of(x, prior, PRIOR_KIND, EXACT, MATH)
    ratio = ratio_to(p[1], sigma, x, prior, inverse, unit, KIND, PRIOR_KIND, EXACT, MATH)
    return sigma, log_square, p[2], inverse, unit, ratio, prior_log


log_prob_prepare = gaussian_prepare
log_prob_prior_prepare = gaussian_prior_prepare


@triton.jit
def over_prior_sigma(x, s):
    """x / the prior's sigma."""
    return x * s[3] * s[4]


@triton.jit
def gaussian_divergence(
    p, s, n, KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    _, log_square, mean, _, _, ratio, prior_log = s
    distance = over_prior_sigma(p[0] - mean, s)
    twice = distance * distance + (ratio * ratio - 1.0) - (log_square - prior_log)
    if FLOOR:
        return tl.where(twice * 0.5 < n[3], n[3], twice * 0.5)
    else:
        return twice * 0.5


@triton.jit
def gaussian_divergence_gradients(
    p, s, gk, found, to_sigma, to_log, n,
    KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    to_loc, to_scale, to_prior_loc, to_prior_log = found
    if FLOOR:
        kl = gaussian_divergence(p, s, n, KIND, False, EXACT, MATH)
        gk = tl.where(kl < n[3], 0.0, gk)
    # Nothing infinite is left for a gradient of 0 to meet.
    distance = tl.where(gk == 0.0, 0.0, over_prior_sigma(p[0] - s[2], s))
    ratio = tl.where(gk == 0.0, 1.0, s[5])
    slope = gk * distance
    to_mean = over_prior_sigma(slope, s)
    grown = gk * (ratio * ratio - 1.0)
    # The ratio's square may overflow before a large number divides it.
    if KIND == STD or KIND == VAR:
        to_scale += over_prior_sigma(gk * ratio, s) * to_sigma - times(gk, to_log)
    elif KIND == RHO:
        to_scale += gk * (ratio * (ratio * to_log) - to_log)
    else:
        to_scale += grown * to_log
    return (
        to_loc + to_mean,
        to_scale,
        to_prior_loc - to_mean,
        to_prior_log + (slope * distance + grown),
    )


gaussian_prior_divergence = gaussian_divergence
gaussian_prior_divergence_gradients = gaussian_divergence_gradients


@triton.jit
def gaussian_prior_finish(
    p, s, gk, sums, n, TERM_GRADIENTS: tl.constexpr, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr,
    FLOOR: tl.constexpr, SAMPLED: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    to_loc, to_scale, to_prior_loc, to_prior_log = scale_finish(
        p, s, gk, sums, n, TERM_GRADIENTS, KIND, PRIOR_KIND, FLOOR, SAMPLED, EXACT, MATH
    )
    _, slope = slopes(p[3], p[3], PRIOR_KIND, MATH)
    return to_loc, to_scale, to_prior_loc, -of_log(to_prior_log, slope, PRIOR_KIND)


log_prob_prior_finish = gaussian_prior_finish


@triton.jit
def log_prob_draw(
    p, s, eps, n, GIVEN: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    """z, log q(z) and log p(z)."""
    sigma, log_square, mean, _, _, ratio, prior_log = s
    distance = over_prior_sigma(p[0] - mean, s) + ratio * eps
    return (
        located(p[0], sigma, eps, GIVEN),
        -0.5 * (eps * eps + log_square) - HALF_LOG_2PI,
        -0.5 * (distance * distance + prior_log) - HALF_LOG_2PI,
    )


@triton.jit
def log_prob_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log = sums
    sigma, _, mean, _, _, ratio, _ = s
    dx = gz
    to_sigma = gz
    if g0 is not None:
        sum_log_sigma += g0
    if g1 is not None:
        # Nothing infinite is left for a gradient of 0 to meet.
        spread = tl.where(g1 == 0.0, 0.0, ratio * eps)
        distance = tl.where(g1 == 0.0, 0.0, over_prior_sigma(p[0] - mean, s))
        distance += spread
        slope = g1 * distance
        to_mean = over_prior_sigma(slope, s)
        dx = gz - to_mean
        # Through sigma where it is a number, or it would lose or overflow by way of its
        # logarithm; else through log sigma, which is right where sigma is not.
        if KIND == STD or KIND == VAR:
            to_sigma = dx
        elif KIND == RHO:
            to_sigma = tl.where(sigma > 1.0, dx, gz)
            sum_log_sigma += tl.where(sigma > 1.0, 0.0, slope * spread)
        else:
            sum_log_sigma += slope * spread
        sum_prior_loc += to_mean
        sum_prior_log += g1 - slope * distance
    return with_sample(
        (sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log), dx, to_sigma * eps
    )


log_prob_prior_draw = log_prob_draw
log_prob_prior_pull = log_prob_pull
# What is added to it is not of the terms' gradients alone.
log_prob_zeros = log_prob_prior_zeros = tile_zeros
