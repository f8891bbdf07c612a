"""The Gaussian, measured against a mixture of two normals."""

from __future__ import annotations

import math

import torch

from .family import HALF_LOG_2PI, Family, log_q, scale_of


def mixture(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = mu + sigma eps; term: log q(z) - log p(z), the prior a mixture of two normals.

    Parameters mu, x. Constants low, high, prior_mean, share, std1, std2::

        p = share N(prior_mean, std1^2) + (1 - share) N(prior_mean, std2^2),  0 < share < 1
    """
    low, high, mean = constants[:3]
    std, constant, ahead, fall = wider_and_narrower(*constants[3:])
    sigma, log_var = scale_of(p[1], kind, low, high)
    z = p[0] + sigma * eps
    d = (z - mean) / std
    square = d * d
    # Not torch.logaddexp: its second derivative is NaN where one of the two is far below the other.
    more = -torch.nn.functional.logsigmoid(fall * square - ahead)
    return z, (log_q(eps, log_var) - (constant - HALF_LOG_2PI - 0.5 * square + more),)


def wider_and_narrower(share: float, std1: float, std2: float) -> tuple[float, float, float, float]:
    """A mixture by its wider normal: its std, and log(share / std) of it; how far the narrower
    one's logarithm is ahead of the wider one's at the mean, and how it falls with d^2.

    With d = (z - mean) / std and ``a = ahead - fall d^2``: ``log p = constant - d^2 / 2 - log(2 pi)
    / 2 + log(1 + e^a)``. Nothing is infinite less infinite, however far z is.
    """
    (wide, constant), (narrow, other) = sorted(
        ((std1, math.log(share) - math.log(std1)), (std2, math.log1p(-share) - math.log(std2))),
        reverse=True,
    )
    ratio = wide / narrow
    # Float32's: not 0, which times an infinite square would be NaN, and nothing infinite.
    fall = min(max(0.5 * (ratio * ratio - 1.0), 2.0**-126), 2.0**126)
    return wide, constant, other - constant, fall


MIXTURE = Family(2, 6, "normal", 1, True, mixture, scaled=True, transform="mixture")
