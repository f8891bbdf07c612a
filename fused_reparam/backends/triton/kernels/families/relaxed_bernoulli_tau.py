"""The relaxed Bernoulli with tau as a parameter: see `fused_reparam.families.relaxed_bernoulli`."""

import triton
import triton.language as tl

from ..approx import exp, reciprocal
from ..scale import times


@triton.jit
def temperature(tau):
    """NaN where it is not above 0."""
    return tl.where(tau > 0.0, tau, float("nan"))


@triton.jit
def relaxed_bernoulli_tau_sample(
    logits, tau, _c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    t = (logits + eps) / temperature(tau)
    e = exp(-tl.abs(t), 1.0, 1.0, EXACT, MATH)
    share = reciprocal(1.0 + e, MATH)
    return tl.where(t >= 0.0, share, e * share)


@triton.jit
def hard_bernoulli_tau_sample(
    logits, tau, _c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    total = logits + eps
    hard = tl.where(total > 0.0, 1.0, 0.0).to(total.dtype)
    hard = tl.where(total == total, hard, total)
    return tl.where(tau > 0.0, hard, float("nan"))


@triton.jit
def relaxed_bernoulli_tau_sample_gradients(
    logits, tau, _c, eps, gz, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    t = (logits + eps) / temperature(tau)
    e = exp(-tl.abs(t), 1.0, 1.0, EXACT, MATH)
    share = reciprocal(1.0 + e, MATH)
    to_t = gz * (e * share) * share
    return times(to_t, 1.0 / tau), -times(to_t, t / tau), 0.0


hard_bernoulli_tau_sample_gradients = relaxed_bernoulli_tau_sample_gradients
