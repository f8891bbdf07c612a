"""Uniform numbers of the noise stream, and what is made of them: see `fused_reparam.rng.bases`.

A uniform number u is kept as two tensors: v = min(u, 1 - u), and upper, whether 1 - u is the
smaller one; so both tails are exact in float32 too. float64 takes two words for a number, and so
VEC 2 or DOUBLE says float64 here as elsewhere.
"""

# A Triton function returns from every branch or from none, and knows no `in`.
# ruff: noqa: RET505, SIM109

import math

import triton
import triton.language as tl

from .approx import AMD, LN2, LOG2E, PTX, _amd_log2, log, ptx, series
from .philox import philox

# (-ln(1 - v) - v) / v^2 for 0 <= v <= 1/2, lowest power first: v + v^2 times it is good to 2.4e-8.
_LOG1M: tl.constexpr = tl.constexpr((
    0.49999523162841797, 0.33363211154937744, 0.24368256330490112, 0.26369133591651917,
    -0.18095406889915466, 1.2087184190750122, -1.63959538936615, 1.4145506620407104,
))  # fmt: skip
# -log2(1 - v) / v for 0 <= v <= 1/8, to 6.1e-7.
_LOG2_1M: tl.constexpr = tl.constexpr((
    1.4426943063735962, 0.7215244770050049, 0.47398698329925537, 0.44489261507987976,
))  # fmt: skip
_LOG_LN2: tl.constexpr = tl.constexpr(math.log(math.log(2.0)))


@triton.jit
def uniform32(word):
    """(v, upper) of words: as a signed number a word of the upper half is 2^32 (u - 1) - 1/2."""
    signed = word.to(tl.int32, bitcast=True)
    return tl.abs(signed.to(tl.float32) * 2.0**-32 + 2.0**-33), signed < 0


@triton.jit
def uniform64(high, low):
    """(v, upper) of pairs of words, in float64. Both parts are exact, and their sum rounds once."""
    upper = high >= 0x80000000
    high = tl.where(upper, high ^ 0xFFFFFFFF, high).to(tl.float64)
    low = tl.where(upper, low ^ 0xFFFFFFFF, low).to(tl.float64)
    return (high * 2.0**32 + low) * 2.0**-64 + 2.0**-65, upper


@triton.jit
def _two_blocks(counter, seed, STEP: tl.constexpr, MATH: tl.constexpr):
    """Words 0 to 3 of the blocks counter and counter + STEP, [..., 2] each."""
    a0, a1, a2, a3 = philox(counter, seed, MATH)
    b0, b1, b2, b3 = philox(counter + STEP, seed, MATH)
    return tl.join(a0, b0), tl.join(a1, b1), tl.join(a2, b2), tl.join(a3, b3)


@triton.jit
def even_odd_words(counter, seed, WORDS: tl.constexpr, MATH: tl.constexpr):
    """(even, odd): words 0, 2, 4 ... and 1, 3, 5 ... of the WORDS (4, 8 or 16) words that begin
    with each block of counter (uint64, any shape), in trailing dims of 2 each.

    The words stay in the thread that made them.
    """
    if WORDS == 4:
        w0, w1, w2, w3 = philox(counter, seed, MATH)
    elif WORDS == 8:
        w0, w1, w2, w3 = _two_blocks(counter, seed, 1, MATH)
    else:
        a0, a1, a2, a3 = _two_blocks(counter, seed, 2, MATH)
        b0, b1, b2, b3 = _two_blocks(counter + 1, seed, 2, MATH)
        w0, w1, w2, w3 = tl.join(a0, b0), tl.join(a1, b1), tl.join(a2, b2), tl.join(a3, b3)
    return tl.join(w0, w2), tl.join(w1, w3)


@triton.jit
def uniform_groups(counter, seed, VEC: tl.constexpr, MATH: tl.constexpr):
    """(v, upper) of the VEC numbers that begin with each block of counter (uint64, any shape), in
    trailing dims of 2 each: to be reshaped to [..., VEC].
    """
    even, odd = even_odd_words(counter, seed, 4 if VEC == 2 else VEC, MATH)
    if VEC == 2:
        return uniform64(even, odd)
    else:
        return uniform32(tl.join(even, odd))


