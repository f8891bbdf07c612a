"""The noise stream, version 1: standard normals as a pure function of a key and a block index.

A tile is [Q, VEC]: Q groups of VEC consecutive elements, one 128-bit access each (VEC is 2 for
float64, 4 for float32, 8 for the 16-bit types). Each Philox block's normals stay in the thread that
made them, so a tile is laid out without a shuffle.
"""

# A Triton function returns from every branch or from none.
# ruff: noqa: RET505

import triton
import triton.language as tl

from .approx import PI, PORTABLE, cos_sin, cos_sin_pi, radius
from .philox import philox


@triton.jit
def pair32(w0, w1, MATH: tl.constexpr):
    """Both Box-Muller normals of two words, in float32.

    The angle is taken from the signed word, so it lies in [-pi, pi] and no range reduction is
    needed.
    """
    u = w0.to(tl.float32) * 2.0**-32 + 2.0**-33
    if MATH == PORTABLE:
        angle = (w1.to(tl.float32) * 2.0**-32 + 2.0**-33) * (2.0 * PI)
    else:
        turns = w1.to(tl.int32, bitcast=True).to(tl.float32)
        angle = turns * (2.0 * PI * 2.0**-32) + (2.0 * PI * 2.0**-33)
    r = radius(u, MATH)
    c, s = cos_sin(angle, MATH)
    return r * c, r * s


@triton.jit
def pair64(w0, w1, w2, w3, MATH: tl.constexpr):
    """Both Box-Muller normals of one block, in float64."""
    high = (w0.to(tl.uint64) << 32) | w1.to(tl.uint64)
    turns = (w2.to(tl.uint64) << 32) | w3.to(tl.uint64)
    u = tl.maximum(high.to(tl.float64) * 2.0**-64, 2.0**-64)
    c, s = cos_sin_pi(turns.to(tl.float64) * 2.0**-63, MATH)
    r = radius(u, MATH)
    return r * c, r * s


@triton.jit
def normal_tile(seed, offset, start, group, Q: tl.constexpr, VEC: tl.constexpr, MATH: tl.constexpr):
    """[Q, VEC] normals: row q holds the elements start + VEC * group[q] ... of the key's stream.

    seed, offset: the key, uint64. start: int64 scalar, a multiple of VEC. group: int32 [Q]. The
    counter costs one 64-bit addition, with its carry, for each block.
    """
    blocks = start // (2 if VEC == 2 else 4)
    counter = offset + blocks.to(tl.uint64)
    if VEC == 2:
        w0, w1, w2, w3 = philox(counter + group.to(tl.uint64), seed, MATH)
        even, odd = pair64(w0, w1, w2, w3, MATH)
        return tl.join(even, odd)
    elif VEC == 4:
        w0, w1, w2, w3 = philox(counter + group.to(tl.uint64), seed, MATH)
        n0, n1 = pair32(w0, w1, MATH)
        n2, n3 = pair32(w2, w3, MATH)
        return tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (Q, 4))
    else:
        counters = counter + (group * 2).to(tl.uint64)
        w0, w1, w2, w3 = philox(counters, seed, MATH)
        v0, v1, v2, v3 = philox(counters + 1, seed, MATH)
        n0, n1 = pair32(w0, w1, MATH)
        n2, n3 = pair32(w2, w3, MATH)
        n4, n5 = pair32(v0, v1, MATH)
        n6, n7 = pair32(v2, v3, MATH)
        even = tl.join(tl.join(n0, n4), tl.join(n2, n6))
        odd = tl.join(tl.join(n1, n5), tl.join(n3, n7))
        return tl.reshape(tl.join(even, odd), (Q, 8))


@triton.jit
def normal_elements(seed, offset, index, MATH: tl.constexpr, DOUBLE: tl.constexpr):
    """The stream's elements `index` (int64, any shape), each from a block made for it alone."""
    if DOUBLE:
        w0, w1, w2, w3 = philox(offset + (index >> 1).to(tl.uint64), seed, MATH)
        even, odd = pair64(w0, w1, w2, w3, MATH)
    else:
        w0, w1, w2, w3 = philox(offset + (index >> 2).to(tl.uint64), seed, MATH)
        late = (index & 2) != 0
        even, odd = pair32(tl.where(late, w2, w0), tl.where(late, w3, w1), MATH)
    return tl.where((index & 1) != 0, odd, even)
