"""What the formulas of element-wise families share: those of loc + sigma eps, and helpers.

The families' own formulas are in `families`, which says what its functions take and give. A family
that has no function of its own for a step takes the one that is here.
"""

# A Triton function returns from every branch or from none, and knows no `in`.
# ruff: noqa: RET505, SIM109

import triton
import triton.language as tl

from .gaussian_backward import GKL_ONE, GKL_SEGMENT
from .scale import LOG_STD, LOGVAR, STD, VAR, located, sigma_squares, slopes, times


@triton.jit
def scale_prepare(
    p, n, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """(sigma, log sigma^2); the logarithm is meaningful only with LOGS."""
    sigma, _, log_square = sigma_squares(p[1], KIND, EXACT, MATH, LOGS)
    return sigma, log_square


@triton.jit
def linear_draw(
    p, s, eps, n, GIVEN: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    """loc + sigma eps, of a family whose term needs no noise."""
    return located(p[0], s[0], eps, GIVEN), 0.0, 0.0


@triton.jit
def linear_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    """The gradients of loc + sigma eps."""
    return with_sample(sums, gz, gz * eps)


@triton.jit
def with_sample(sums, to_loc, to_sigma):
    """The sums with one sample's gradients of loc and sigma added."""
    return sums[0] + to_loc, sums[1] + to_sigma, sums[2], sums[3], sums[4]


@triton.jit
def row_zeros(GTERM: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr, dtype: tl.constexpr):
    """Zeros of the shape that a term's scaled gradient has: those of a whole tile would give the
    sum another layout.
    """
    if GTERM == GKL_ONE:
        return tl.full((), 0.0, dtype)
    elif GTERM == GKL_SEGMENT:
        return tl.zeros((Q, 1), dtype)
    else:
        return tl.zeros((Q, VEC), dtype)


@triton.jit
def tile_zeros(GTERM: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr, dtype: tl.constexpr):
    """Zeros of a whole tile."""
    return tl.zeros((Q, VEC), dtype)


@triton.jit
def scale_finish(
    p, s, gk, sums, n, TERM_GRADIENTS: tl.constexpr, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr,
    FLOOR: tl.constexpr, SAMPLED: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """The gradients of loc, of the scale's parameter, of the prior's mean and of its -log sigma."""
    to_sigma, to_log = slopes(p[1], s[0], KIND, MATH)
    # Only these slopes may be infinite where no gradient of a sample came.
    BOUNDED: tl.constexpr = KIND != LOGVAR and KIND != LOG_STD
    to_scale = sums[1] * to_sigma if BOUNDED else times(sums[1], to_sigma)
    found = sums[0], to_scale, sums[3], sums[4]
    if gk is not None:
        found = TERM_GRADIENTS(p, s, gk, found, to_sigma, to_log, n, KIND, FLOOR, EXACT, MATH)
    if SAMPLED:
        return found[0], found[1] - of_log(sums[2], to_log, KIND), found[2], found[3]
    else:
        return found


@triton.jit
def of_log(gradient, to_log, KIND: tl.constexpr):
    """The gradient of log sigma times its slope, which is infinite only where it is 1 / x."""
    if KIND == STD or KIND == VAR:
        return times(gradient, to_log)
    else:
        return gradient * to_log


@triton.jit
def finite(x):
    """Bounded, so that nothing times it is NaN; NaN stays NaN."""
    MOST: tl.constexpr = 1e308 if x.dtype.is_fp64() else 3e38
    return tl.minimum(x, MOST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def in_scales(size, inverse):
    """size / scale, bounded by 1e4, where e^-x has long been 0. inverse: 1 / scale."""
    return tl.minimum(size * finite(inverse), 1e4, propagate_nan=tl.PropagateNan.ALL)
