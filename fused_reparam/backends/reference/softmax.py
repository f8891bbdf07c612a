"""Gumbel-softmax along one dim in plain PyTorch, and what every backend is promised.

The op layer allocates all outputs, arranges memory and guarantees:

* ``logits``, ``grad_y`` are 3-D tensors of one shape (O, C, I) with any non-negative strides; the
  classes are the middle dim. ``y, soft, grad_logits`` are contiguous and of that shape. All share
  one dtype (float32, float16, bfloat16 or float64) and one device. O, C and I are at least 1.
  ``logits`` may have a divisor of O for O, and are then the same numbers over and over.
* ``kl, grad_kl`` are contiguous, of shape (O, I), float32 (float64 for float64).
* ``key`` is a contiguous uint64 or int64 tensor of shape (2,) on the device or on the CPU. Element
  i of y in memory takes element i of the Gumbel noise's stream; ``noise``, shaped and laid out as
  y, replaces it where given.
* ``2^-126 <= tau <= 2^126``; ``0 <= unimix < 1``.
* ``control``, where given, replaces tau, or ONE_HOT's unimix: a contiguous tensor of the KL's
  dtype, of one number or of shape (O, I), on the device. Its numbers may be any.

What is computed is stated in ``families/categorical.py``.
Arithmetic is float32 (float64 for float64), rounded once when a result is stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...families.categorical import (
    ONE_HOT,
    bounded,
    formula,
    from_top,
    numbers_of,
    softmax,
)
from ...rng.bases import BASES
from ...rng.keys import on_device


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
    control: Tensor | None = None,
) -> None:
    """Write y, soft (wanted for HARD with a gradient) and kl, each where it is not None."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    g = None
    if y is not None:
        g = _gumbel(key, y, x.dtype) if noise is None else noise.to(x.dtype)
        x = _repeated(x, y)
    elif kl is not None:
        x = _repeated(x, kl)
    found = formula(x, g, mode, *numbers_of(mode, tau, unimix, _beside(control)))
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
    control: Tensor | None = None,
) -> None:
    """The gradient of the logits; ``grad_y`` or ``grad_kl`` may be None.

    logits are read for ONE_HOT's ``grad_y`` and for ``grad_kl`` only, and else may be anything of
    the shape::

    SOFT, HARD   soft (grad_y - sum grad_y soft) / tau      (from the soft that was stored)
    ONE_HOT      (1 - unimix) p (grad_y - sum grad_y p)
    kl           + grad_kl p (log p - sum p log p)
    """
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    x = _repeated(logits.to(compute), grad_logits)
    tau_or_each, unimix_or_each = numbers_of(mode, tau, unimix, _beside(control))
    p, log_p = softmax(from_top(x))
    total = torch.zeros_like(x)
    if grad_y is not None:
        g = grad_y.to(compute)
        if mode == ONE_HOT:
            shares, factor = p, 1.0 - unimix_or_each
        else:
            assert soft is not None
            shares, factor = soft.to(compute), 1.0 / bounded(tau_or_each)
        total = factor * shares * (g - (g * shares).sum(1, keepdim=True))
    if grad_kl is not None:
        log_p = torch.where(p == 0, 0.0, log_p)
        mean = (p * log_p).sum(1, keepdim=True)
        total = total + grad_kl.unsqueeze(1) * p * (log_p - mean)
    grad_logits.copy_(total)


def _beside(control: Tensor | None) -> Tensor | None:
    """As it broadcasts to (O, C, I)."""
    if control is None or control.numel() == 1:
        return control if control is None else control.reshape(())
    return control.unsqueeze(1)


def _gumbel(key: Tensor | None, like: Tensor, dtype: torch.dtype) -> Tensor:
    assert key is not None
    key = on_device(key, like.device)
    return BASES["gumbel"](key, like.numel(), dtype, 0.0).view(like.shape)


def _repeated(logits: Tensor, like: Tensor) -> Tensor:
    """With as many outers as another tensor has."""
    repeats = len(like) // len(logits)
    return logits if repeats == 1 else logits.repeat(repeats, 1, 1)
