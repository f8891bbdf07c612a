"""The divergence of categorical distributions: see `fused_reparam.families.categorical`."""

import triton
import triton.language as tl

from ..approx import exp, log, reciprocal_of_any
from ..scale import times


@triton.jit
def categorical_kl_term(
    log_p, log_q, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """n2, n3: the share that is kept, and what is added to each class."""
    m = n2 * exp(log_p, 1.0, 1.0, EXACT, MATH) + n3
    n = n2 * exp(log_q, 1.0, 1.0, EXACT, MATH) + n3
    return times(m, tl.where(n3 > 0.0, log(m, MATH) - log(n, MATH), log_p - log_q))


@triton.jit
def categorical_kl_term_gradients(
    log_p, log_q, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    p = exp(log_p, 1.0, 1.0, EXACT, MATH)
    q = exp(log_q, 1.0, 1.0, EXACT, MATH)
    m = n2 * p + n3
    n = n2 * q + n3
    apart = tl.where(n3 > 0.0, log(m, MATH) - log(n, MATH), log_p - log_q)
    of_q = tl.where(n3 > 0.0, n2 * q * m * reciprocal_of_any(n, MATH), m)
    return times(times(n2 * p, apart + 1.0), gk), -times(gk, of_q), 0.0, 0.0
