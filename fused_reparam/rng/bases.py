"""Noise that is not normal, made from the words of the same stream: the definition.

Every word is a uniform number ``u`` in (0, 1), the middle of its interval::

    u = (word + 1/2) 2^-32     element i takes word i % 4 of block i // 4
    u = (word + 1/2) 2^-64     float64: word = w0 << 32 | w1, then w2 << 32 | w3, of block i // 2

float32 can't hold u near 1, so it is kept as ``v = min(u, 1 - u)`` and the half it lies in: with
both, every function below is exact in both tails, and finite for every word. Student's t takes two
words for an element: ``2 i`` gives u, ``2 i + 1`` an angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import stream as noise_stream


class Uniform(NamedTuple):
    """``u`` in (0, 1) as its distance ``v`` to the nearer end and whether that end is 1."""

    v: Tensor
    upper: Tensor

    def log(self) -> Tensor:
        """ln u."""
        return torch.where(self.upper, torch.log1p(-self.v), torch.log(self.v))

    def signed(self, magnitude: Tensor) -> Tensor:
        """A function of v that is odd about u = 1/2: positive where u is above it."""
        return torch.where(self.upper, magnitude, -magnitude)


def uniform(key: Tensor, blocks: int, dtype: torch.dtype) -> Uniform:
    """The uniform numbers of a key's first blocks: shape (blocks, 4), (blocks, 2) for float64."""
    w = noise_stream.words(key, blocks)
    if dtype == torch.float64:
        high, low = w[:, 0::2], w[:, 1::2]
        upper = high >= 1 << 31
        # 1 - u has the complement's bits. Both parts are below 2^32, and the sum rounds once.
        complement = (high >> 31) * 0xFFFFFFFF
        high, low = (high ^ complement).to(dtype), (low ^ complement).to(dtype)
        v = high.mul_(2.0**32).add_(low).mul_(2.0**-64).add_(2.0**-65)
    else:
        upper = w >= 1 << 31
        # The product by a power of two is exact: this is one fused multiply-add.
        v = torch.minimum(w, w ^ 0xFFFFFFFF).to(dtype).mul_(2.0**-32).add_(2.0**-33)
    return Uniform(v, upper)


def _exponential(u: Uniform) -> Tensor:
    """-ln u."""
    return -u.log()


def _gumbel(u: Uniform) -> Tensor:
    """-ln(-ln u), from -3.1 to 22.9 (float32)."""
    return -torch.log(-u.log())


def _laplace(u: Uniform) -> Tensor:
    """ln(2 u) below u = 1/2, -ln(2 (1 - u)) above."""
    return u.signed(-torch.log(2.0 * u.v))


def _logistic(u: Uniform) -> Tensor:
    """ln(u / (1 - u))."""
    return u.signed(torch.log1p(-u.v) - torch.log(u.v))


def _uniform(u: Uniform) -> Tensor:
    """2 u - 1."""
    return u.signed(1.0 - 2.0 * u.v)


def _cauchy(u: Uniform) -> Tensor:
    """tan(pi (u - 1/2)), up to 2.7e9 (float32)."""
    return u.signed(1.0 / torch.tan(math.pi * u.v))


def _student_t(two: Uniform, df: float) -> Tensor:
    """sqrt(df (u^(-2 / df) - 1)) cos(2 pi u') of two uniforms (Bailey 1994), df > 0.

    The cosine is taken from v' alone, for u' and 1 - u' have the same one.
    """
    u, angle = Uniform(two.v[:, 0::2], two.upper[:, 0::2]), two.v[:, 1::2]
    t, cosine = -2.0 / df * u.log(), torch.cos(2.0 * math.pi * angle)
    # Where e^t - 1 is e^t to the last bit, its root is made by quarters: e^t may overflow before
    # the result does.
    quarter = torch.exp(0.25 * t)
    far = math.sqrt(df) * cosine * quarter * quarter
    near = torch.sqrt(df * torch.expm1(t)) * cosine
    return torch.where(t < (40.0 if t.dtype == torch.float64 else 16.0), near, far)


Base = Callable[[Tensor, int, torch.dtype, float], Tensor]


def _stream_of(member: Callable[..., Tensor], uniforms: int = 1, numbered: bool = False) -> Base:
    """The stream of what one member is made of: so many uniform numbers, and perhaps a number."""

    def make(key: Tensor, n: int, dtype: torch.dtype, number: float) -> Tensor:
        per_block = noise_stream.LANES[dtype] // uniforms
        found = uniform(key, -(-n // per_block), dtype)
        return (member(found, number) if numbered else member(found)).reshape(-1)[:n]

    def stream(key: Tensor, n: int, dtype: torch.dtype, number: float) -> Tensor:
        return noise_stream.in_parts(
            make, key, n, dtype, noise_stream.LANES[dtype] // uniforms, number
        )

    return stream


def _normal(key: Tensor, n: int, dtype: torch.dtype, _: float) -> Tensor:
    return noise_stream.stream(key, n, dtype)


# What one standard member of each family is made of: (key, n, dtype, number) -> shape (n,), dtype
# float32 or float64. The number is Student's degrees of freedom. A backend receives the name.
BASES: dict[str, Base] = {
    "normal": _normal,
    "exponential": _stream_of(_exponential),
    "gumbel": _stream_of(_gumbel),
    "laplace": _stream_of(_laplace),
    "logistic": _stream_of(_logistic),
    "uniform": _stream_of(_uniform),
    "cauchy": _stream_of(_cauchy),
    "student_t": _stream_of(_student_t, uniforms=2, numbered=True),
}

WORDS = dict.fromkeys(BASES, 1) | {"student_t": 2}
"""How many uniform numbers each takes for one of its own."""
