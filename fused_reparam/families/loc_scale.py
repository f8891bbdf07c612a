"""Location and scale of a standard one: Laplace, logistic, Gumbel, uniform, Cauchy, Student-t."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .bernoulli import unsampled
from .family import Family, Formula, located, over

_LOG_2 = math.log(2.0)


def _loc_scale(kl: Callable[[Tensor, Tensor], Tensor] | None) -> Formula:
    """z = loc + scale eps; term: KL to the standard member, where it is closed."""

    def formula(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
        return located(p[0], p[1], eps), () if kl is None else (kl(p[0], p[1]),)

    return formula


def laplace_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """scale exp(-|loc| / scale) + |loc| - log scale - 1."""
    size = loc.abs()
    # Where the first term is nothing beside the others it is left out: its gradient would be 0
    # times an infinity.
    none = (size > 700.0 * scale) | (scale < torch.finfo(scale.dtype).tiny)
    inside = torch.where(none, 1.0, scale)
    # In units of the scale, a constant that changes nothing: no square of 1 / scale is met.
    unit = 1.0 / inside.detach()
    sized, scaled = torch.where(none, 0.0, size) * unit, inside * unit
    near = torch.where(none, 0.0, inside.detach() * (scaled * torch.exp(-sized / scaled)))
    return near + size - torch.log(scale) - 1.0


def laplace_density(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """term: log-density of a value. Parameters x, loc, scale: -|x - loc| / scale - log 2 scale."""
    x, loc, scale = p
    return unsampled(x, eps), (-over((x - loc).abs(), scale) - torch.log(scale) - _LOG_2,)


def uniform_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """-log scale where [loc - scale, loc + scale] is within [-1, 1], else infinite; NaN of NaN."""
    end = loc.abs() + scale
    nothing = 0.0 * torch.where(end > 1.0, 0.0, loc) ** 2 * scale
    return torch.where(end > 1.0, math.inf, nothing - torch.log(scale))


def cauchy_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """log(((1 + scale)^2 + loc^2) / (4 scale))."""
    # Of the root of halves, and by the difference of the logarithms: neither overflows.
    return 2.0 * torch.log(torch.hypot(0.5 + 0.5 * scale, 0.5 * loc)) - torch.log(scale)


def student_t_df(p, eps, kind, prior_kind, constants):  # type: ignore[no-untyped-def]
    """z = loc + scale t, of ``rng.bases``' t. Parameters loc, scale, df; eps: -ln u and -ln u'.

    The gradient of df is that at fixed u and u'; where df is not positive z is NaN.
    """
    if eps is None:
        return p[0], ()
    df, cosine = p[2], torch.cos((2.0 * math.pi) * torch.exp(-eps[..., 1]))
    t = eps[..., 0] * (2.0 / df)
    # The root of e^t - 1 is that of 1 - e^-t times e^(t / 2), which is made by quarters, one after
    # the other: it may overflow before the result does, and what is infinite may be no factor of a
    # gradient, which may be 0.
    quarter = torch.exp(0.25 * t.clamp(max=4.0 * math.log(torch.finfo(t.dtype).max)))
    drawn = (torch.sqrt(-torch.expm1(-t)) * cosine * torch.sqrt(df) * quarter) * quarter
    return located(p[0], p[1], drawn), ()


LAPLACE = Family(
    2, 0, "laplace", 1, False, _loc_scale(laplace_kl), names="loc scale+", term="laplace"
)
LAPLACE_DENSITY = Family(
    3, 0, "laplace", 1, False, laplace_density, transform="unsampled", term="laplace_density",
    names="x loc scale+",
)  # fmt: skip
LOGISTIC = Family(2, 0, "logistic", 0, False, _loc_scale(None), names="loc scale+")
GUMBEL = Family(2, 0, "gumbel", 0, False, _loc_scale(None), names="loc scale+")
UNIFORM = Family(
    2, 0, "uniform", 1, False, _loc_scale(uniform_kl), names="loc scale+", term="uniform"
)
CAUCHY = Family(2, 0, "cauchy", 1, False, _loc_scale(cauchy_kl), names="loc scale+", term="cauchy")
STUDENT_T = Family(2, 1, "student_t", 0, False, _loc_scale(None), names="loc scale+", base_number=0)
STUDENT_T_DF = Family(
    3, 0, "student_t", 0, False, student_t_df, names="loc scale+ df+", transform="student_t",
    base_parameter=2,
)  # fmt: skip
