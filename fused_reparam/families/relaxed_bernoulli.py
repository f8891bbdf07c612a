"""The relaxed Bernoulli, or its straight-through form."""

from __future__ import annotations

import torch

from .family import Family


def relaxed_bernoulli(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = sigmoid((logits + eps) / tau); kind 1 is straight-through: [logits + eps > 0] instead.

    Parameter logits. Constant tau. The gradient is the sigmoid's either way.
    """
    total = p[0] + eps
    soft = torch.sigmoid(total / constants[0])
    if kind == 0:
        return soft, ()
    return (total > 0).to(soft.dtype) + (soft - soft.detach()), ()


RELAXED_BERNOULLI = Family(
    1, 1, "logistic", 0, False, relaxed_bernoulli, linear=False, transform="relaxed_bernoulli",
    hard="hard_bernoulli", names="logits", draw="logistic_of_probabilities",
)  # fmt: skip
