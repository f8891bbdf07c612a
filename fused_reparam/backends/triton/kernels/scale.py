"""The five parameterizations of sigma: their values, log sigma^2 and derivatives.

`KIND`: 0 logvar, 1 log_std, 2 std, 3 var, 4 rho (sigma = softplus(rho)).
"""

# A Triton function returns from every branch or from none, and knows no `in`.
# ruff: noqa: RET505, SIM109

import triton
import triton.language as tl

from .approx import LN2, exp, log, reciprocal, reciprocal_of_any, sqrt

LOGVAR: tl.constexpr = tl.constexpr(0)
LOG_STD: tl.constexpr = tl.constexpr(1)
STD: tl.constexpr = tl.constexpr(2)
VAR: tl.constexpr = tl.constexpr(3)
RHO: tl.constexpr = tl.constexpr(4)


@triton.jit
def clamp(x, low, high):
    """As torch.clamp: NaN stays NaN."""
    x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def times(gradient, slope):
    """A gradient times a derivative, which may be infinite: a gradient of 0 stays 0."""
    return tl.where(gradient == 0.0, 0.0, gradient * slope)


@triton.jit
def located(loc, sigma, eps, GIVEN: tl.constexpr):
    """loc + sigma eps, rounded once; of noise that is GIVEN twice, as PyTorch's two operators do.

    The compiler contracts a product and the addition to it into one instruction. With zero added it
    is that addition which is contracted; this costs nothing.
    """
    if GIVEN:
        return loc + (sigma * eps + 0.0)
    else:
        return loc + sigma * eps


@triton.jit
def softplus_parts(x, MATH: tl.constexpr):
    """softplus(x), and what stays finite where it underflows: (sigma, e, ratio).

    e = exp(-|x|); ratio = log1p(e) / e for x <= 0, else sigma: so log sigma = log(ratio) + min(x,
    0). log1p(e) = 2 atanh(s) with s = e / (2 + e) <= 1/3: its series keeps the relative precision
    of a small e.
    """
    e = exp(-tl.abs(x), 1.0, 1.0, True, MATH)
    s = reciprocal(2.0 + e, MATH)
    square = (e * s) * (e * s)
    TERMS: tl.constexpr = 17 if x.dtype.is_fp64() else 8
    series = tl.full(x.shape, 1.0 / (2 * TERMS + 1), x.dtype)
    for k in tl.static_range(TERMS - 1, -1, -1):
        series = series * square + 1.0 / (2 * k + 1)
    slope = 2.0 * s * series
    sigma = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + e * slope
    return sigma, e, tl.where(x > 0.0, sigma, slope)


@triton.jit
def sigma_squares(x, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr, KL: tl.constexpr):
    """(sigma, sigma^2, log sigma^2); the last two are meaningful only with KL."""
    if KIND == LOGVAR:
        sigma = exp(x, 0.5, 1.0, EXACT, MATH)
        return sigma, sigma * sigma, x
    elif KIND == LOG_STD:
        sigma = exp(x, 1.0, 1.0, EXACT, MATH)
        return sigma, sigma * sigma, 2.0 * x
    elif KIND == STD:
        return x, x * x, (2.0 * log(x, MATH) if KL else x)
    elif KIND == VAR:
        return sqrt(x, MATH), x, (log(x, MATH) if KL else x)
    else:
        sigma, _, ratio = softplus_parts(x, MATH)
        low = tl.minimum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        return sigma, sigma * sigma, (2.0 * (log(ratio, MATH) + low) if KL else x)


