"""Student's t whose degrees of freedom are a parameter: its samples, see
`fused_reparam.families.loc_scale`, and its log-density, see `fused_reparam.families.student_t`.

Of samples eps is a pair: the noise, and its derivative in df.
"""

import triton
import triton.language as tl

from .....families import HALF_LOG_2PI as _HALF_LOG_2PI
from .....families.student_t import SERIES as _SERIES
from .....families.student_t import SERIES_SLOPE as _SERIES_SLOPE
from ..approx import log, reciprocal_of_any, series, sqrt
from ..formulas import finite
from ..scale import times
from .negative_binomial import log_of_both

HALF_LOG_2PI: tl.constexpr = tl.constexpr(_HALF_LOG_2PI)
SERIES: tl.constexpr = tl.constexpr(_SERIES)
SERIES_SLOPE: tl.constexpr = tl.constexpr(_SERIES_SLOPE)
_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def student_t_sample(
    loc, scale, df, eps, n2, n3, n4, n5, n6, EXACT: tl.constexpr, MATH: tl.constexpr
):
    return loc + scale * eps[0]


@triton.jit
def student_t_sample_gradients(
    loc, scale, df, eps, gz, n2, n3, n4, n5, n6, EXACT: tl.constexpr, MATH: tl.constexpr
):
    return gz, gz * eps[0], times(times(gz, eps[1]), scale)


@triton.jit
def density_parts(x, df, loc, scale, MATH: tl.constexpr):
    """df within its bounds, sqrt(df), x - loc, log scale, t = |x - loc| / (scale sqrt(df)), the
    smaller of t and 1 / t, and log(1 + t^2).
    """
    LEAST: tl.constexpr = 2.0**-1000 if x.dtype.is_fp64() else 2.0**-118
    MOST: tl.constexpr = 2.0**900 if x.dtype.is_fp64() else 2.0**100
    df = tl.maximum(df, LEAST, propagate_nan=tl.PropagateNan.ALL)
    df = tl.minimum(df, MOST, propagate_nan=tl.PropagateNan.ALL)
    d = x - loc
    root = sqrt(df, MATH)
    log_scale = log(scale, MATH)
    t = tl.abs(d) / scale / root
    far = t > 1.0
    within = t < _INFINITY
    r = tl.where(far, 1.0 / tl.where(far, t, 1.0), t)
    of_t = log(tl.where(within, t, tl.abs(d)), MATH)
    of_t -= tl.where(within, 0.0, log_scale + 0.5 * log(df, MATH))
    log_of_sum, _ = log_of_both(r * r, 1.0 + r * r, MATH)
    return df, root, d, log_scale, t, r, log_of_sum + tl.where(far, 2.0 * of_t, 0.0)


@triton.jit
def student_t_density_term(
    x, df, loc, scale, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    SHIFT: tl.constexpr = 9 if x.dtype.is_fp64() else 4
    df, _, _, log_scale, _, _, log_of_sum = density_parts(x, df, loc, scale, MATH)
    a = 0.5 * df
    inverse = 1.0 / (a + SHIFT)
    above = a * 0.0 + 1.0
    below = (a + 0.5) * inverse
    for k in tl.static_range(1, SHIFT):
        above = above * ((a + k) * inverse)
        below = below * ((a + (k + 0.5)) * inverse)
    ratio = above / below
    constant = inverse * series(inverse * inverse, 8, SERIES) - HALF_LOG_2PI
    constant += 0.5 * log((a * inverse) * (ratio * ratio), MATH)
    return constant - log_scale - (0.5 * df + 0.5) * log_of_sum


@triton.jit
def student_t_density_term_gradients(
    x, df, loc, scale, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    SHIFT: tl.constexpr = 9 if x.dtype.is_fp64() else 4
    df, root, d, _, t, r, log_of_sum = density_parts(x, df, loc, scale, MATH)
    a = 0.5 * df
    inverse = 1.0 / (a + SHIFT)
    square = inverse * inverse
    slope = square * series(square, 8, SERIES_SLOPE)
    for k in tl.static_range(SHIFT):
        slope += 0.25 / ((a + k) * ((a + (k + 0.5)) * (a + (k + 1))))
    far = t > 1.0
    of_sum = 1.0 / (1.0 + r * r)
    other = r * r * of_sum
    share = tl.where(far, of_sum, other)
    rest = tl.where(far, other, of_sum)
    scaled = finite(reciprocal_of_any(scale, MATH))
    near = times(gk, (df + 1.0) / root * (r * rest)) * scaled
    away = times(gk, (df + 1.0) * (share / tl.where(far, tl.abs(d), 1.0)))
    to_size = tl.where(far, away, near)
    to_loc = tl.where(d < 0.0, -to_size, to_size)
    to_df = times(0.5 * gk, (slope - log_of_sum) + (share + share / df))
    to_scale = times(times(gk, scaled), df * share - rest)
    return -to_loc, to_df, to_loc, to_scale
