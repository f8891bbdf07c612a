"""The generalized Pareto distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributions

from .family import Family

TERMS = 14


def generalized_pareto(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = loc + scale (exp(c eps) - 1) / c, and loc + scale eps for c = 0. No term.

    Parameters loc, scale, c (concentration). With t = c eps, (e^t - 1) / c is eps (e^t - 1) / t,
    whose series holds its derivatives for small t; of a large t it is e^t / c, which is formed of
    two halves, for e^t may overflow before the result does.
    """
    loc, scale, concentration = p
    if eps is None:
        return loc, ()
    t = concentration * eps
    small, far = t.abs() < 0.5, t > (40.0 if t.dtype == torch.float64 else 16.0)
    between, divisor = (torch.where(small | far, 1.0, x) for x in (t, concentration))
    few = eps * _series(torch.where(small, t, 0.0))
    growth = torch.where(small, few, torch.expm1(between) / divisor)
    half = torch.exp(
        0.5 * torch.where(far, t - torch.log(torch.where(far, concentration, 1.0)), 0.0)
    )
    return loc + torch.where(far, (scale * half) * half, scale * growth), ()


def _series(t: Tensor) -> Tensor:
    """(e^t - 1) / t."""
    total = torch.full_like(t, 1.0 / math.factorial(TERMS))
    for k in range(TERMS - 1, 0, -1):
        total = total * t + 1.0 / math.factorial(k)
    return total


GENERALIZED_PARETO = Family(
    parameters=3, constants=0, base="exponential", terms=0, sampled=False,
    formula=generalized_pareto, transform="generalized_pareto", draw="exponential_of_rest",
    names="loc scale+ concentration", law=distributions.GeneralizedPareto,
    about=(
        "generalized Pareto", "loc + scale (u^-concentration - 1) / concentration", "extreme values"
    ),
)  # fmt: skip
