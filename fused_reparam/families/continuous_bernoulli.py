"""The continuous Bernoulli distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributions

from .bernoulli import missed_by, unsampled
from .family import Family, Number, over

# 4^n B_2n / (2 n)! of the Bernoulli numbers B: coth b - 1 / b is their sum times b^(2 n - 1).
LANGEVIN = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225)


def prior_constants(prior_logits: Number) -> tuple[Number, ...]:
    """b = prior_logits / 2, log(sinh b / b), and that less |b|."""
    b = 0.5 * prior_logits
    if isinstance(b, Tensor):
        near = b.abs() < 0.25
        small, large = torch.where(near, b, 0.0), torch.where(near, 1.0, b.abs())
        more = torch.log1p(-torch.exp(-2.0 * large)) - torch.log(2.0 * large)
        log_shc = torch.where(near, _log_shc(small), large + more)
        return b, log_shc, torch.where(near, log_shc - _size(small), more)
    size = abs(b)
    if size < 0.25:
        return b, _log_shc(b), _log_shc(b) - size
    rest = math.log1p(-math.exp(-2.0 * size)) - math.log(2.0 * size)
    return b, size + rest, rest


def _size(b: Number) -> Any:
    """|b|, whose derivative at 0 is -1: ``_kl`` counts a prior's 0 among the negative numbers. With
    that of abs, which is 0, the derivatives of what adds up to a smooth function would not.
    """
    return torch.where(b > 0, b, -b) if isinstance(b, Tensor) else abs(b)


def _log_shc(b: Number) -> Any:
    """log(sinh b / b) near 0."""
    square = b * b
    return sum(c * square ** (n + 1) / (2 * n + 2) for n, c in enumerate(LANGEVIN))


def continuous_bernoulli(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = log(1 - u + u e^logits) / logits, u = e^-eps; term: KL to another of these.

    Parameter logits. Constants: of the prior's logits, as ``prior_constants`` gives them. The
    density is e^(z logits) / A, A = (e^logits - 1) / logits. With b = logits / 2, S = log(sinh b /
    b) and L = coth b - 1 / b, twice the mean's distance to 1/2::

        KL = S(prior b) - S(b) + L(b) (b - prior b)
    """
    logits = p[0]
    z = logits if eps is None else _inverse(logits, eps)
    return z, (_kl(0.5 * logits, *constants),)


def _inverse(logits: Tensor, eps: Tensor) -> Tensor:
    """By symmetry from a = -|logits|: y(a, w) for u = w, else 1 - y(a, 1 - u)."""
    below = logits < 0
    u, rest = torch.exp(-eps), -torch.expm1(-eps)
    w, rest = torch.where(below, u, rest), torch.where(below, rest, u)
    a = torch.where(below, logits, -logits)
    # Near 0 the quotient's derivatives cancel. y is the mean of e^s w / (1 - w + e^s w), s from 0
    # to a: its Taylor series around the middle.
    near = a > (-0.1 if a.dtype == torch.float64 else -0.5)
    half = 0.5 * torch.where(near, a, 0.0)
    up = w * torch.exp(half)
    mean, other = up / (rest + up), rest / (rest + up)
    q, square = mean * other, half * half
    third = q * (other - mean)
    series = 1.0 / 6.0 + square / 120.0 * (1.0 - 12.0 * q)
    series = series + square * square / 5040.0 * (1.0 - 60.0 * q + 360.0 * q * q)
    a = torch.where(near, -1.0, a)
    lost = -w * torch.expm1(a)
    few = lost < 0.5
    left = torch.where(few, 1.0, rest + w * torch.exp(a))
    logarithm = torch.where(few, torch.log1p(-torch.where(few, lost, 0.0)), torch.log(left))
    y = torch.where(near, mean + third * square * series, logarithm / a)
    y = y + (y.clamp(0.0, 1.0) - y).detach()  # it may round to beyond an end
    return torch.where(below, y, 1.0 - y)


def _kl(b: Tensor, prior_b: Number, prior_log: Number, prior_rest: Number) -> Tensor:
    size, near = b.abs(), _near(b)
    small = torch.where(near, b, 0.0)
    square = small * small
    slope, log_shc = torch.zeros_like(b), torch.zeros_like(b)
    for n in range(len(LANGEVIN) - 1, -1, -1):
        slope = slope * square + LANGEVIN[n]
        log_shc = log_shc * square + LANGEVIN[n] / (2 * n + 2)
    of_small = prior_log - square * log_shc + slope * small * (small - prior_b)
    # Of a large one without what is as large as |b|: log(sinh b / b) = |b| + rest.
    size = torch.where(near, 1.0, size)
    e = torch.exp(-2.0 * size)
    grown = 2.0 * e / -torch.expm1(-2.0 * size)
    more = grown - over(1.0, size)  # |L| - 1
    rest = torch.log1p(-e) - torch.log(2.0 * size)
    if isinstance(prior_b, Tensor):
        together = torch.where(prior_b > 0, b > 0, b <= 0)
    else:
        together = b > 0 if prior_b > 0 else b <= 0
    apart = torch.where(together, -more, 2.0 + more)
    # Of more grown is 0, whose derivatives may not meet a large size.
    both = size.clamp(max=1e3) * grown
    of_large = prior_rest + _size(prior_b) * apart - rest + both - 1.0
    return torch.where(near, of_small, of_large)


def continuous_bernoulli_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: log-density at a value in [0, 1].

    Parameters x, logits. With b = logits / 2, S as above, and what the logits miss, 1 - x where
    they are positive and else x::

        log p = (x - 1/2) logits - S(b) = -missed |logits| - log((1 - e^-|logits|) / |logits|)
    """
    x, logits = p
    b = 0.5 * logits
    near = _near(b)
    small, (missed, size) = torch.where(near, b, 0.0), missed_by(x, logits)
    of_small = (2.0 * x - 1.0) * small - _log_shc(small)
    size = torch.where(near, 1.0, size)
    log_size = torch.log(size.clamp(max=torch.finfo(size.dtype).max))  # infinite ones add nothing
    of_large = log_size - torch.log1p(-torch.exp(-size)) - missed * size
    return unsampled(x, eps), (torch.where(near, of_small, of_large),)


def _near(b: Tensor) -> Tensor:
    return b.abs() < (0.25 if b.dtype == torch.float64 else 1.0)


CONTINUOUS_BERNOULLI = Family(
    parameters=1, constants=3, base="exponential", terms=1, sampled=False,
    formula=continuous_bernoulli, linear=False, prior_constants=prior_constants,
    transform="continuous_bernoulli", draw="exponential_of_uniform",
    term="continuous_bernoulli",
    names="logits", prior="prior_logits",
    law=distributions.ContinuousBernoulli,
    about=(
        "continuous Bernoulli", "ln(1 - u + u e^logits) / logits", "VAEs of images in [0, 1]"
    ),
)  # fmt: skip
CONTINUOUS_BERNOULLI_DENSITY = Family(
    2, 0, "exponential", 1, False, continuous_bernoulli_density, transform="unsampled",
    term="continuous_bernoulli_density", names="x+ logits",
)  # fmt: skip
