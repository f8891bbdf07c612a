"""The kernel that writes base noise itself."""

# Triton reads the annotations "i64" and "fp64" as the types of numbers.
# ruff: noqa: F821

import triton
import triton.language as tl

from .approx import narrow
from .bases import base_tile
from .keys import read_key
from .tiles import DENSE, flat_mask, flat_tile, locate


@triton.jit
def fill_tile(
    seed, offset, out, n, df, power,
    BASE: tl.constexpr, TAIL: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    start, group = flat_tile(Q, VEC)
    mask = None
    if TAIL > 0:
        mask = flat_mask(start, group, n, Q, VEC, TAIL)
    dtype: tl.constexpr = tl.float64 if VEC == 2 else tl.float32
    noise = base_tile(
        seed, offset, start, group, tl.full((), df, dtype), tl.full((), power, dtype),
        BASE, True, Q, VEC, MATH,
    )  # fmt: skip
    at = locate(out, start, group, 0, 0, 0, 0, VEC, DENSE, 0)
    tl.store(at, narrow(noise, out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "seed", "offset"])
def fill_kernel(
    key, out, n: "i64", seed: "i64", offset: "i64", df: "fp64", power: "fp64",
    KEY: tl.constexpr, BASE: tl.constexpr, TAIL: tl.constexpr, Q: tl.constexpr, VEC: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """out: n elements; key, seed, offset: as `keys.read_key` takes them; df, power: as `bases`."""
    n = tl.cast(n, tl.int64)
    seed, offset = read_key(key, seed, offset, KEY)
    if TAIL > 0:
        if (tl.program_id(0).to(tl.int64) + 1) * (Q * VEC) <= n:
            fill_tile(seed, offset, out, n, df, power, BASE, 0, Q, VEC, MATH)
        else:
            fill_tile(seed, offset, out, n, df, power, BASE, TAIL, Q, VEC, MATH)
    else:
        fill_tile(seed, offset, out, n, df, power, BASE, TAIL, Q, VEC, MATH)
