"""Approximate instructions: exact in float64 and rounded once, or wrong by their documented bounds.

What a GPU's special function units return is documented by its largest error only. `Errors.scale`
adds an error of up to so many times that bound. It is a function of the argument's bits, so that
equal arguments give equal results, and lies at the bound itself three times of four.
"""

import numpy as np

from .floating import flush
from .types import F32, F64, U32, U64


class Errors:
    """How wrong approximate instructions are; `salt` chooses among the errors."""

    scale = 0.0
    salt = 0

    @classmethod
    def spoil(cls, x, exact, absolute, relative):
        """exact (float64) with an error that is a function of the bits of x."""
        if not cls.scale:
            return exact
        h = x.view(U32) * U32(2654435761) + U32(cls.salt * 40503 + 977)
        h ^= h >> U32(15)
        h *= U32(2246822519)
        h ^= h >> U32(13)
        unit = h.astype(F64) * 2.0**-31 - 1.0  # uniform
        unit = np.where(h & U32(3), np.sign(unit), unit)  # mostly at the bound
        error = absolute + relative * np.abs(exact)
        return exact + np.where(np.isfinite(exact), cls.scale * unit * error, 0.0)


def _round(x, ftz):
    r = x.astype(F32)
    return flush(r) if ftz else r


def _bounds(name, v):
    """(absolute, relative) error of an instruction of float32, from the PTX manual."""
    if name == "lg2":
        near = (v > 0.5) & (v < 2.0)
        return np.where(near, 2.0**-22, 0.0), np.where(near, 0.0, 2.0**-22)
    if name in ("sin", "cos"):  # within [-pi, pi], and then as far as the manual says
        inner = 2.0**-21.41 if name == "sin" else 2.0**-21.19
        return np.where(np.abs(v) <= 3.1415928, inner, 2.0**-20.5), 0.0
    relative = {"ex2": -22.0, "sqrt": -23.0, "rsqrt": -22.9, "rcp": -23.0, "tanh": -11.0}
    return 0.0, 2.0 ** relative[name]


_EXACT = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda v: 1.0 / np.sqrt(v),
    "rcp": lambda v: 1.0 / v,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


def approximate(name, x, ftz):
    """name.approx(.ftz).f32"""
    if ftz:
        x = flush(x)
    v = x.astype(F64)
    exact = _EXACT[name](v)
    return _round(Errors.spoil(x, exact, *_bounds(name, v)), ftz)


def divide_full(a, b, ftz):
    """div.full(.ftz).f32"""
    if ftz:
        a, b = flush(a), flush(b)
    q = a.astype(F64) / b.astype(F64)
    return _round(Errors.spoil(np.asarray(b, F32) + F32(0), q, 0.0, 2.0**-22), ftz)


def gross64(name, x):
    """rcp and rsqrt.approx.ftz.f64, which read and write the upper halves of numbers only."""
    x = (x.view(U64) & U64(0xFFFFFFFF00000000)).view(F64)
    x = np.where(np.abs(x) < 2.0**-1022, np.copysign(0.0, x), x)
    r = 1.0 / x if name == "rcp" else 1.0 / np.sqrt(x)
    r = np.where(np.abs(r) < 2.0**-1022, np.copysign(0.0, r), r)
    return (r.view(U64) & U64(0xFFFFFFFF00000000)).view(F64)
