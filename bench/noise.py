"""Standard noise: drawn in plain PyTorch, and as the package's specification makes it of a key."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

DF = 4.0
"""The degrees of freedom of Student's t, wherever the bench draws it."""


def degrees(base: str | None) -> float | None:
    """What a noise's `df` is: None of one that has none."""
    return DF if base == "student_t" else None


def uniform(like: Tensor) -> Tensor:
    """Uniform in (0, 1), away from both ends, whose logarithms are infinite."""
    least = torch.finfo(like.dtype).eps
    return torch.empty_like(like).uniform_(least, 1 - least)


def laplace(like: Tensor) -> Tensor:
    """By the inverse of the distribution function, the numbers -1 and 1 left out."""
    u = torch.empty_like(like).uniform_(torch.finfo(like.dtype).eps - 1, 1)
    return -u.sign() * torch.log1p(-u.abs())


def logistic(like: Tensor) -> Tensor:
    u = uniform(like)
    return torch.log(u) - torch.log1p(-u)


def student_t(like: Tensor) -> Tensor:
    """Bailey, 1994: it takes no gamma variates, which are slow."""
    radius = torch.sqrt(DF * torch.expm1(-2 / DF * torch.log(uniform(like))))
    return radius * torch.cos(2 * math.pi * torch.rand_like(like))


# By the package's name of the noise; each as PyTorch's users write it.
DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": torch.randn_like,
    "uniform": lambda like: torch.empty_like(like).uniform_(-1, 1),
    "laplace": laplace,
    "logistic": logistic,
    "gumbel": lambda like: -torch.empty_like(like).exponential_().log(),  # as F.gumbel_softmax
    "cauchy": lambda like: torch.empty_like(like).cauchy_(),
    "student_t": student_t,
    "exponential": lambda like: -torch.log(uniform(like)),
}


def of_key(base: str, key: Tensor, like: Tensor) -> Tensor:
    """A key's noise in float64, in the shape and the memory order of `like`.

    It is what an op of this dtype draws: a 16-bit one draws in float32.
    """
    import fused_reparam as fr

    dtype, count = torch.promote_types(like.dtype, torch.float32), like.numel()
    with fr.backend("reference"):
        if base == "normal":
            made = fr.noise.normal(key, count, dtype=dtype)
        else:
            zeros = torch.zeros(count, dtype=dtype, device=like.device)
            name = "gumbel" if base == "exponential" else base
            made = fr.loc_scale_rsample(zeros, 1.0, name, df=degrees(base), key=key)
    made = torch.exp(-made.double()) if base == "exponential" else made.double()
    return made.as_strided(like.shape, torch.empty_like(like).stride())
