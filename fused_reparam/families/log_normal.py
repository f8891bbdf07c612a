"""The log-normal."""

from __future__ import annotations

import torch

from .family import Family, located, scale_of


def log_normal(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = exp(loc + sigma eps); term: KL to the log-normal of loc 0 and sigma 1.

    Parameters loc, scale. Constants low, high.
    """
    sigma, log_var = scale_of(p[1], kind, *constants)
    kl = 0.5 * (p[0] * p[0] + sigma * sigma - 1.0 - log_var)
    return torch.exp(located(p[0], sigma, eps)), (kl,)


LOG_NORMAL = Family(
    2, 2, "normal", 1, False, log_normal, linear=False, scaled=True, transform="exponent",
    term="gaussian",
)  # fmt: skip
