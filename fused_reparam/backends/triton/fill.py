"""The kernel that writes the noise stream itself."""

# Triton reads the annotations "i64" and "fp64" as the types of numbers.
# ruff: noqa: F821

import triton
import triton.language as tl

from .approx import narrow
from .box_muller import normal_tile
from .tiles import DENSE, flat_mask, flat_tile, locate


@triton.jit
def fill_tile(
    key, out, n, TAIL: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr
):
    start, group = flat_tile(Q, VEC)
    mask = None
    if TAIL > 0:
        mask = flat_mask(start, group, n, Q, VEC, TAIL)
    noise = normal_tile(key, start, group, Q, VEC, MATH)
    at = locate(out, start, group, 0, 0, 0, 0, VEC, DENSE, 0)
    tl.store(at, narrow(noise, out.dtype.element_ty), mask=mask)


@triton.jit(
    do_not_specialize=[
        "n",
    ]
)
def fill_kernel(
    key, out, n: "i64", TAIL: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr
):
    """out: n elements; key: int64 [2]."""
    n = tl.cast(n, tl.int64)
    if TAIL > 0:
        if (tl.program_id(0).to(tl.int64) + 1) * (Q * VEC) <= n:
            fill_tile(key, out, n, 0, Q, VEC, MATH)
        else:
            fill_tile(key, out, n, TAIL, Q, VEC, MATH)
    else:
        fill_tile(key, out, n, TAIL, Q, VEC, MATH)
