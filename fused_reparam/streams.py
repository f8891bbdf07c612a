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

from . import noise


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


def uniform(key: Tensor, n: int, dtype: torch.dtype) -> Uniform:
    """The first n uniform numbers of a key, shape (n,); dtype float32 or float64."""
    w = noise.words(key, -(-n // noise.LANES[dtype]))
    if dtype == torch.float64:
        high, low = w[:, 0::2].reshape(-1)[:n], w[:, 1::2].reshape(-1)[:n]
        upper = high >= 1 << 31
        # 1 - u has the complement's bits. Both parts are below 2^32, and the sum rounds once.
        high, low = (torch.where(upper, part ^ 0xFFFFFFFF, part) for part in (high, low))
        v = (high.to(dtype) * 2.0**32 + low.to(dtype)) * 2.0**-64 + 2.0**-65
    else:
        word = w.reshape(-1)[:n]
        upper = word >= 1 << 31
        word = torch.where(upper, word ^ 0xFFFFFFFF, word)
        # The product by a power of two is exact: this is one fused multiply-add.
        v = word.to(dtype) * 2.0**-32 + 2.0**-33
    return Uniform(v, upper)


def _normal(key: Tensor, n: int, dtype: torch.dtype, _: float) -> Tensor:
    return noise.stream(key, n, dtype)


def _exponential(key: Tensor, n: int, dtype: torch.dtype, _: float) -> Tensor:
    """-ln u."""
    return -uniform(key, n, dtype).log()


def _gumbel(key: Tensor, n: int, dtype: torch.dtype, _: float) -> Tensor:
    """-ln(-ln u), from -3.1 to 22.9 (float32)."""
    return -torch.log(-uniform(key, n, dtype).log())


def _laplace(key: Tensor, n: int, dtype: torch.dtype, _: float) -> Tensor:
    """ln(2 u) below u = 1/2, -ln(2 (1 - u)) above."""
    u = uniform(key, n, dtype)
    return u.signed(-torch.log(2.0 * u.v))


def _logistic(key: Tensor, n: int, dtype: torch.dtype, _: float) -> Tensor:
    """ln(u / (1 - u))."""
    u = uniform(key, n, dtype)
    return u.signed(torch.log1p(-u.v) - torch.log(u.v))


def _uniform(key: Tensor, n: int, dtype: torch.dtype, _: float) -> Tensor:
    """2 u - 1."""
    u = uniform(key, n, dtype)
    return u.signed(1.0 - 2.0 * u.v)


def _cauchy(key: Tensor, n: int, dtype: torch.dtype, _: float) -> Tensor:
    """tan(pi (u - 1/2)), up to 2.7e9 (float32)."""
    u = uniform(key, n, dtype)
    return u.signed(1.0 / torch.tan(math.pi * u.v))


def _student_t(key: Tensor, n: int, dtype: torch.dtype, df: float) -> Tensor:
    """sqrt(df (u^(-2 / df) - 1)) cos(2 pi u') of two uniforms (Bailey 1994), df > 0.

    The cosine is taken from v' alone, for u' and 1 - u' have the same one.
    """
    two = uniform(key, 2 * n, dtype)
    u, angle = Uniform(two.v[0::2], two.upper[0::2]), two.v[1::2]
    radius = torch.sqrt(df * torch.expm1(-2.0 / df * u.log()))
    return radius * torch.cos(2.0 * math.pi * angle)


# What one standard member of each family is made of: (key, n, dtype, number) -> shape (n,), dtype
# float32 or float64. The number is Student's degrees of freedom. A backend receives the name.
BASES: dict[str, Callable[[Tensor, int, torch.dtype, float], Tensor]] = {
    "normal": _normal,
    "exponential": _exponential,
    "gumbel": _gumbel,
    "laplace": _laplace,
    "logistic": _logistic,
    "uniform": _uniform,
    "cauchy": _cauchy,
    "student_t": _student_t,
}
