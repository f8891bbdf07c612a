"""Relaxed and one-hot categories along one dim.

With p = softmax(logits) and g the Gumbel noise, by ``mode``::

    SOFT      y = soft = softmax((logits + g) / tau)
    HARD      y = one-hot of the largest logits + g; soft as above, and the gradient is soft's
    ONE_HOT   m = (1 - unimix) p + unimix / C; y = one-hot of the largest log m + g; gradient: m's
    kl        sum p log p + log C: the divergence of p to equal shares, in every mode

tau and unimix are numbers, or tensors of one for each variable. A tau beyond 2^-126 or 2^126 is
taken as that, and one that is not above 0 gives NaN.

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

from .family import Family

MODES = ("soft", "hard", "one_hot")
"""An op and C++ take their positions."""
SOFT, HARD, ONE_HOT = range(3)
# So that neither tau nor 1 / tau is denormal or infinite in float32.
SMALLEST_TAU, LARGEST_TAU = 2.0**-126, 2.0**126


def formula(
    logits: Tensor,
    noise: Tensor | None,
    mode: int,
    tau: float | Tensor,
    unimix: float | Tensor,
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
        mixes = isinstance(unimix, Tensor) or unimix > 0.0
        mixed = (1.0 - unimix) * p + unimix / p.shape[1] if mixes else p
        chosen = _one_hot((torch.log(mixed) if mixes else log_p) + noise)
        return chosen + (mixed - mixed.detach()), None, kl
    score = x + noise
    soft, _ = softmax(from_top(score) / bounded(tau))
    if mode == SOFT:
        return soft, soft, kl
    return _one_hot(score) + (soft - soft.detach()), soft, kl


def numbers_of(
    mode: int, tau: float, unimix: float, control: Tensor | None
) -> tuple[float | Tensor, float | Tensor]:
    """tau and unimix, of which control, broadcast to the logits, replaces the one that counts."""
    if control is None:
        return tau, unimix
    return (tau, control) if mode == ONE_HOT else (control, unimix)


def bounded(tau: float | Tensor) -> float | Tensor:
    """A temperature that neither over- nor underflows, nor its inverse; a number is one already."""
    if not isinstance(tau, Tensor):
        return tau
    return torch.where(tau > 0.0, tau.clamp(SMALLEST_TAU, LARGEST_TAU), math.nan)


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


def categorical_kl(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: what a class adds to the KL of one categorical distribution to another.

    Parameters log_p, log_q: the logarithms of its shares. Constants keep, even::

        m = keep p + even, n = keep q + even, term = m (log m - log n)
    """
    keep, even = constants
    share, of_prior = torch.exp(p[0]), torch.exp(p[1])
    if even > 0.0:
        share, of_prior = keep * share + even, keep * of_prior + even
        apart = torch.log(share) - torch.log(of_prior)
    else:
        # Nothing infinite is left for a share of 0 to meet, in the gradient either.
        apart = torch.where(share == 0.0, 0.0, p[0] - p[1])
    return p[0] if eps is None else p[0].expand_as(eps), (share * apart,)


CATEGORICAL_KL = Family(
    2, 2, "logistic", 1, False, categorical_kl, transform="unsampled", term="categorical_kl",
    names="logits prior_logits",
)  # fmt: skip
