"""The log-normal distribution: see `fused_reparam.families.log_normal`."""

import triton
import triton.language as tl

from ..approx import exp
from ..formulas import with_sample
from ..scale import times


@triton.jit
def log_normal_draw(
    p, s, eps, n, GIVEN: tl.constexpr, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    return exp(p[0] + s[0] * eps, 1.0, 1.0, EXACT, MATH), 0.0, 0.0


@triton.jit
def log_normal_pull(
    p, s, eps, gz, g0, g1, sums, n, KIND: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    dx = times(gz, exp(p[0] + s[0] * eps, 1.0, 1.0, EXACT, MATH))
    return with_sample(sums, dx, dx * eps)


@triton.jit
def log_normal_divergence(
    p, s, n, KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr
):
    """To the log-normal of loc 0 and sigma 1."""
    return 0.5 * (p[0] * p[0] + (s[0] * s[0] - 1.0) - s[1])


@triton.jit
def log_normal_divergence_gradients(
    p, s, gk, found, to_sigma, to_log, n,
    KIND: tl.constexpr, FLOOR: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    to_loc, to_scale, to_prior_loc, to_prior_log = found
    to_scale += times(gk, s[0] * to_sigma - to_log)
    return to_loc + gk * p[0], to_scale, to_prior_loc, to_prior_log
