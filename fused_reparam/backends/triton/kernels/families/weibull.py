"""The Weibull distribution: see `fused_reparam.families.weibull`."""

import triton
import triton.language as tl

from .....families import HALF_LOG_2PI as _HALF_LOG_2PI
from .....families.weibull import EULER as _EULER
from ..approx import exp, expm1, log, series
from ..scale import times
from ..stretch import stretch, stretch_gradients

HALF_LOG_2PI: tl.constexpr = tl.constexpr(_HALF_LOG_2PI)
EULER: tl.constexpr = tl.constexpr(_EULER)
# Stirling's series, of the logarithm's value and of its derivative.
_VALUE: tl.constexpr = tl.constexpr(
    (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
)
_SLOPE: tl.constexpr = tl.constexpr(
    (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
)


@triton.jit
def log_gamma(r, MATH: tl.constexpr):
    """log Gamma(1 + r) and its derivative for r >= 0, by Stirling's series of a larger argument y:
    Gamma(y) = Gamma(1 + r) (r + 1) ... (r + n). The factors are divided by y before their logarithm
    is taken, so that n log y, most of both logarithms, is not added to be taken away.
    """
    SHIFT: tl.constexpr = 8 if r.dtype.is_fp64() else 2
    large = r > 64.0
    few = tl.where(large, 0.0, r)
    product = tl.full(r.shape, 1.0, r.dtype)
    total = tl.zeros(r.shape, r.dtype)
    for i in tl.static_range(1, SHIFT + 1):
        total = total * (few + i) + product
        product = product * (few + i)
    y = r + tl.where(large, 1.0, SHIFT + 1.0)
    inverse = 1.0 / y
    square = inverse * inverse
    log_y = log(y, MATH)
    quotient = product
    for _ in tl.static_range(SHIFT // 2):
        quotient = quotient * square
    of_factors = tl.where(large, 0.0, log(quotient, MATH) + SHIFT)
    # Nothing infinite is taken from something infinite.
    rest = inverse * series(square, 6, _VALUE) + (HALF_LOG_2PI - 0.5)
    value = (r + 0.5) * (log_y - 1.0) + (rest - of_factors)
    slope = log_y - (0.5 * inverse + square * series(square, 7, _SLOPE))
    return value, tl.where(large, slope, slope - total / product)


@triton.jit
def weibull_parts(scale, concentration, n2, n3, EXACT: tl.constexpr, MATH: tl.constexpr):
    """(r, k s, e^(k s) Gamma(1 + r) - 1, the derivative of log Gamma(1 + r)).

    n2 .. n4: the logarithm of the prior's scale, its concentration k, log k.
    """
    r = n3 / concentration
    ks = n3 * (log(scale, MATH) - n2)
    value, slope = log_gamma(r, MATH)
    x = ks + value
    return r, ks, expm1(x, exp(x, 1.0, 1.0, EXACT, MATH)), slope


@triton.jit
def weibull_sample(
    scale, concentration, _c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    _, half = stretch(log(eps, MATH), concentration, EXACT, MATH)
    return (scale * half) * half


@triton.jit
def weibull_sample_gradients(
    scale, concentration, _c, eps, gz, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    log_eps = log(eps, MATH)
    to_scale, to_rest = stretch_gradients(scale, log_eps, concentration, gz, EXACT, MATH)
    return to_scale, to_rest, 0.0


@triton.jit
def weibull_term(
    scale, concentration, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    r, ks, grown, _ = weibull_parts(scale, concentration, n2, n3, EXACT, MATH)
    return grown - ks - (n4 - log(concentration, MATH)) + EULER * (r - 1.0)


@triton.jit
def weibull_term_gradients(
    scale, concentration, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    r, _, grown, slope = weibull_parts(scale, concentration, n2, n3, EXACT, MATH)
    to_concentration = times(gk, 1.0 - r * ((grown + 1.0) * slope + EULER)) / concentration
    return times(gk, n3 * grown) / scale, to_concentration, 0.0, 0.0


@triton.jit
def weibull_prior_term(
    scale, concentration, prior_scale, k, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return weibull_term(
        scale, concentration, k, k, log(prior_scale, MATH), k, log(k, MATH), n5, n6, EXACT, MATH
    )  # fmt: skip


@triton.jit
def weibull_prior_term_gradients(
    scale, concentration, prior_scale, k, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    log_prior = log(prior_scale, MATH)
    r, _, grown, slope = weibull_parts(scale, concentration, log_prior, k, EXACT, MATH)
    more = grown + 1.0
    s = log(scale, MATH) - log_prior
    # What may be infinite has one factor.
    of_k = times(more, s + slope / concentration) - s + (EULER / concentration - 1.0 / k)
    return (
        times(gk, k * grown) / scale,
        times(gk, 1.0 - r * (more * slope + EULER)) / concentration,
        -times(gk, k / prior_scale * grown),
        times(gk, of_k),
    )
