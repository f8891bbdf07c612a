"""Values on a grid: see `fused_reparam.families.discretized_logistic`, which has the formula.

n2: half a bin's width; n3, n4: the first bin's upper and the last bin's lower end.
"""

import triton
import triton.language as tl

from ..approx import exp, expm1, log, reciprocal, reciprocal_of_any
from ..formulas import finite, in_scales
from ..scale import softplus_parts, times
from ..uniform import log_uniform


@triton.jit
def log1mexp(x, y, EXACT: tl.constexpr, MATH: tl.constexpr):
    """log(1 - e^-t) of t = x / y > 0, and t / (e^t - 1)."""
    t = in_scales(x, reciprocal_of_any(y, MATH))
    tiny = t < 2.0**-24
    e = exp(-t, 1.0, 1.0, EXACT, MATH)
    base = -expm1(-t, e)
    of_others = log_uniform(tl.minimum(e, base), base > e, MATH)
    found = tl.where(tiny, log(x + 0.0 * y, MATH) - log(y, MATH), of_others)
    return found, tl.where(tiny, 1.0, e * t / tl.where(tiny, 1.0, base))


@triton.jit
def ends(x, loc, scale, n2, n3, n4):
    """A bin's ends in scales from loc, and whether it is the first and the last one."""
    return (x - loc + n2) / scale, (x - loc - n2) / scale, x < n3, x > n4


@triton.jit
def discretized_logistic_density_term(
    x, loc, scale, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    above, below, lower, upper = ends(x, loc, scale, n2, n3, n4)
    of_above, _, _ = softplus_parts(-tl.abs(above), MATH)
    of_below, _, _ = softplus_parts(-tl.abs(below), MATH)
    of_above += tl.where(above < 0.0, -above, 0.0)
    of_below += tl.where(below > 0.0, below, 0.0)
    width, _ = log1mexp(2.0 * n2, scale, EXACT, MATH)
    found = tl.where(lower | upper, 0.0, width) - tl.where(upper, 0.0, of_above)
    return found - tl.where(lower, 0.0, of_below)


@triton.jit
def discretized_logistic_density_term_gradients(
    x, loc, scale, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    above, below, lower, upper = ends(x, loc, scale, n2, n3, n4)
    e_above = exp(-tl.abs(above), 1.0, 1.0, EXACT, MATH)
    e_below = exp(-tl.abs(below), 1.0, 1.0, EXACT, MATH)
    of_above = reciprocal(1.0 + e_above, MATH)
    of_below = reciprocal(1.0 + e_below, MATH)
    a = tl.where(upper, 0.0, tl.where(above > 0.0, e_above * of_above, of_above))
    b = tl.where(lower, 0.0, tl.where(below > 0.0, of_below, e_below * of_below))
    _, width = log1mexp(2.0 * n2, scale, EXACT, MATH)
    inner = tl.where(lower | upper, 0.0, width)
    slope = times(gk, finite(reciprocal_of_any(scale, MATH)))
    to_loc = times(slope, b - a)
    to_scale = times(slope, times(b, below) - times(a, above) - inner)
    return -to_loc, to_loc, to_scale, 0.0