@triton.jit
def first_block(offset, start, group, VEC: tl.constexpr):
    """uint64: the block in which each group begins; start: a multiple of VEC."""
    blocks = start // (2 if VEC == 2 else 4)
    return (offset + blocks.to(tl.uint64)) + (group * (2 if VEC == 8 else 1)).to(tl.uint64)


@triton.jit
def uniform_tile(
    seed, offset, start, group, Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr
):
    """(v, upper), [Q, VEC] each, for the elements that `box_muller.normal_tile` makes."""
    v, upper = uniform_groups(first_block(offset, start, group, VEC), seed, VEC, MATH)
    return tl.reshape(v, (Q, VEC)), tl.reshape(upper, (Q, VEC))


@triton.jit
def uniform_at(seed, offset, index, DOUBLE: tl.constexpr, MATH: tl.constexpr):
    """(v, upper) of single elements (index: int64, not negative, any shape): a block for each."""
    lanes: tl.constexpr = 2 if DOUBLE else 4
    w0, w1, w2, w3 = philox(offset + (index // lanes).to(tl.uint64), seed, MATH)
    odd = index % 2 == 1
    if DOUBLE:
        return uniform64(tl.where(odd, w2, w0), tl.where(odd, w3, w1))
    else:
        late = index % 4 >= 2
        return uniform32(tl.where(late, tl.where(odd, w3, w2), tl.where(odd, w1, w0)))


@triton.jit
def fast_log2(x, MATH: tl.constexpr):
    """log2 of a positive normal number, to 2.4e-7 of the larger of 1 and |log2 x|; float64 as
    `log`.
    """
    if MATH == PTX:
        return ptx("lg2.approx.ftz.f32", x)
    elif MATH == AMD:
        return _amd_log2(x)
    else:
        return log(x, MATH) * LOG2E


@triton.jit
def fast_log(x, MATH: tl.constexpr):
    """ln of a positive normal number, to 2e-7 of the larger of 1 and |ln x|; float64 as `log`."""
    if MATH == PTX or MATH == AMD:
        return fast_log2(x, MATH) * LN2
    else:
        return log(x, MATH)


@triton.jit
def log_uniform(v, upper, MATH: tl.constexpr):
    """ln u, to 3e-7 of itself (float64: 1e-15).

    Below u = 1/2 it is at least ln 2 in size, where the hardware's logarithm is good; above, it is
    ln(1 - v), which nears zero as v does, and there the hardware's absolute error would be all.
    """
    if v.dtype.is_fp64():
        # a = 1 - v is rounded, and so ln a by as much of itself as 1 - a is off v (Kahan).
        a = 1.0 - v
        lost = tl.where(a == 1.0, 1.0, 1.0 - a)
        return tl.where(upper, tl.where(a == 1.0, -v, log(a, MATH) * (v / lost)), log(v, MATH))
    else:
        near = v * series(v, 8, _LOG1M)
        return tl.where(upper, -(v * near + v), fast_log(v, MATH))


@triton.jit
def gumbel_log2(v, upper, MATH: tl.constexpr):
    """(g + ln ln 2) / ln 2 = -log2(-log2 u) of Gumbel noise g = -ln(-ln u); finite for every word.

    A relative error of the inner logarithm is an absolute one of g, so the hardware's logarithm (an
    error of 2^-22 near 1) serves up to u = 7/8, where it costs 1.3e-6, and four terms of a series
    above.
    """
    if v.dtype.is_fp64():
        return -log(-log_uniform(v, upper, MATH) * LOG2E, MATH) * LOG2E
    else:
        u = tl.where(upper, 1.0 - v, v)
        near = v * series(v, 4, _LOG2_1M)
        return -fast_log2(tl.where(u > 0.875, near, -fast_log2(u, MATH)), MATH)


@triton.jit
def gumbel(v, upper, MATH: tl.constexpr):
    """-ln(-ln u): finite for every word."""
    if v.dtype.is_fp64():
        return -log(-log_uniform(v, upper, MATH), MATH)
    else:
        return gumbel_log2(v, upper, MATH) * LN2 - _LOG_LN2
