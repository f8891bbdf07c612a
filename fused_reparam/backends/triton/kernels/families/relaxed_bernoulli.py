"""The relaxed Bernoulli distribution: see `fused_reparam.families.relaxed_bernoulli`.

Constant: 1 / tau. KIND 1 is the straight-through form.
"""

import triton
import triton.language as tl

from ..approx import exp, reciprocal
from ..constants import Constants
from ..formulas import with_sample


def relaxed_bernoulli_constants(tau):
    return Constants((min(1.0 / tau, 3e38),))


@triton.jit
def relaxed_bernoulli_prepare(
    p, n, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr, LOGS: tl.constexpr,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return (p[0],)


@triton.jit
def relaxed_bernoulli_draw(
    p, s, eps, n, GIVEN: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    total = p[0] + eps
    if KIND == 1:
        hard = tl.where(total > 0.0, 1.0, 0.0).to(total.dtype)
        z = tl.where(total == total, hard, total)
    else:
        t = total * n[0]
        e = exp(-tl.abs(t), 1.0, 1.0, EXACT, MATH)
        share = reciprocal(1.0 + e, MATH)
        z = tl.where(t >= 0.0, share, e * share)
    return z, 0.0, 0.0


@triton.jit
def relaxed_bernoulli_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    e = exp(-tl.abs((p[0] + eps) * n[0]), 1.0, 1.0, EXACT, MATH)
    share = reciprocal(1.0 + e, MATH)
    return with_sample(sums, gz * (e * share) * share * n[0], 0.0)


@triton.jit
def relaxed_bernoulli_finish(
    p, s, gk, sums, n, TERM_GRADIENTS: tl.constexpr, KIND: tl.constexpr, PRIOR_KIND: tl.constexpr,
    FLOOR: tl.constexpr, SAMPLED: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return sums[0], 0.0, 0.0, 0.0
