"""The generalized Pareto distribution: see `fused_reparam.families.generalized_pareto`."""

import math

import triton
import triton.language as tl

from ..approx import exp, expm1, series
from ..scale import times

# ((e^t - 1) / t)' in powers of t.
_SLOPE: tl.constexpr = tl.constexpr(tuple((k + 1) / math.factorial(k + 2) for k in range(13)))


@triton.jit
def generalized_pareto_parts(c, eps, EXACT: tl.constexpr, MATH: tl.constexpr):
    """With t = c eps: (t, e^t - 1, that / t, e^(t / 2), that / c, whether e^t - 1 is e^t to the
    last bit, which may overflow before the sample does).
    """
    t = c * eps
    minus = expm1(t, exp(t, 1.0, 1.0, EXACT, MATH))
    growth = tl.where(t == 0.0, 1.0, minus / tl.where(t == 0.0, 1.0, t))
    half = exp(t, 0.5, 1.0, EXACT, MATH)
    FAR: tl.constexpr = 40.0 if t.dtype.is_fp64() else 16.0
    return t, minus, growth, half, half / c, t > FAR


@triton.jit
def generalized_pareto_sample(
    loc, scale, c, eps, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    _, _, growth, half, quotient, far = generalized_pareto_parts(c, eps, EXACT, MATH)
    return loc + tl.where(far, (scale * half) * quotient, scale * (eps * growth))


@triton.jit
def generalized_pareto_sample_gradients(
    loc, scale, c, eps, gz, n2, n3, n4, n5, n6,
    EXACT: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    t, minus, growth, half, quotient, far = generalized_pareto_parts(c, eps, EXACT, MATH)
    direct = (t * (minus + 1.0) - minus) / (t * t)
    near = tl.where(tl.abs(t) < 0.5, t, 0.0)
    slope = tl.where(tl.abs(t) < 0.5, series(near, 13 if t.dtype.is_fp64() else 8, _SLOPE), direct)
    to_scale = tl.where(far, times(times(gz, half), quotient), times(gz, eps * growth))
    far_c = times(times(gz, scale * half), quotient * ((t - 1.0) / c))
    return gz, to_scale, tl.where(far, far_c, times(gz, scale * (eps * eps * slope)))
