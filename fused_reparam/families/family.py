"""What a family of distributions is to the op layer and to backends: one row of facts.

A formula takes parameters of shape (n,), base noise ``eps`` of shape (n,) or (samples, n), the
position ``kind`` (and ``prior_kind``) of a scale keyword in ``core.scales.SCALE_KINDS``, and the
family's ``numbers``. It returns ``z``, shaped as eps, and ``values``: numbers per element that the
op layer sums, such as a KL (shape (n,)) or a log-density (shaped as eps: the family is
``sampled``). All is differentiable PyTorch code in float32 or float64; gradients of every order are
those of these formulas. ``eps=None`` where only values that need no noise are wanted: z is then not
looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.scales import LOG_STD, LOGVAR, clamp, log_var_of, sigma_of

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
Values = tuple[Tensor, ...]
Formula = Callable[
    [Sequence[Tensor], Tensor | None, int, int, Sequence[float]], tuple[Tensor, Values]
]


class Family(NamedTuple):
    """What the op layer and the backends must know about a family."""

    parameters: int
    numbers: int
    base: str
    """A name of ``rng.bases.BASES``."""
    values: int
    sampled: bool
    """Whether the values depend on the noise: then each sample has its own."""
    formula: Formula
    linear: bool = True
    """Whether z is parameter 0 and something that does not depend on it."""


def scale_of(x: Tensor, kind: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """sigma and log sigma^2 of a scale parameter, bounded."""
    return sigma_and_log(clamp(x, low, high), kind)


def sigma_and_log(x: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    if kind not in (LOGVAR, LOG_STD):
        sigma = sigma_of(x, kind)
        return sigma, log_var_of(x, sigma, kind)
    log_sigma = 0.5 * x if kind == LOGVAR else x
    return bounded_exp(log_sigma), 2.0 * log_sigma


def bounded_exp(x: Tensor) -> Tensor:
    """e^x, 0 or infinite as ever; its derivatives may meet a gradient that is 0 or infinite.

    Above the dtype's range they are large rather than infinite, and below it there are none.
    """
    least, most = (-746.0, 709.78) if x.dtype == torch.float64 else (-104.0, 88.72)
    beyond = 1.0 + 1e30 * torch.relu(x - most)
    return torch.exp(x.clamp(least, most)) * beyond


def located(loc: Tensor, scale: Tensor, eps: Tensor | None) -> Tensor:
    return loc if eps is None else loc + scale * eps


def log_q(eps: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * eps * eps - 0.5 * log_var - HALF_LOG_2PI
