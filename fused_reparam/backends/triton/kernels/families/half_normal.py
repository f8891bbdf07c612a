"""The half-normal distribution, and the sample of every folded one: see
`fused_reparam.families.half_normal`.
"""

import triton
import triton.language as tl

from ..approx import log
from ..scale import times


@triton.jit
def folded_sample(
    scale, _b, _c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return scale * tl.abs(eps)


@triton.jit
def folded_sample_gradients(
    scale, _b, _c, eps, gz, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return gz * tl.abs(eps), 0.0, 0.0


@triton.jit
def half_normal_term(
    scale, _b, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """n2, n3: the prior's scale and its logarithm."""
    r = scale / n2
    return 0.5 * (r * r - 1.0) - (log(scale, MATH) - n3)


@triton.jit
def half_normal_term_gradients(
    scale, _b, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return times(gk, (scale / n2) / n2 - 1.0 / scale), 0.0, 0.0, 0.0


@triton.jit
def half_normal_prior_term(
    scale, prior, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return half_normal_term(
        scale, scale, scale, scale, prior, log(prior, MATH), n4, n5, n6, EXACT, MATH
    )  # fmt: skip


@triton.jit
def half_normal_prior_term_gradients(
    scale, prior, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    r = scale / prior
    steep = r / prior
    return times(gk, steep - 1.0 / scale), times(gk, 1.0 / prior - r * steep), 0.0, 0.0
