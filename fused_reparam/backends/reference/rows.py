"""Relaxed categories along one dim in plain PyTorch, and what every backend is promised.

The op layer allocates all outputs, arranges memory and guarantees:

* ``logits``, ``grad_y`` are 3-D tensors of one shape (O, C, I) with any non-negative strides; the
  classes are the middle dim. ``y, soft, grad_logits`` are contiguous and of that shape. All share
  one dtype (float32, float16, bfloat16 or float64) and one device. O, C and I are at least 1.
* ``kl, grad_kl`` are contiguous, of shape (O, I), float32 (float64 for float64).
* ``key`` is a contiguous uint64 or int64 tensor of shape (2,) on the device or on the CPU. Element
  i of y in memory takes element i of the Gumbel noise's stream; ``noise``, shaped and laid out as
  y, replaces it where given.
* ``2^-126 <= tau <= 2^126``; ``0 <= unimix < 1``.

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

from ...rng.bases import BASES
from ...rng.keys import on_device

SOFT, HARD, ONE_HOT = range(3)


def formula(
    logits: Tensor, noise: Tensor | None, mode: int, tau: float, unimix: float
) -> tuple[Tensor, Tensor | None, Tensor]:
    """``(y, soft, kl)`` of logits (O, C, I) in float32 or float64; differentiable.

    Straight-through values are differentiable as what they stand for. soft is None for ONE_HOT.
    """
    x = _from_top(logits)
    p, log_p = _softmax(x)
    kl = (p * torch.where(p == 0, 0.0, log_p)).sum(1) + math.log(p.shape[1])
    if noise is None:
        return logits, None, kl
    if mode == ONE_HOT:
        mixed = (1.0 - unimix) * p + unimix / p.shape[1] if unimix else p
        chosen = _one_hot((torch.log(mixed) if unimix else log_p) + noise)
        return chosen + (mixed - mixed.detach()), None, kl
    score = x + noise
    soft, _ = _softmax(_from_top(score) / tau)
    if mode == SOFT:
        return soft, soft, kl
    return _one_hot(score) + (soft - soft.detach()), soft, kl


def _from_top(x: Tensor) -> Tensor:
    return x - x.detach().amax(1, keepdim=True)


def _softmax(x: Tensor) -> tuple[Tensor, Tensor]:
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


def softmax_forward(
    mode: int,
    tau: float,
    unimix: float,
    logits: Tensor,
    key: Tensor | None,
    noise: Tensor | None,
    y: Tensor | None,
    soft: Tensor | None,
    kl: Tensor | None,
) -> None:
    """Write y, soft (wanted for HARD with a gradient) and kl, each where it is not None."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    g = None
    if y is not None:
        g = _gumbel(key, x) if noise is None else noise.to(x.dtype)
    found = formula(x, g, mode, tau, unimix)
    for out, value in zip((y, soft, kl), found, strict=True):
        if out is not None and value is not None:
            out.copy_(value)


def softmax_backward(
    mode: int,
    tau: float,
    unimix: float,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor,
    soft: Tensor | None,
    grad_logits: Tensor,
) -> None:
    """The gradient of the logits; ``grad_y`` or ``grad_kl`` may be None.

    logits are read for ONE_HOT's ``grad_y`` and for ``grad_kl`` only, and else may be anything of
    the shape::

    SOFT, HARD   soft (grad_y - sum grad_y soft) / tau      (from the soft that was stored)
    ONE_HOT      (1 - unimix) p (grad_y - sum grad_y p)
    kl           + grad_kl p (log p - sum p log p)
    """
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    x = logits.to(compute)
    p, log_p = _softmax(_from_top(x))
    total = torch.zeros_like(x)
    if grad_y is not None:
        g = grad_y.to(compute)
        if mode == ONE_HOT:
            shares, factor = p, 1.0 - unimix
        else:
            assert soft is not None
            shares, factor = soft.to(compute), 1.0 / tau
        total = factor * shares * (g - (g * shares).sum(1, keepdim=True))
    if grad_kl is not None:
        log_p = torch.where(p == 0, 0.0, log_p)
        mean = (p * log_p).sum(1, keepdim=True)
        total = total + grad_kl.unsqueeze(1) * p * (log_p - mean)
    grad_logits.copy_(total)


def _gumbel(key: Tensor | None, like: Tensor) -> Tensor:
    assert key is not None
    key = on_device(key, like.device)
    return BASES["gumbel"](key, like.numel(), like.dtype, 0.0).view(like.shape)
