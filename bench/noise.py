"""Standard noise in plain PyTorch, each as PyTorch's users draw it."""

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


# By the package's name of the noise.
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
