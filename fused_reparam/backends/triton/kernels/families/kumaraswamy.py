"""The Kumaraswamy distribution: see `fused_reparam.families.kumaraswamy`.

Prepared are 1 / a and 1 / b.
"""

import triton
import triton.language as tl

from ..approx import exp, expm1, reciprocal
from ..formulas import finite, in_scales, with_sample
from ..uniform import log_uniform


@triton.jit
def kumaraswamy_prepare(
    p, n, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return finite(reciprocal(p[0], MATH)), finite(reciprocal(p[1], MATH))


@triton.jit
def kumaraswamy_parts(inverse_b, eps, EXACT: tl.constexpr, MATH: tl.constexpr):
    """(t, e, base, log base), where t = eps / b, e = exp(-t) and base = 1 - e.

    None of them is formed by a difference of nearly equal numbers: base comes from expm1, and its
    logarithm from the smaller one of e and base.
    """
    t = in_scales(eps, inverse_b)
    e = exp(-t, 1.0, 1.0, EXACT, MATH)
    base = -expm1(-t, e)
    return t, e, base, log_uniform(tl.minimum(e, base), base > e, MATH)


@triton.jit
def kumaraswamy_draw(
    p, s, eps, n, GIVEN: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    _, _, _, log_base = kumaraswamy_parts(s[1], eps, EXACT, MATH)
    return exp(log_base * s[0], 1.0, 1.0, EXACT, MATH), 0.0, 0.0


@triton.jit
def kumaraswamy_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    """The gradients of 1 / a and, times a, of log t."""
    t, e, base, log_base = kumaraswamy_parts(s[1], eps, EXACT, MATH)
    to_z = gz * exp(log_base * s[0], 1.0, 1.0, EXACT, MATH)
    return with_sample(sums, to_z * log_base, to_z * (e * t * reciprocal(base, MATH)))


@triton.jit
def kumaraswamy_finish(
    p, s, gk, sums, n, TERM_GRADIENTS: tl.constexpr, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr,
    FLOOR: tl.constexpr, SAMPLED: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return -sums[0] * s[0] * s[0], -sums[1] * s[0] * s[1], 0.0, 0.0
