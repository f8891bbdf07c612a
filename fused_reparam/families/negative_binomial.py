"""The log-likelihood of counts under a negative binomial distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bernoulli import unsampled
from .family import HALF_LOG_2PI, Family

# Stirling's series of log Gamma(y) times y, in powers of 1 / y^2.
_STIRLING = 1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360
FACTOR = {s: math.exp(s - HALF_LOG_2PI) for s in (3, 9)}
"""Of the powers and factors, by how much arguments are raised: e^s / sqrt(2 pi)."""


def negative_binomial_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: log-likelihood of a count x of mean mu and inverse dispersion theta.

    With n = x + theta and m = theta + mu::

        log p = log Gamma(n) - log Gamma(theta) - log Gamma(x + 1)
                + theta log(theta / m) + x log(mu / m)

    The logarithms of the gamma function are some hundred times what they leave. Each is Stirling's
    formula of its argument raised by a number s, whose large parts are taken into the logarithms
    that they cancel::

        log p = theta log(theta (n + s) / ((theta + s) m)) + x log(mu (n + s) / ((x + s) m))
                + logarithm of powers and factors + 1 / n's series

    Either of the first two is log(1 + t) of a t that x - mu is a factor of. The error is that of
    x - mu being off by its last bits, times theta / m. Of x = 0 the rest is 0.
    """
    x, mu, theta = p
    return unsampled(x, eps), (_log_prob(x, mu, theta),)


def zero_inflated_negative_binomial_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: the same where a share sigmoid(logits) of all counts is 0 whatever their mean.

    Of a count of 0, beside its log-likelihood v, and of others::

        log p = log((e^logits + e^v) / (e^logits + 1))
        log p = v - log(1 + e^logits)
    """
    x, mu, theta, logits = p
    value, none = _log_prob(x, mu, theta), x == 0.0
    # Each from the larger: nothing that only one of them has is taken away again.
    v = torch.where(none, value, 0.0)
    size = torch.where(logits > 0.0, logits, -logits)
    rest = torch.log1p(torch.exp(-size))
    larger = torch.where(logits > 0.0, 0.0, torch.where(v > logits, v, logits))
    apart = torch.where(v > logits, v - logits, logits - v)
    of_zero = larger + (torch.log1p(torch.exp(-apart)) - rest)
    of_some = torch.where(none, 0.0, value) - (torch.where(logits > 0.0, logits, 0.0) + rest)
    return unsampled(x, eps), (torch.where(none, of_zero, of_some),)


def _log_prob(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    double = x.dtype == torch.float64
    s, limits = 9 if double else 3, torch.finfo(x.dtype)
    # Beyond which quotients would leave the dtype; of 16 bits, which only tests compute in, none.
    bounds = (2.0**-1000, 2.0**900) if double else (2.0**-120, 2.0**100)
    theta = theta.clamp(max(bounds[0], limits.tiny), min(bounds[1], limits.max))
    none = x == 0.0
    m, distance = theta + mu, x - mu
    share, rest = theta / m, mu / m
    # Of x = 0 the other parts do not depend on theta, not even by the last bits of their gradients.
    fixed = torch.where(none, theta.detach(), theta)
    n = x + fixed
    upper, lower, last = n + s, fixed + s, x + s
    moved = share * distance - s * rest
    t = torch.where(none, share * x / lower - rest, moved / lower)
    first = theta * _log_of_both(t, torch.log(_above_zero(share * (upper / lower))))
    # A mean of 0 gives no count but 0.
    never = mu == 0.0
    of_zero = torch.where(never & ~none, torch.log(torch.where(none, 1.0, mu)), 0.0)
    some, raised = torch.where(never, 1.0, mu), upper / last
    log_q = torch.log(_above_zero((some * (raised / m)).detach()))
    log_q = log_q + _log_in_units(some) + (_log_in_units(raised) - _log_in_units(m))
    second = _log_of_both(-share * (distance + s) / last, log_q)
    powers = FACTOR[s] * (fixed / lower / (n / upper))
    for i in range(1, s):
        powers = powers * (((fixed + i) / lower) * ((x + i) / last) / ((n + i) / upper))
    others = torch.log(_above_zero(powers)) + 0.5 * (torch.log(lower / upper) - torch.log(last))
    others = others + (_correction(upper) - (_correction(lower) + _correction(last)))
    others = torch.where(none, others - others.detach(), others)
    return first + (x * torch.where(never, of_zero, second) + others)


def _log_of_both(t: Tensor, log_q: Tensor) -> Tensor:
    """log(1 + t) of t near 0, and elsewhere as it is made of q = 1 + t."""
    near = (t > -0.5) & (t < 1.0)
    return torch.where(near, torch.log1p(torch.where(near, t, 0.0)), log_q)


def _above_zero(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def _log_in_units(x: Tensor) -> Tensor:
    """log x less its value: what has the gradients of it, without those of a tiny product."""
    return torch.log(x / _above_zero(x.detach()))


def _correction(y: Tensor) -> Tensor:
    inverse = y.reciprocal()
    total, square = torch.zeros_like(y), inverse * inverse
    for coefficient in reversed(_STIRLING):
        total = total * square + coefficient
    return inverse * total


NEGATIVE_BINOMIAL_DENSITY = Family(
    3, 0, "logistic", 1, False, negative_binomial_density, transform="unsampled",
    term="negative_binomial_density", names="x+ count_mean+ theta+",
)  # fmt: skip
ZERO_INFLATED_NEGATIVE_BINOMIAL_DENSITY = Family(
    4, 0, "logistic", 1, False, zero_inflated_negative_binomial_density, transform="unsampled",
    term="zero_inflated_negative_binomial_density", names="x+ count_mean+ theta+ logits",
)  # fmt: skip
