"""The relaxed Bernoulli, or its straight-through form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .family import Family, bounded_quotient


def relaxed_bernoulli(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = sigmoid((logits + eps) / tau); kind 1 is straight-through: [logits + eps > 0] instead.

    Parameter logits. Constant tau. The gradient is the sigmoid's either way.
    """
    total = p[0] + eps
    return _chosen(total, torch.sigmoid(total / constants[0]), kind), ()


def relaxed_bernoulli_tau(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """The same with tau as parameter 1: NaN where it is not above 0."""
    total, tau = p[0] + eps, p[1] * torch.where(p[1] > 0.0, 1.0, math.nan)
    most = 800.0 if total.dtype == torch.float64 else 200.0  # beyond it the slope is 0
    return _chosen(total, torch.sigmoid(bounded_quotient(total, tau, most)), kind), ()


def _chosen(total: Tensor, soft: Tensor, kind: int) -> Tensor:
    return soft if kind == 0 else (total > 0).to(soft.dtype) + (soft - soft.detach())


RELAXED_BERNOULLI = Family(
    1, 1, "logistic", 0, False, relaxed_bernoulli, linear=False, transform="relaxed_bernoulli",
    hard="hard_bernoulli", names="logits", draw="logistic_of_probabilities",
)  # fmt: skip
RELAXED_BERNOULLI_TAU = Family(
    2, 0, "logistic", 0, False, relaxed_bernoulli_tau, linear=False,
    transform="relaxed_bernoulli_tau", hard="hard_bernoulli_tau", names="logits tau+",
    draw="logistic_of_probabilities",
)  # fmt: skip
