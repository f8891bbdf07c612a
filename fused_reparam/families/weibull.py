"""The Weibull distribution."""

from __future__ import annotations

import torch
from torch import distributions

from .family import Family, Number, log_of, over, stretched

EULER = 0.57721566490153286


def prior_constants(prior_scale: Number, prior_concentration: Number) -> tuple[Number, ...]:
    return log_of(prior_scale), prior_concentration, log_of(prior_concentration)


def weibull(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = scale eps^(1 / concentration); term: KL to another Weibull distribution.

    Parameters scale, concentration. Constants: the log of the prior's scale, its concentration k
    and log k. With r = k / concentration and s = log(scale / the prior's scale)::

        KL = exp(k s) Gamma(1 + r) - 1 - k s - log r + (r - 1) Euler's constant
    """
    scale, concentration = p
    log_prior_scale, k, log_k = constants
    r = over(k, concentration)
    ks = k * (torch.log(scale) - log_prior_scale)
    grown = torch.expm1(ks + torch.lgamma(1.0 + r))
    kl = grown - ks - (log_k - torch.log(concentration)) + EULER * (r - 1.0)
    return scale if eps is None else stretched(scale, torch.log(eps), concentration), (kl,)


WEIBULL = Family(
    parameters=2, constants=3, base="exponential", terms=1, sampled=False, formula=weibull,
    linear=False, prior_constants=prior_constants, transform="weibull", term="weibull",
    names="scale+ concentration+", prior="prior_scale+ prior_concentration+",
    law=distributions.Weibull,
    about=("Weibull", "scale (-ln u)^(1 / concentration)", "survival, topic models"),
)  # fmt: skip
