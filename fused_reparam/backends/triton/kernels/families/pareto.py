"""The Pareto distribution: see `fused_reparam.families.pareto`."""

import triton
import triton.language as tl

from ..approx import log
from ..scale import times
from ..stretch import stretch, stretch_gradients


@triton.jit
def pareto_sample(
    scale, alpha, _c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    _, half = stretch(eps, alpha, EXACT, MATH)
    return (scale * half) * half


@triton.jit
def pareto_sample_gradients(
    scale, alpha, _c, eps, gz, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    to_scale, to_alpha = stretch_gradients(scale, eps, alpha, gz, EXACT, MATH)
    return to_scale, to_alpha, 0.0


@triton.jit
def pareto_term(
    scale, alpha, _c, _d, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """n2 .. n5: the prior's scale, its logarithm, the prior's alpha, its logarithm."""
    of_alpha = n4 / alpha - 1.0 - (n5 - log(alpha, MATH))
    kl = n4 * (log(scale, MATH) - n3) + of_alpha
    return tl.where(scale < n2, float("inf"), kl)


@triton.jit
def pareto_term_gradients(
    scale, alpha, _c, _d, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    gk = tl.where(scale < n2, 0.0, gk)
    return times(gk, n4 / scale), times(gk, 1.0 - n4 / alpha) / alpha, 0.0, 0.0


@triton.jit
def pareto_prior_term(
    scale, alpha, prior_scale, prior_alpha, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    return pareto_term(
        scale, alpha, alpha, alpha, prior_scale, log(prior_scale, MATH), prior_alpha,
        log(prior_alpha, MATH), n6, EXACT, MATH,
    )  # fmt: skip


@triton.jit
def pareto_prior_term_gradients(
    scale, alpha, prior_scale, prior_alpha, gk, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    gk = tl.where(scale < prior_scale, 0.0, gk)
    apart = log(scale, MATH) - log(prior_scale, MATH)
    return (
        times(gk, prior_alpha / scale),
        times(gk, 1.0 - prior_alpha / alpha) / alpha,
        -times(gk, prior_alpha / prior_scale),
        times(gk, apart + (1.0 / alpha - 1.0 / prior_alpha)),
    )
