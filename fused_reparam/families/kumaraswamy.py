"""The Kumaraswamy distribution."""

from __future__ import annotations

import torch
from torch import distributions

from .family import Family, bounded_quotient


def kumaraswamy(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = (1 - exp(-eps / b))^(1 / a). Parameters a (concentration1), b (concentration0).

    Beyond the bounds z is 1 or 0 and no gradient is left, where the quotients may be infinite.
    """
    most = 1100.0 if eps.dtype == torch.float64 else 128.0
    t = bounded_quotient(eps, p[1], most)
    # A tiny t is 1 - exp(-t) to its last digit, but may have no reciprocal, which a gradient would
    # take. Of a large t 1 - exp(-t) rounds to 1.
    tiny, large = t < 1e-20, t > 0.7
    of_tiny = torch.log(torch.where(tiny, eps, 1.0)) - torch.log(torch.where(tiny, p[1], 1.0))
    of_large = torch.log1p(-torch.exp(-torch.where(large, t, 1.0)))
    of_others = torch.log(-torch.expm1(-torch.where(tiny | large, 0.5, t)))
    log_base = torch.where(tiny, of_tiny, torch.where(large, of_large, of_others))
    return torch.exp(bounded_quotient(log_base, p[0], most)), ()


KUMARASWAMY = Family(
    parameters=2, constants=0, base="exponential", terms=0, sampled=False, formula=kumaraswamy,
    linear=False, transform="kumaraswamy", draw="exponential_of_uniform",
    names="concentration1+ concentration0+", law=distributions.Kumaraswamy,
    about=("Kumaraswamy", "(1 - u^(1/b))^(1/a)", "stick-breaking VAEs, in place of Beta"),
)  # fmt: skip
