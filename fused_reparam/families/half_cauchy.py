"""The half-Cauchy distribution."""

from __future__ import annotations

import torch
from torch import distributions

from .family import Family, Number, log_of


def prior_constants(prior_scale: Number) -> tuple[Number, ...]:
    return 0.5 * prior_scale, log_of(prior_scale)


def half_cauchy(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = scale |eps|; term: KL to another half-Cauchy, which is that of the whole ones.

    Parameter scale. Constants: half the prior's scale, and the scale's logarithm::

        KL = log((scale + prior_scale)^2 / (4 scale prior_scale))
    """
    scale, (half_prior_scale, log_prior_scale) = p[0], constants
    middle = 0.5 * scale + half_prior_scale
    kl = 2.0 * torch.log(middle) - torch.log(scale) - log_prior_scale
    return scale if eps is None else scale * eps.abs(), (kl,)


HALF_CAUCHY = Family(
    parameters=1, constants=2, base="cauchy", terms=1, sampled=False, formula=half_cauchy,
    linear=False, prior_constants=prior_constants, transform="folded", term="half_cauchy",
    names="scale+", prior="prior_scale+", law=distributions.HalfCauchy,
    about=("half-Cauchy", "scale \\|tan(pi (u - 1/2))\\|", "horseshoe and other sparse priors"),
)  # fmt: skip
