"""Philox4x32-10: the counter-based generator under the noise stream (Salmon et al., SC 2011)."""

import triton
import triton.language as tl

from .approx import PTX

_MULTIPLIER_0: tl.constexpr = tl.constexpr(0xD2511F53)
_MULTIPLIER_1: tl.constexpr = tl.constexpr(0xCD9E8D57)
_WEYL_0: tl.constexpr = tl.constexpr(0x9E3779B9)
_WEYL_1: tl.constexpr = tl.constexpr(0xBB67AE85)


@triton.jit
def widen_multiply(a, multiplier: tl.constexpr, MATH: tl.constexpr):
    """High and low word of a 32x32 product.

    The uint64 product becomes one wide multiply; PTX says so itself, for where the compiler has
    merged the operand into 64-bit logic it adds instructions for an upper half that is zero.
    """
    if MATH == PTX:
        product = tl.inline_asm_elementwise(
            f"mul.wide.u32 $0, $1, {multiplier};",
            "=l,r",
            [a],
            dtype=tl.uint64,
            is_pure=True,
            pack=1,
        )
    else:
        product = a.to(tl.uint64) * multiplier
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def philox(counter, seed, MATH: tl.constexpr):
    """The four words of every block in `counter` (uint64, any shape) under the uint64 scalar
    `seed`.
    """
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    # The first round by hand: words 2 and 3 of the counter are zero.
    high0, low0 = widen_multiply(counter.to(tl.uint32), _MULTIPLIER_0, MATH)
    c0 = (counter >> 32).to(tl.uint32) ^ k0
    c1 = tl.zeros_like(c0)
    c2 = high0 ^ k1
    c3 = low0
    return last_rounds(c0, c1, c2, c3, k0, k1, MATH)


@triton.jit
def philox_of_subsequence(counter, subsequence, seed, MATH: tl.constexpr):
    """The words of one block of each subsequence (uint32, any shape), as cuRAND counts them: the
    uint64 scalar `counter` is words 0 and 1, the subsequence words 2 and 3.
    """
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    c2 = subsequence
    c1 = tl.zeros_like(c2) + (counter >> 32).to(tl.uint32)
    high0, low0 = widen_multiply(tl.zeros_like(c2) + counter.to(tl.uint32), _MULTIPLIER_0, MATH)
    high1, low1 = widen_multiply(c2, _MULTIPLIER_1, MATH)
    return last_rounds(high1 ^ c1 ^ k0, low1, high0 ^ k1, low0, k0, k1, MATH)


@triton.jit
def last_rounds(c0, c1, c2, c3, k0, k1, MATH: tl.constexpr):
    """All rounds but the first, which leaves these words and has used this key."""
    for _ in tl.static_range(9):
        k0 = (k0.to(tl.uint64) + _WEYL_0).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + _WEYL_1).to(tl.uint32)
        high0, low0 = widen_multiply(c0, _MULTIPLIER_0, MATH)
        high1, low1 = widen_multiply(c2, _MULTIPLIER_1, MATH)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
    return c0, c1, c2, c3
