"""Bernoulli distributions and their relaxed samples: see `fused_reparam.families.bernoulli`."""

import triton
import triton.language as tl

from ..approx import exp, log, reciprocal
from ..scale import clamp, softplus_parts, times

_INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def unsampled_sample(
    a, _b, _c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return a


@triton.jit
def unsampled_sample_gradients(
    a, _b, _c, eps, gz, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return gz, 0.0, 0.0


@triton.jit
def lower_side(logits, prior):
    """Both with the sign that makes the first at most 0."""
    return tl.where(logits > 0.0, -logits, logits), tl.where(logits > 0.0, -prior, prior)


@triton.jit
def bernoulli_term(
    logits, prior, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    a, b = lower_side(logits, prior)
    of_a, e, _ = softplus_parts(a, MATH)
    of_b, _, _ = softplus_parts(b, MATH)
    # To what is certain of the other side it is infinite by the rest alone.
    apart = tl.where(b == _INFINITY, 0.0, a - b)
    return times(e * reciprocal(1.0 + e, MATH), apart) + (of_b - of_a)


@triton.jit
def bernoulli_term_gradients(
    logits, prior, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    a, b = lower_side(logits, prior)
    of_a = exp(a, 1.0, 1.0, EXACT, MATH)
    of_b = exp(-tl.abs(b), 1.0, 1.0, EXACT, MATH)
    rest = reciprocal(1.0 + of_a, MATH)
    share = of_a * rest
    other = reciprocal(1.0 + of_b, MATH)
    g = tl.where(logits > 0.0, -gk, gk)
    to_prior = g * (tl.where(b < 0.0, of_b * other, other) - share)
    return times(times(share, a - b), g * rest), to_prior, 0.0, 0.0


@triton.jit
def relaxed_bernoulli_density_term(
    logits, tau, point, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """n2, n3: least and most, which hold the point."""
    y = clamp(point, n2, n3)
    log_y = log(y, MATH)
    log_rest = log(1.0 - y, MATH)
    size = tl.abs(logits - tau * (log_y - log_rest))
    of_size, _, _ = softplus_parts(-size, MATH)
    return log(tau, MATH) - (size + 2.0 * of_size) - (log_y + log_rest)


@triton.jit
def relaxed_bernoulli_density_term_gradients(
    logits, tau, point, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    y = clamp(point, n2, n3)
    logit = log(y, MATH) - log(1.0 - y, MATH)
    d = logits - tau * logit
    e = exp(-tl.abs(d), 1.0, 1.0, EXACT, MATH)
    half = (1.0 - e) * reciprocal(1.0 + e, MATH)
    to_d = -gk * tl.where(d >= 0.0, half, -half)
    of_y = reciprocal(y, MATH)
    of_rest = reciprocal(1.0 - y, MATH)
    to_y = gk * (of_rest - of_y) - to_d * tau * (of_y + of_rest)
    to_y = tl.where((point < n2) | (point > n3), 0.0, to_y)
    return to_d, gk / tau - to_d * logit, to_y, 0.0


@triton.jit
def missed_of(x, logits):
    """How far a value in [0, 1] is from the end that the logits are for."""
    return tl.where(logits > 0.0, 1.0 - x, x)


@triton.jit
def missed_weight(x, logits):
    """That times the logits' size, also where these are infinite."""
    missed = missed_of(x, logits)
    return times(missed, tl.abs(logits))


@triton.jit
def bernoulli_density_term(
    x, logits, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    rest, _, _ = softplus_parts(-tl.abs(logits), MATH)
    return -(missed_weight(x, logits) + rest)


@triton.jit
def bernoulli_density_term_gradients(
    x, logits, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    e = exp(-tl.abs(logits), 1.0, 1.0, EXACT, MATH)
    apart = e * reciprocal(1.0 + e, MATH) - missed_of(x, logits)
    return times(gk, logits), gk * tl.where(logits > 0.0, apart, -apart), 0.0, 0.0
