"""The Gaussian, measured against a mixture of two normals, and the density of such a mixture."""

from __future__ import annotations

import math

import torch

from .family import HALF_LOG_2PI, Family, bounded_quotient, log_q, scale_of


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


def mixture_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: the log-density of a mixture of two normals around 0.

    Parameters: the point x, share, std1, std2, and p as above. Of the normal that counts for more,
    "first", and the other, without the logarithm of a share, which may be 0::

        log p = log N_first + log(share_first + share_other N_other / N_first)
    """
    x, share, std1, std2 = p
    first_is_wide = std1 >= std2
    wide, narrow = torch.where(first_is_wide, std1, std2), torch.where(first_is_wide, std2, std1)
    rest = 1.0 - share
    of_wide, of_narrow = (
        torch.where(first_is_wide, share, rest), torch.where(first_is_wide, rest, share),
    )  # fmt: skip
    # log(N_narrow / N_wide). Nothing is infinite less infinite, however far the point is.
    ratio = narrow / wide
    fall = 0.5 * (1.0 - ratio) * (1.0 + ratio)
    # Of two equal stds it is 0, but its derivatives are not.
    fall = fall + (fall.clamp_min(2.0**-126) - fall).detach()
    e = bounded_quotient(x, narrow, _most(x))
    ahead = torch.log(wide) - torch.log(narrow) - fall * e * e
    by_narrow = (of_narrow != 0.0) & ((ahead > 0.0) | (of_wide == 0.0))
    std = torch.where(by_narrow, narrow, wide)
    first, other = (
        torch.where(by_narrow, of_narrow, of_wide), torch.where(by_narrow, of_wide, of_narrow),
    )  # fmt: skip
    # Only where the other has no share is it more than 0.
    less = torch.where(by_narrow, -ahead, ahead).clamp_max(80.0)
    d = x / std
    log_first = -0.5 * d * d - torch.log(std) - HALF_LOG_2PI
    z = x if eps is None else x.expand_as(eps)
    return z, (log_first + torch.log(first + other * torch.exp(less)),)


def _most(x: torch.Tensor) -> float:
    """A number of stds beyond which a density is 0, and whose square is a number."""
    return 1e150 if x.dtype == torch.float64 else 1e18


MIXTURE = Family(2, 6, "normal", 1, True, mixture, scaled=True, transform="mixture")
MIXTURE_DENSITY = Family(
    4, 0, "logistic", 1, False, mixture_density, transform="unsampled", term="mixture_density",
    names="x share+ std1+ std2+",
)  # fmt: skip
