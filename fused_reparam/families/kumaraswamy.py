"""The Kumaraswamy distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from .family import Family


def kumaraswamy(p, eps, kind, prior_kind, numbers):  # type: ignore[no-untyped-def]
    """z = (1 - exp(-eps / b))^(1 / a). Parameters a (concentration1), b (concentration0).

    Beyond the bounds z is 1 or 0 and no gradient is left, where the quotients may be infinite.
    """
    t = _quotient(eps, p[1])
    # A tiny t is 1 - exp(-t) to its last digit, but may have no reciprocal, which a gradient would
    # take. Of a large t 1 - exp(-t) rounds to 1.
    tiny, large = t < 1e-20, t > 0.7
    of_tiny = torch.log(torch.where(tiny, eps, 1.0)) - torch.log(torch.where(tiny, p[1], 1.0))
    of_large = torch.log1p(-torch.exp(-torch.where(large, t, 1.0)))
    of_others = torch.log(-torch.expm1(-torch.where(tiny | large, 0.5, t)))
    log_base = torch.where(tiny, of_tiny, torch.where(large, of_large, of_others))
    return torch.exp(_quotient(log_base, p[0])), ()


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    """x / y within bounds beyond which e^-|x / y| is 0; there it has no gradient."""
    most = 1100.0 if x.dtype == torch.float64 else 128.0
    beyond = (x / y).abs() > most
    return torch.where(beyond, most * torch.sign(x), x / torch.where(beyond, 1.0, y))


KUMARASWAMY = Family(2, 0, "exponential", 0, False, kumaraswamy, linear=False)
