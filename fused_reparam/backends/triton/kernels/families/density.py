"""Log-densities at points: see `fused_reparam.families.gaussian` and `.tanh_normal`.

Prepared are (sigma, log sigma^2, the point, one over sigma in two factors). Of an action the point
is its inverse tanh, and two numbers follow: the sum of the logarithms of its distances to both
ends, and the slope of the point, which is 0 where the action is held. Constants of an action: both
ends, the least distance to them, and the logarithm of half the distance between them.
"""

import math

import triton
import triton.language as tl

from .....families import HALF_LOG_2PI as _HALF_LOG_2PI
from ..approx import exp, expm1, reciprocal, reciprocal_of_any
from ..constants import Constants
from ..formulas import of_log
from ..scale import clamp, inverse_of, sigma_squares, times
from ..uniform import fast_log

HALF_LOG_2PI: tl.constexpr = tl.constexpr(_HALF_LOG_2PI)


def tanh_normal_density_constants(low, high, lowest, highest, least):
    return Constants((lowest, highest, least, math.log(0.5 * (highest - lowest))))


@triton.jit
def gaussian_density_prepare(
    p, n, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    sigma, _, log_square = sigma_squares(p[1], KIND, EXACT, MATH, LOGS)
    inverse, unit = inverse_of(p[1], sigma, KIND, EXACT, MATH)
    return sigma, log_square, p[2], inverse, unit


@triton.jit
def tanh_normal_density_prepare(
    p, n, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    sigma, log_square, action, inverse, unit = gaussian_density_prepare(
        p, n, KIND, PRIOR_KIND, LOGS, EXACT, MATH
    )
    lowest, highest, least, _, _ = n
    above = action - lowest
    below = highest - action
    held = (above < least) | (below < least)
    above = clamp(above, least, highest - lowest)
    below = clamp(below, least, highest - lowest)
    slope = tl.where(held, 0.0, 0.5 * (reciprocal(above, MATH) + reciprocal(below, MATH)))
    log_above = fast_log(above, MATH)
    log_below = fast_log(below, MATH)
    point = 0.5 * (log_above - log_below)
    return sigma, log_square, point, inverse, unit, log_above + log_below, slope


@triton.jit
def gaussian_density_divergence(
    p, s, n, KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    distance = (s[2] - p[0]) * s[3] * s[4]
    return -0.5 * (distance * distance + s[1]) - HALF_LOG_2PI


@triton.jit
def tanh_normal_density_divergence(
    p, s, n, KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    return gaussian_density_divergence(p, s, n, KIND, FLOOR, EXACT, MATH) + (n[3] - s[5])


@triton.jit
def gaussian_density_divergence_gradients(
    p, s, gk, found, to_sigma, to_log, n,
    KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The third of the gradients is that of the point."""
    to_loc, to_scale, to_point, rest = found
    # Nothing infinite is left for a gradient of 0 to meet.
    distance = tl.where(gk == 0.0, 0.0, (s[2] - p[0]) * s[3] * s[4])
    slope = gk * distance
    to_mean = slope * s[3] * s[4]
    to_scale += of_log(slope * distance - gk, to_log, KIND)
    return to_loc + to_mean, to_scale, to_point - to_mean, rest


@triton.jit
def tanh_normal_density_divergence_gradients(
    p, s, gk, found, to_sigma, to_log, n,
    KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    to_loc, to_scale, to_point, rest = gaussian_density_divergence_gradients(
        p, s, gk, found, to_sigma, to_log, n, KIND, FLOOR, EXACT, MATH
    )
    e = exp(-tl.abs(s[2]), 2.0, 1.0, EXACT, MATH)
    tanh = -expm1(-2.0 * tl.abs(s[2]), e) * reciprocal(1.0 + e, MATH)
    to_point += 2.0 * gk * tl.where(s[2] >= 0.0, tanh, -tanh)
    return to_loc, to_scale, times(s[6], to_point), rest


def tanh_normal_density_between_constants(low, high):
    return Constants(())


@triton.jit
def tanh_normal_density_between_prepare(
    p, n, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """As of an action, whose distances to both ends are parameters 2 and 3; negative: it is held.

    Last comes the logarithm of half the distance of the ends.
    """
    sigma, log_square, _, inverse, unit = gaussian_density_prepare(
        p, n, KIND, PRIOR_KIND, LOGS, EXACT, MATH
    )
    log_above = fast_log(tl.abs(p[2]), MATH)
    log_below = fast_log(tl.abs(p[3]), MATH)
    point = 0.5 * (log_above - log_below)
    held = (p[2] < 0.0) | (p[3] < 0.0)
    width = tl.where(held, tl.maximum(tl.abs(p[2]), tl.abs(p[3])), p[2] + p[3])
    log_half = fast_log(0.5 * width, MATH)
    return sigma, log_square, point, inverse, unit, log_above + log_below, log_half


@triton.jit
def tanh_normal_density_between_divergence(
    p, s, n, KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    return gaussian_density_divergence(p, s, n, KIND, FLOOR, EXACT, MATH) + (s[6] - s[5])


@triton.jit
def tanh_normal_density_between_divergence_gradients(
    p, s, gk, found, to_sigma, to_log, n,
    KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    to_loc, to_scale, to_point, _ = gaussian_density_divergence_gradients(
        p, s, gk, found, to_sigma, to_log, n, KIND, FLOOR, EXACT, MATH
    )
    held = (p[2] < 0.0) | (p[3] < 0.0)
    of_half = gk * reciprocal_of_any(tl.abs(p[2]) + tl.abs(p[3]), MATH)
    to_above = (0.5 * to_point - gk) * reciprocal_of_any(tl.abs(p[2]), MATH) + of_half
    to_below = of_half - (0.5 * to_point + gk) * reciprocal_of_any(tl.abs(p[3]), MATH)
    return to_loc, to_scale, tl.where(held, 0.0, to_above), tl.where(held, 0.0, to_below)
