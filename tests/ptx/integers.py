"""Integer instructions of PTX on numpy arrays, where numpy has no operator for them."""

import numpy as np

from .types import I64, U32, U64, Unknown


def quotient(a, b):
    """Towards zero."""
    b = np.where(b == 0, b.dtype.type(1), b)
    q = a // b
    if a.dtype.kind == "i":
        q = q + ((a - q * b != 0) & ((a < 0) != (b < 0))).astype(a.dtype)
    return q


def remainder(a, b):
    """With the sign of a."""
    return a - quotient(a, b) * b


def high_product(a, b):
    """The upper half of a product of 32 or 64 bits."""
    if a.dtype.itemsize == 4:
        wide = I64 if a.dtype.kind == "i" else U64
        return (a.astype(wide) * b.astype(wide) >> wide(32)).astype(a.dtype)
    if a.dtype.kind == "i":
        raise Unknown("mul.hi.s64")
    mask, half = U64(0xFFFFFFFF), U64(32)
    b = np.asarray(b, U64)
    al, ah, bl, bh = a & mask, a >> half, b & mask, b >> half
    middle = ah * bl + (al * bl >> half)
    other = al * bh + (middle & mask)
    return ah * bh + (middle >> half) + (other >> half)


def extract(a, pos, length, signed):
    """bfe: bits pos .. pos + length - 1."""
    pos, length = (np.asarray(v, U32) & U32(255) for v in (pos, length))
    bits = a.dtype.itemsize * 8
    wide = np.asarray(a, U64)
    mask = np.where(length >= 64, ~U64(0), (U64(1) << np.minimum(length, 63).astype(U64)) - U64(1))
    out = (wide >> np.minimum(pos, 63).astype(U64)) & mask
    if signed:
        top = np.minimum(pos + length - U32(1), U32(bits - 1)).astype(U64)
        negative = ((wide >> top) & U64(1)).astype(bool) & (length > 0)
        out = np.where(negative, out | ~mask, out)
    return out.astype(a.dtype)


def permute(a, b, selector):
    """prmt: four of the eight bytes of a and b."""
    both = (np.asarray(b, U64) << U64(32)) | np.asarray(a, U64)
    selector, out = np.asarray(selector, U32), U32(0)
    for i in range(4):
        pick = (selector >> U32(4 * i)) & U32(15)
        byte = ((both >> ((pick & U32(7)) * U32(8)).astype(U64)) & U64(255)).astype(U32)
        sign = np.where(byte & U32(128), U32(255), U32(0))
        out = out | (np.where(pick & U32(8), sign, byte) << U32(8 * i))
    return out


def logic3(a, b, c, table):
    """lop3: a function of three bits by its table of eight."""
    out = U32(0)
    for i in range(8):
        if table >> i & 1:
            out = out | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return out
