"""The exponential distribution."""

from __future__ import annotations

import torch
from torch import distributions

from .family import Family, Number, log_of, over


def prior_constants(prior_rate: Number) -> tuple[Number, ...]:
    return prior_rate, log_of(prior_rate)


def exponential(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = eps / rate; term: KL to the exponential of another rate.

    Parameter rate. Constants prior_rate and its logarithm::

        KL = prior_rate / rate - 1 - log(prior_rate / rate)
    """
    rate, (prior_rate, log_prior_rate) = p[0], constants
    kl = over(prior_rate, rate) - 1.0 - (log_prior_rate - torch.log(rate))
    return rate if eps is None else over(eps, rate), (kl,)


EXPONENTIAL = Family(
    parameters=1, constants=2, base="exponential", terms=1, sampled=False, formula=exponential,
    linear=False, prior_constants=prior_constants, transform="exponential", term="exponential",
    names="rate+", prior="prior_rate+", law=distributions.Exponential,
    about=("exponential", "-ln(u) / rate", "waiting times, rates"),
)  # fmt: skip
