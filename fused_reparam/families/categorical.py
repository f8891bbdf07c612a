"""Relaxed and one-hot categories along one dim.

With p = softmax(logits) and g the Gumbel noise, by ``mode``::

    SOFT      y = soft = softmax((logits + g) / tau)
    HARD      y = one-hot of the largest logits + g; soft as above, and the gradient is soft's
    ONE_HOT   m = (1 - unimix) p + unimix / C; y = one-hot of the largest log m + g; gradient: m's
    kl        sum p log p + log C: the divergence of p to equal shares, in every mode

No finite logits and no noise word lead to a NaN or an infinity: the largest number of a row is
taken off before anything is multiplied by 1 / tau. Of equal numbers the first is the largest. A
NaN or +inf among a row's logits, or nothing but -inf, makes all of that row's results NaN, one-hot
ones too, and no other row's.
Arithmetic is float32 (float64 for float64), rounded once when a result is stored.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MODES = ("soft", "hard", "one_hot")
"""An op and C++ take their positions."""
SOFT, HARD, ONE_HOT = range(3)


def formula(
    logits: Tensor, noise: Tensor | None, mode: int, tau: float, unimix: float
) -> tuple[Tensor, Tensor | None, Tensor]:
    """``(y, soft, kl)`` of logits (O, C, I) in float32 or float64; differentiable.

    Straight-through values are differentiable as what they stand for. soft is None for ONE_HOT.
    """
    x = from_top(logits)
    p, log_p = softmax(x)
    kl = (p * torch.where(p == 0, 0.0, log_p)).sum(1) + math.log(p.shape[1])
    if noise is None:
        return logits, None, kl
    if mode == ONE_HOT:
        mixed = (1.0 - unimix) * p + unimix / p.shape[1] if unimix else p
        chosen = _one_hot((torch.log(mixed) if unimix else log_p) + noise)
        return chosen + (mixed - mixed.detach()), None, kl
    score = x + noise
    soft, _ = softmax(from_top(score) / tau)
    if mode == SOFT:
        return soft, soft, kl
    return _one_hot(score) + (soft - soft.detach()), soft, kl


def from_top(x: Tensor) -> Tensor:
    return x - x.detach().amax(1, keepdim=True)


def softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """The shares and their logarithms of x, whose largest number in each row is 0.

    Not torch.softmax: along a dim that is not the last it adds one by one, and a row of 65,536
    float32 loses three digits. torch.sum adds in pairs.
    """
    e = torch.exp(x)
    total = e.sum(1, keepdim=True)
    return e / total, x - torch.log(total)


def _one_hot(score: Tensor) -> Tensor:
    chosen = torch.zeros_like(score)
    return chosen.scatter_(1, score.detach().argmax(1, keepdim=True), 1.0)
