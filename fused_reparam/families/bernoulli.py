"""Terms of Bernoulli distributions and of their relaxed samples: nothing is drawn of them here.

Their z is the first parameter, and nobody asks for it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..core.scales import softplus_edge
from .family import Family


def bernoulli(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: KL of sigmoid(logits) to sigmoid(prior_logits).

    From the side on which the probability is at most a half, where no digits are lost: with a, b
    the logits, or both with the other sign::

        KL = sigmoid(a) (a - b) + log(1 + e^b) - log(1 + e^a)
    """
    upper = p[0] > 0.0
    a, b = torch.where(upper, -p[0], p[0]), torch.where(upper, -p[1], p[1])
    share = torch.sigmoid(a)
    # To what is certain of the other side the KL is infinite by the rest alone; its gradient large.
    apart = torch.where(b == math.inf, torch.finfo(b.dtype).min, a - b)
    apart = torch.where(share == 0.0, 0.0, apart)
    return unsampled(p[0], eps), (share * apart + (_softplus(b) - _softplus(a)),)


def relaxed_bernoulli_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: log-density of the relaxed Bernoulli at a point.

    Parameters logits, tau, y. Constants least, most: the point is held between them, and has no
    gradient beyond::

        d = logits - tau log(y / (1 - y))
        log p = log tau - log(1 + e^d) - log(1 + e^-d) - log y - log(1 - y)
    """
    logits, tau, y = p
    y = y.clamp(*constants)
    log_y, log_rest = torch.log(y), torch.log(1.0 - y)
    d = logits - tau * (log_y - log_rest)
    term = torch.log(tau) - _softplus(d) - _softplus(-d) - log_y - log_rest
    return unsampled(logits, eps), (term,)


def bernoulli_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: log-likelihood of a value in [0, 1].

    Parameters x, logits. With what the logits miss, 1 - x where they are positive and else x::

        log p = x logits - log(1 + e^logits) = -missed |logits| - log(1 + e^-|logits|)
    """
    x, logits = p
    missed, size = missed_by(x, logits)
    # Infinite logits miss nothing of what they are certain of.
    weight = torch.where((missed == 0.0) & (size == math.inf), 0.0, size)
    return unsampled(x, eps), (-missed * weight - _softplus(-size),)


def missed_by(x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """How far x is from the end that the logits are for, and their size.

    At 0 the size has the derivative of the side on which ``missed`` counts 0.
    """
    upper = logits > 0.0
    return torch.where(upper, 1.0 - x, x), torch.where(upper, logits, -logits)


def unsampled(x: Tensor, eps: Tensor | None) -> Tensor:
    return x if eps is None else x.expand_as(eps)


def _softplus(x: Tensor) -> Tensor:
    return softplus(x, threshold=softplus_edge(x))


BERNOULLI = Family(
    2, 0, "logistic", 1, False, bernoulli, transform="unsampled", term="bernoulli",
    names="logits prior_logits",
)  # fmt: skip
RELAXED_BERNOULLI_DENSITY = Family(
    3, 2, "logistic", 1, False, relaxed_bernoulli_density, transform="unsampled",
    term="relaxed_bernoulli_density", names="logits tau+ y+",
)  # fmt: skip
BERNOULLI_DENSITY = Family(
    2, 0, "logistic", 1, False, bernoulli_density, transform="unsampled", term="bernoulli_density",
    names="x+ logits",
)  # fmt: skip
