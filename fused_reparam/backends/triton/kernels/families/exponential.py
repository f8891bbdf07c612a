"""The exponential distribution: see `fused_reparam.families.exponential`."""

import triton
import triton.language as tl

from ..approx import log
from ..scale import times


@triton.jit
def exponential_sample(
    rate, _b, _c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return eps / rate


@triton.jit
def exponential_sample_gradients(
    rate, _b, _c, eps, gz, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return -(times(gz, eps / rate) / rate), 0.0, 0.0


@triton.jit
def exponential_term(
    rate, _b, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """n2, n3: the prior's rate and its logarithm."""
    return n2 / rate - 1.0 - (n3 - log(rate, MATH))


@triton.jit
def exponential_term_gradients(
    rate, _b, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return times(gk, 1.0 - n2 / rate) / rate, 0.0, 0.0, 0.0


@triton.jit
def exponential_prior_term(
    rate, prior, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return exponential_term(
        rate, rate, rate, rate, prior, log(prior, MATH), n4, n5, n6, EXACT, MATH
    )  # fmt: skip


@triton.jit
def exponential_prior_term_gradients(
    rate, prior, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    to_rate = times(gk, 1.0 - prior / rate) / rate
    return to_rate, times(gk, 1.0 / rate - 1.0 / prior), 0.0, 0.0
