"""Divergences between these distributions, and between one of them and one of PyTorch's.

What is not registered here is found for the counterparts: each class is a subclass of one. A pair
of one kind is registered for both sides, so that no look-up is ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributions
from torch.distributions import Beta, register_kl

from ..functional.elementwise import divergence
from ..functional.gaussian_kl import gaussian_kl
from ..functional.kl import categorical_kl, kumaraswamy_kl
from .base import Fused, OfFamily, family_parameters, in_dtype_of, number_of
from .categories import OneHotCategorical
from .normal import HalfNormal, LogNormal, Normal, as_prior
from .positive import Exponential, HalfCauchy, Pareto, Weibull
from .scales import scale_of
from .tanh_normal import TanhNormal, same_bounds
from .unit_interval import ContinuousBernoulli, Kumaraswamy

Kl = Callable[[Any, Any], Tensor]


def _register(kind: type[Fused], kl: Kl, counterpart: Any = None) -> None:
    other = counterpart or kind._counterpart
    for p, q in ((kind, kind), (kind, other), (other, kind)):
        register_kl(p, q)(kl)


def _normal(p: Any, q: Any) -> Tensor:
    kl = gaussian_kl(p.loc, **scale_of(p), prior=as_prior(q), reduction="none")
    return in_dtype_of(kl, p.loc, q.loc)


def _of_family(family: str, p: Any, q: Any) -> Tensor:
    of, to = family_parameters(family, p), family_parameters(family, q)
    kl = divergence(family, of, tuple([number_of(value) for _, value in to]))
    first = of[0][0]
    return in_dtype_of(kl, getattr(p, first), getattr(q, first))


def _one_hot(p: Any, q: Any) -> Tensor:
    return categorical_kl(_log_shares(p), _log_shares(q), reduction="none").to(p.probs.dtype)


def _log_shares(distribution: Any) -> Tensor:
    """Logarithms of the probabilities, also of 0, which PyTorch's logits do not show."""
    categorical = distribution._categorical
    if categorical._param is categorical.__dict__.get("probs"):
        return torch.log(categorical.probs)
    return categorical.logits  # type: ignore[no-any-return]


_register(Normal, _normal)
_register(LogNormal, _normal)
_register(OneHotCategorical, _one_hot, distributions.OneHotCategorical)
_families: tuple[type[OfFamily], ...] = (
    Exponential, HalfNormal, HalfCauchy, Pareto, Weibull, ContinuousBernoulli,
)  # fmt: skip
for _kind in _families:
    _register(_kind, partial(_of_family, _kind._family))


@register_kl(Kumaraswamy, Beta)
def _kumaraswamy_beta(p: Kumaraswamy, q: Beta) -> Tensor:
    prior = q.concentration1, q.concentration0
    kl = kumaraswamy_kl(p.concentration1, p.concentration0, *prior, reduction="none")
    return in_dtype_of(kl, p.concentration1, q.concentration1)


@register_kl(TanhNormal, TanhNormal)
def _tanh_normal(p: TanhNormal, q: TanhNormal) -> Tensor:
    if not same_bounds(p, q):
        raise NotImplementedError("the divergence of a TanhNormal to one of other bounds")
    return _normal(p, q)
