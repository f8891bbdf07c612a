"""Floating-point arithmetic as PTX has it, on numpy arrays: what numpy itself lacks.

Each function rounds once, as the instruction does; where numpy's own operators do so already
(addition, multiplication, division and square roots to the nearest number), they are used.
"""

import numpy as np

from .types import F32, F64, I64, U16, U32, U64, UNSIGNED


def flush(x):
    """Subnormal float32 to zero of the same sign."""
    return np.where(np.abs(x) < F32(2.0**-126), np.copysign(F32(0), x), x)


def fma32(a, b, c):
    """a * b + c, rounded once.

    The product is exact in float64. A sum that float64 rounded to the middle between two float32,
    or that will be subnormal, is moved to its odd neighbour on the exact sum's side.
    """
    p, c = np.multiply(a, b, dtype=F64), np.asarray(c, F64)
    s = p + c
    doubtful = (s.view(U64) & U64(0x1FFFFFFF)) == U64(0x10000000)
    doubtful |= np.abs(s) < 2.0**-125
    if doubtful.any():
        t = s - p
        lost = (p - (s - t)) + (c - t)
        fix = doubtful & (lost != 0) & np.isfinite(s) & ((s.view(I64) & 1) == 0)
        away = np.where((lost > 0) == (s > 0), 1, -1)
        s = np.where(fix, s.view(I64) + away, s.view(I64)).view(F64)
    return s.astype(F32)


def _split(x):
    """Two halves of a number, whose products are exact."""
    t = x * 134217729.0
    high = t - (t - x)
    return high, x - high


def fma64(a, b, c):
    """a * b + c, rounded once by error-free transforms: but for ties that only 2^-105 decides."""
    a, b, c = (np.asarray(v, F64) for v in (a, b, c))
    p = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    e = ((ah * bh - p) + ah * bl + al * bh) + al * bl
    s = p + c
    t = s - p
    r = s + (((p - (s - t)) + (c - t)) + e)
    bad = ~np.isfinite(r) | (np.abs(p) <= 2.0**-960)
    bad |= (np.abs(a) > 2.0**990) | (np.abs(b) > 2.0**990)
    if bad.any():
        wide = np.longdouble
        other = (a.astype(wide) * b.astype(wide) + c.astype(wide)).astype(F64)
        r = np.where(bad, other, r)
    return r


def minimum(a, b, dtype, nan):
    """min.f: the number where one is NaN, NaN with `nan`; -0 below +0."""
    r = (np.minimum if nan else np.fmin)(a, b)
    zero = (a == 0) & (b == 0)
    return np.where(zero, np.where(np.signbit(a) | np.signbit(b), dtype(-0.0), dtype(0.0)), r)


def maximum(a, b, dtype, nan):
    """As `minimum`; +0 above -0."""
    return -minimum(-a, -b, dtype, nan)


def to_bf16(x):
    """float32 -> bits, to nearest even; NaN is 0x7fff."""
    bits = x.view(U32)
    up = (bits + (U32(0x7FFF) + ((bits >> U32(16)) & U32(1)))) >> U32(16)
    return np.where(np.isnan(x), U32(0x7FFF), up).astype(U16)


def of_bf16(bits):
    """Bits -> float32, exactly."""
    return (bits.astype(U32) << U32(16)).view(F32)


def to_integer(x, dtype, how):
    """Float to integer: saturates; NaN is 0, or the upper bit where a type has 64 bits."""
    r = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[how](x.astype(F64))
    info = np.iinfo(dtype)
    low, high = F64(info.min), F64(info.max)
    inside = np.where((r > low) & (r < high), r, 0.0).astype(dtype)
    out = np.where(r >= high, info.max, np.where(r <= low, info.min, inside)).astype(dtype)
    if x.dtype == F64 or info.bits == 64:
        nan = UNSIGNED[info.bits // 8](1 << (info.bits - 1)).view(dtype)
    else:
        nan = dtype(0)
    return np.where(np.isnan(x), nan, out).astype(dtype)
