"""The log-density of Student's t distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bernoulli import unsampled
from .family import HALF_LOG_2PI, Family, over

SERIES = (
    -1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432, 691 / 180224, -5461 / 425984,
    929569 / 15728640,
)  # fmt: skip
"""Of log(Gamma(a + 1/2) / Gamma(a)) - log(a) / 2, times a, in powers of 1 / a^2."""
SERIES_SLOPE = tuple(-(2 * k + 1) * c for k, c in enumerate(SERIES))
"""Of its derivative, times a^2."""


def student_t_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: log-density of a value. Parameters x, df, loc, scale.

    With t = |x - loc| / (scale sqrt(df))::

        log p = log(Gamma((df + 1) / 2) / Gamma(df / 2)) - log(pi df) / 2 - log scale
                - (df + 1) / 2 log(1 + t^2)

    No logarithm of the gamma function is taken, of which the quotient leaves little: see
    ``_constant``. Of t above 1 the last logarithm is log(1 + 1 / t^2) + 2 log t, which does not
    overflow before the density does.
    """
    x, df, loc, scale = p
    limits = torch.finfo(x.dtype)
    bounds = (2.0**-1000, 2.0**900) if x.dtype == torch.float64 else (2.0**-118, 2.0**100)
    df = df.clamp(max(bounds[0], limits.tiny), min(bounds[1], limits.max))
    d, root = x - loc, torch.sqrt(df)
    with torch.no_grad():
        t = (d / scale / root).abs()
        far, beyond = t > 1.0, t == math.inf
    # What is not taken is replaced before quotients are formed, whose gradients may be infinite.
    near = over(over(torch.where(far, 0.0, d), torch.where(far, 1.0, scale)), root)
    some, within = torch.where(far, d, 1.0), far & ~beyond
    inner = torch.where(within, scale, 1.0)
    size = over(over(torch.where(within, some, 1.0), inner), torch.where(within, root, 1.0)).abs()
    of_both = torch.log(torch.where(beyond, some, 1.0).abs()) - torch.log(
        torch.where(beyond, scale, 1.0)
    )
    of_both = of_both - 0.5 * torch.log(torch.where(beyond, df, 1.0))
    inverse = torch.where(within, size, 1.0).reciprocal()
    of_far = torch.where(within, torch.log1p(inverse * inverse), 0.0)
    of_far = of_far + 2.0 * torch.where(beyond, of_both, torch.log(size))
    log_of_sum = torch.where(far, of_far, torch.log1p(near * near))
    value = _constant(df) - torch.log(scale) - 0.5 * (df + 1.0) * log_of_sum
    return unsampled(x, eps), (value,)


def _constant(df: Tensor) -> Tensor:
    """log(Gamma(a + 1/2) / Gamma(a)) - log(2 pi a) / 2 of a = df / 2.

    Of an a that is raised by s the series says the quotient, and the product of (a + k + 1/2) / (a
    + k), for k from 0 to s - 1, is what it is raised by. sqrt(a) goes into the logarithm of that
    product, which is then of a number near 1 where a is large.
    """
    s = 9 if df.dtype == torch.float64 else 4
    a = 0.5 * df
    inverse = (a + s).reciprocal()
    ratio = ((a + 0.5) * inverse).reciprocal()
    for k in range(1, s):
        ratio = ratio * ((a + k) / (a + (k + 0.5)))
    powers = (a * inverse) * (ratio * ratio)
    series, square = torch.zeros_like(a), inverse * inverse
    for coefficient in reversed(SERIES):
        series = series * square + coefficient
    return 0.5 * torch.log(powers) + (inverse * series - HALF_LOG_2PI)


STUDENT_T_DENSITY = Family(
    4, 0, "logistic", 1, False, student_t_density, transform="unsampled",
    term="student_t_density", names="x df+ loc scale+",
)  # fmt: skip