@triton.jit
def log_of_square(x, KIND: tl.constexpr):
    """The logarithm of the square of sigma, of which `factor` is left for RHO."""
    if KIND == LOGVAR:
        return x
    elif KIND == LOG_STD:
        return 2.0 * x
    else:  # none where sigma is within the dtype
        EDGE: tl.constexpr = 860.0 if x.dtype.is_fp64() else 92.0
        return 2.0 * tl.minimum(x + EDGE * LN2, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def factor(sigma, KIND: tl.constexpr):
    """sigma, for RHO without the exponential whose logarithm `log_of_square` gives."""
    if KIND == RHO:
        LEAST: tl.constexpr = 2.0**-860 if sigma.dtype.is_fp64() else 2.0**-92
        return tl.maximum(sigma, LEAST, propagate_nan=tl.PropagateNan.ALL)
    else:
        return sigma


@triton.jit
def unit_of(x):
    """A power of two that brings x, where it is far from 1, nearer to it."""
    FAR: tl.constexpr = 2.0**500 if x.dtype.is_fp64() else 2.0**60
    return tl.where(x > FAR, 1.0 / FAR, tl.where(x < 1.0 / FAR, FAR, 1.0))


@triton.jit
def inverse_of(x, sigma, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr):
    """1 / sigma in two factors: a product with both neither overflows nor underflows before its
    result does. Both are finite.
    """
    if KIND == STD or KIND == VAR:
        unit = unit_of(sigma)
        return reciprocal(sigma * unit, MATH), unit
    else:
        # With RHO each root is multiplied, by at most 2^500 or 2^60.
        SINGLE: tl.constexpr = 184.0 if KIND == RHO else 348.0
        DOUBLE: tl.constexpr = 1440.0 if KIND == RHO else 2800.0
        MOST: tl.constexpr = DOUBLE if x.dtype.is_fp64() else SINGLE
        bounded = tl.maximum(log_of_square(x, KIND), -MOST, propagate_nan=tl.PropagateNan.ALL)
        root = exp(-bounded, 0.25, 1.0, EXACT, MATH)
        if KIND == RHO:
            rest = factor(sigma, KIND)
            unit = unit_of(rest)
            return reciprocal(rest * unit, MATH) * root, unit * root
        else:
            return root, root


@triton.jit
def ratio_to(
    x, sigma, prior_x, prior, inverse, unit,
    KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """sigma / prior, also where either is beyond the dtype. inverse, unit: of `inverse_of`.

    Of the numbers where they are within it, for a logarithm rounds more than its number does.
    """
    if KIND == STD or KIND == VAR:
        return sigma * inverse * unit
    elif PRIOR_KIND == STD or PRIOR_KIND == VAR:
        logs, rest = log_of_square(x, KIND), factor(sigma, KIND)
        if KIND != RHO:
            EDGE: tl.constexpr = 720 if x.dtype.is_fp64() else 72
            logs -= clamp(logs, -2.0 * EDGE * LN2, 2.0 * EDGE * LN2)
            rest = clamp(rest, 2.0**-EDGE, 2.0**EDGE)
        root = exp(logs, 0.25, 1.0, False, MATH)
        return rest * (root * inverse) * (root * unit)
    else:
        logs = log_of_square(x, KIND) - log_of_square(prior_x, PRIOR_KIND)
        if KIND == RHO:
            # By its root twice, which fits where it does not and a factor brings it back.
            root = exp(logs, 0.25, 1.0, EXACT, MATH)
            ratio = root * factor(sigma, KIND)
        else:  # of a prior with RHO the root twice would round too often
            ratio, root = exp(logs, 0.5, 1.0, EXACT, MATH), 1.0
        if PRIOR_KIND == RHO:
            rest = factor(prior, PRIOR_KIND)
            unit = unit_of(rest)
            ratio = ratio * reciprocal(rest * unit, MATH) * unit
        return ratio * root


@triton.jit
def derivatives(x, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr):
    """(d sigma / dx, d KL / dx divided by `kl_factor(KIND)`)."""
    if KIND == LOGVAR:
        half = exp(x, 0.5, 0.5, EXACT, MATH)
        return half, half * half - 0.25
    elif KIND == LOG_STD:
        sigma = exp(x, 1.0, 1.0, EXACT, MATH)
        return sigma, sigma * sigma - 1.0
    elif KIND == STD:
        return tl.full(x.shape, 1.0, x.dtype), x - 1.0 / x
    elif KIND == VAR:
        return 0.5 / sqrt(x, MATH), 1.0 - 1.0 / x
    else:
        sigma, _, _ = softplus_parts(x, MATH)
        sigmoid, to_log = slopes(x, sigma, KIND, MATH)
        return sigmoid, sigma * sigmoid - to_log


@triton.jit
def slopes(x, sigma, KIND: tl.constexpr, MATH: tl.constexpr, SUBNORMAL: tl.constexpr = True):
    """(d sigma / dx, d log sigma / dx). `derivatives` has fewer instructions for its KL.

    SUBNORMAL: also where 1 / x or x is subnormal.
    """
    if KIND == LOGVAR:
        return 0.5 * sigma, tl.full(x.shape, 0.5, x.dtype)
    elif KIND == LOG_STD:
        return sigma, tl.full(x.shape, 1.0, x.dtype)
    elif KIND == STD:
        inverse = reciprocal_of_any(x, MATH) if SUBNORMAL else reciprocal(x, MATH)
        return tl.full(x.shape, 1.0, x.dtype), inverse
    elif KIND == VAR:
        return 0.5 * reciprocal(sigma, MATH), 0.5 * reciprocal_of_any(x, MATH)
    else:
        _, e, ratio = softplus_parts(x, MATH)
        share = reciprocal(1.0 + e, MATH)
        return tl.where(x > 0.0, share, e * share), share * reciprocal(ratio, MATH)


@triton.jit
def kl_factor(KIND: tl.constexpr):
    """The constant left out of `derivatives`: it belongs into the one scalar factor."""
    if KIND == LOGVAR:
        return 2.0
    elif KIND == VAR:
        return 0.5
    else:
        return 1.0


@triton.jit
def gradient(
    slope, kl_slope, drawn, dkl, VALUED: tl.constexpr, ZEROS: tl.constexpr, KIND: tl.constexpr
):
    """The scale's gradient, by `derivatives`: of the sample, whose gradient times the noise is
    `drawn`, and (VALUED) of the KL, whose gradient is `dkl`.

    ZEROS: an infinite sigma leaves a gradient of 0 alone. A sample and one gradient for the whole
    KL need it not, unless that is 0: the sum is infinite. It is three of their 34 instructions.
    """
    if KIND == LOGVAR or KIND == LOG_STD:
        if VALUED:
            # Not by the KL's slope: sigma^2 may be infinite where the gradient is 0.
            factor = dkl * kl_factor(KIND)
            rest = factor * (0.25 if KIND == LOGVAR else 1.0)
            if ZEROS:
                total = times(drawn + times(factor, slope), slope) - rest
            else:
                total = slope * (drawn + factor * slope) - rest
        else:
            total = times(drawn, slope)
    elif not VALUED:
        total = drawn * slope
    elif KIND == STD or KIND == VAR:
        # 1 / x may be infinite where the KL is not.
        total = drawn * slope + times(dkl * kl_factor(KIND), kl_slope)
    else:
        total = drawn * slope + kl_slope * (dkl * kl_factor(KIND))
    return total
