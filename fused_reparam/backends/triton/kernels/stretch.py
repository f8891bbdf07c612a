"""e^(x / y) in two factors."""

import triton
import triton.language as tl

from .approx import exp
from .scale import clamp, times


@triton.jit
def stretch(x, y, EXACT: tl.constexpr, MATH: tl.constexpr):
    """(x / y, e^(x / 2 y)).

    A product with the exponential twice neither overflows nor underflows before its result does.
    """
    MOST: tl.constexpr = 3000.0 if x.dtype.is_fp64() else 400.0
    quotient = x / y
    half = exp(clamp(quotient, -MOST, MOST), 0.5, 1.0, EXACT, MATH)
    return quotient, half


@triton.jit
def stretch_gradients(scale, x, y, gz, EXACT: tl.constexpr, MATH: tl.constexpr):
    """Those of scale and y in scale e^(x / y)."""
    quotient, half = stretch(x, y, EXACT, MATH)
    to_y = -(times(times(gz, (scale * half) * half), quotient) / y)
    return times(times(gz, half), half), to_y
