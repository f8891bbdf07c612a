"""The half-normal distribution."""

from __future__ import annotations

import torch
from torch import distributions

from .family import Family, Number, log_of


def prior_constants(prior_scale: Number) -> tuple[Number, ...]:
    return prior_scale, log_of(prior_scale)


def half_normal(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = scale |eps|; term: KL to another half-normal, which is that of the whole ones.

    Parameter scale. Constants: the prior's scale and its logarithm. With r = scale / prior_scale::

        KL = (r^2 - 1) / 2 - log r
    """
    scale, (prior_scale, log_prior_scale) = p[0], constants
    r = scale / prior_scale
    kl = 0.5 * (r * r - 1.0) - (torch.log(scale) - log_prior_scale)
    return scale if eps is None else scale * eps.abs(), (kl,)


HALF_NORMAL = Family(
    parameters=1, constants=2, base="normal", terms=1, sampled=False, formula=half_normal,
    linear=False, prior_constants=prior_constants, transform="folded", term="half_normal",
    names="scale+", prior="prior_scale+", law=distributions.HalfNormal,
    about=("half-normal", "scale \\|eps\\|", "scales of hierarchical models"),
)  # fmt: skip
