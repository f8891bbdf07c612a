"""The Pareto distribution."""

from __future__ import annotations

import math

import torch
from torch import distributions

from .family import Family, Number, log_of, over, stretched


def prior_constants(prior_scale: Number, prior_alpha: Number) -> tuple[Number, ...]:
    return prior_scale, log_of(prior_scale), prior_alpha, log_of(prior_alpha)


def pareto(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = scale exp(eps / alpha); term: KL to another Pareto distribution.

    Parameters scale, alpha. Constants: the prior's scale, its logarithm, the prior's alpha and its
    logarithm. With r = prior_alpha / alpha::

        KL = prior_alpha log(scale / prior_scale) - log r + r - 1

    It is infinite, without a gradient, where scale < prior_scale: the prior never gives what lies
    between them.
    """
    scale, alpha = p
    prior_scale, log_prior_scale, prior_alpha, log_prior_alpha = constants
    beyond = scale < prior_scale
    apart = prior_alpha * (torch.log(torch.where(beyond, 1.0, scale)) - log_prior_scale)
    inside = torch.where(beyond, 1.0, alpha)
    kl = apart + (torch.log(inside) - log_prior_alpha) + over(prior_alpha, inside) - 1.0
    z = scale if eps is None else stretched(scale, eps, alpha)
    return z, (torch.where(beyond, math.inf, kl),)


PARETO = Family(
    parameters=2, constants=4, base="exponential", terms=1, sampled=False, formula=pareto,
    linear=False, prior_constants=prior_constants, transform="pareto", term="pareto",
    names="scale+ alpha+", prior="prior_scale+ prior_alpha+", law=distributions.Pareto,
    about=("Pareto", "scale u^(-1 / alpha)", "heavy tails, power laws"),
)  # fmt: skip
