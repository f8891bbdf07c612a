"""Standard noise: drawn in plain PyTorch, and as the package's specification makes it of a key."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

DF = 4.0
"""The degrees of freedom of Student's t, wherever the bench draws it."""


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


def of_key(
    base: str, key: Tensor, start: int, count: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`count` numbers of a key's noise from number `start` on, in float64.

    They are those that an op of this dtype draws: a 16-bit one draws in float32.
    """
    import fused_reparam
    from fused_reparam import loc_scale_rsample, noise

    dtype = torch.promote_types(dtype, torch.float32)
    # Numbers that a block of the stream makes.
    lanes = (2 if dtype == torch.float64 else 4) // (2 if base == "student_t" else 1)
    blocks, head = divmod(start, lanes)
    words = key.view(torch.int64).clone()
    words[1] += blocks
    from_block, count = words.view(torch.uint64), count + head
    with fused_reparam.backend("reference"):
        if base == "normal":
            made = noise.normal(from_block, count, dtype=dtype)
        else:
            zeros = torch.zeros(count, dtype=dtype, device=device)
            name = "gumbel" if base == "exponential" else base
            df = DF if base == "student_t" else None
            made = loc_scale_rsample(zeros, 1.0, name, df=df, key=from_block)
    made = made[head:].double()
    return torch.exp(-made) if base == "exponential" else made
