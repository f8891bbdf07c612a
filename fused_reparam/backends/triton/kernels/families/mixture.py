"""The Gaussian measured against a mixture of two: see `fused_reparam.families.mixture`.

Constants: the prior's mean, 1 / std of its wider normal, and what `wider_and_narrower` gives.
"""

import triton
import triton.language as tl

from .....families.mixture import wider_and_narrower
from ..approx import exp, reciprocal
from ..constants import Constants
from ..formulas import with_sample
from ..scale import times
from ..uniform import fast_log


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
def mixture_draw(p, s, eps, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr):
    """z, and log q(z) - log p(z)."""
    x = p[0] + s[0] * eps
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
