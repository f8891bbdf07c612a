"""The half-Cauchy distribution: see `fused_reparam.families.half_cauchy`."""

import triton
import triton.language as tl

from ..approx import log
from ..scale import times


@triton.jit
def half_cauchy_term(
    scale, _b, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """n2, n3: half the prior's scale, and the scale's logarithm."""
    return 2.0 * log(0.5 * scale + n2, MATH) - log(scale, MATH) - n3


@triton.jit
def half_cauchy_term_gradients(
    scale, _b, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    half = 0.5 * scale
    return times(gk, (half - n2) / (half + n2)) / scale, 0.0, 0.0, 0.0


@triton.jit
def half_cauchy_prior_term(
    scale, prior, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return half_cauchy_term(
        scale, scale, scale, scale, 0.5 * prior, log(prior, MATH), n4, n5, n6, EXACT, MATH
    )  # fmt: skip


@triton.jit
def half_cauchy_prior_term_gradients(
    scale, prior, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    half = 0.5 * scale
    slope = times(gk, (half - 0.5 * prior) / (half + 0.5 * prior))
    return slope / scale, -slope / prior, 0.0, 0.0
