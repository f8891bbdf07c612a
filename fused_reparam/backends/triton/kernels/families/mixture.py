"""The Gaussian measured against a mixture of two, and the density of such a mixture: see
`fused_reparam.families.mixture`.

Constants of the first: the prior's mean, 1 / std of its wider normal, and what `wider_and_narrower`
gives.
"""

import triton
import triton.language as tl

from .....families import HALF_LOG_2PI as _HALF_LOG_2PI
from .....families.mixture import wider_and_narrower
from ..approx import exp, log, reciprocal
from ..constants import Constants
from ..formulas import with_sample
from ..scale import located, times
from ..uniform import fast_log

HALF_LOG_2PI: tl.constexpr = tl.constexpr(_HALF_LOG_2PI)


def mixture_constants(low, high, mean, *mixture):
    std, *others = wider_and_narrower(*mixture)
    return Constants((mean, 1.0 / std, *others))


@triton.jit
def two_normals(z, n):
    """Of the wider normal d and the logarithm without log 2 pi, and how far the narrower one's
    logarithm is ahead of that.
    """
    mean, inverse, constant, ahead, fall = n
    d = (z - mean) * inverse
    square = d * d
    return d, constant - 0.5 * square, ahead - fall * square


@triton.jit
def mixture_draw(
    p, s, eps, n, GIVEN: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    """z, and log q(z) - log p(z)."""
    x = located(p[0], s[0], eps, GIVEN)
    _, log_wide, ahead = two_normals(x, n)
    e = exp(-tl.abs(ahead), 1.0, 1.0, EXACT, MATH)
    log_p = log_wide + (tl.maximum(ahead, 0.0) + fast_log(1.0 + e, MATH))
    return x, -0.5 * (eps * eps + s[1]) - log_p, 0.0


@triton.jit
def mixture_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log = sums
    dx = gz
    if g0 is not None:
        sum_log_sigma += g0
        d, _, ahead = two_normals(p[0] + s[0] * eps, n)
        e = exp(-tl.abs(ahead), 1.0, 1.0, EXACT, MATH)
        # The slopes d / std of both by their shares; the narrower one's is steeper times as large.
        steeper = 2.0 * n[4] + 1.0
        both = tl.where(ahead > 0.0, e + steeper, 1.0 + steeper * e)
        dx = gz + times(g0, d * n[1] * (both * reciprocal(1.0 + e, MATH)))
    return with_sample(
        (sum_loc, sum_sigma, sum_log_sigma, sum_prior_loc, sum_prior_log), dx, dx * eps
    )


@triton.jit
def fall_of(ratio):
    """What a square of a distance in narrow stds takes from the logarithm of the narrower normal's
    share of the wider one's: (1 - ratio^2) / 2. Not 0, which times an infinite square would be NaN.
    """
    fall = 0.5 * (1.0 - ratio) * (1.0 + ratio)
    return tl.maximum(fall, 1.1754943508222875e-38, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def density_parts(x, share, std1, std2, EXACT: tl.constexpr, MATH: tl.constexpr):
    """Of the wider and of the narrower normal the std, its logarithm and the distance in stds; then
    whether the narrower one counts for more, the shares of that which does and of the other, the
    other's density over its own, and what they come to.
    """
    rest = 1.0 - share
    wide = tl.where(std1 >= std2, std1, std2)
    narrow = tl.where(std1 >= std2, std2, std1)
    of_wide = tl.where(std1 >= std2, share, rest)
    of_narrow = tl.where(std1 >= std2, rest, share)
    log_wide = log(wide, MATH)
    log_narrow = log(narrow, MATH)
    d = x / wide
    e = x / narrow
    ahead = log_wide - log_narrow - fall_of(narrow / wide) * (e * e)
    by_narrow = (of_narrow != 0.0) & ((ahead > 0.0) | (of_wide == 0.0))
    first = tl.where(by_narrow, of_narrow, of_wide)
    other = tl.where(by_narrow, of_wide, of_narrow)
    # Only where the other has no share is it more than 0.
    less = tl.minimum(
        tl.where(by_narrow, -ahead, ahead), 80.0, propagate_nan=tl.PropagateNan.ALL
    )  # fmt: skip
    quotient = exp(less, 1.0, 1.0, EXACT, MATH)
    both = first + other * quotient
    return wide, log_wide, d, narrow, log_narrow, e, by_narrow, first, other, quotient, both


@triton.jit
def mixture_density_term(
    x, share, std1, std2, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    _, log_wide, d, _, log_narrow, e, by_narrow, _, _, _, both = density_parts(
        x, share, std1, std2, EXACT, MATH
    )
    distance = tl.where(by_narrow, e, d)
    log_std = tl.where(by_narrow, log_narrow, log_wide)
    return log(both, MATH) - log_std - 0.5 * (distance * distance) - HALF_LOG_2PI


@triton.jit
def mixture_density_term_gradients(
    x, share, std1, std2, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    wide, _, d, narrow, _, e, by_narrow, first, other, quotient, both = density_parts(
        x, share, std1, std2, EXACT, MATH
    )
    to_first = 1.0 / both
    to_other = quotient / both
    of_first = first * to_first
    of_other = other * to_other
    of_wide = tl.where(by_narrow, of_other, of_first)
    of_narrow = tl.where(by_narrow, of_first, of_other)
    steep = d / wide
    steeper = e / narrow
    to_wide = times(gk, times(of_wide, d * steep - 1.0 / wide))
    to_narrow = times(gk, times(of_narrow, e * steeper - 1.0 / narrow))
    to_wides = tl.where(by_narrow, to_other - to_first, to_first - to_other)
    return (
        -times(gk, times(of_wide, steep) + times(of_narrow, steeper)),
        times(gk, tl.where(std1 >= std2, to_wides, -to_wides)),
        tl.where(std1 >= std2, to_wide, to_narrow),
        tl.where(std1 >= std2, to_narrow, to_wide),
    )
