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
    return _unsampled(p[0], eps), (share * apart + (_softplus(b) - _softplus(a)),)


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
    return _unsampled(logits, eps), (term,)


def _unsampled(x: Tensor, eps: Tensor | None) -> Tensor:
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
