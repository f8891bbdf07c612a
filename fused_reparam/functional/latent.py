"""The Gaussian latent from checked arguments to its ops: what ``gaussian`` calls."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends.reference import SCALE_KINDS
from ..ops.draw_spec import shape_of
from ..ops.gaussian import gaussian_latent as _latent_op
from ..ops.gaussian_call import Inputs, Spec, halves
from . import families
from . import sources as noise_sources
from .divergence import Divergence, Prior
from .sources import Sources

Bounds = tuple[float, float]


def plain(
    loc: Tensor,
    scale: Tensor | None,
    dim: int,
    kind: int,
    bounds: Bounds,
    reduction: str | None,
    sources: Sources,
    return_eps: bool,
) -> tuple[Tensor, ...]:
    """z, the KL to N(0, 1) and, where it is asked for, the noise."""
    mu, x = halves(loc, dim) if scale is None else (loc, scale)
    shape = shape_of((mu, x))
    order = noise_sources.order_of((mu, x), shape)
    key, eps = noise_sources.find(sources, loc, shape, order)
    z, kl = _latent_op(
        Inputs(loc, scale, key, eps), Spec(order, kind, *bounds, reduction, True, dim)
    )
    if not return_eps:
        return z, kl
    if eps is None:
        assert key is not None
        eps = noise_sources.made_of(key, loc, shape, order)
    return z, kl, eps


def plain_kl(loc: Tensor, scale: Tensor, kind: int, bounds: Bounds, reduction: str) -> Tensor:
    """The KL to N(0, 1) without a sample."""
    order = noise_sources.order_of((loc, scale), shape_of((loc, scale)))
    spec = Spec(order, kind, *bounds, reduction, False, -1)
    return _latent_op(Inputs(loc, scale, None, None), spec)[1]


def general(
    mu: Tensor,
    scale: Tensor | float,
    kind: int,
    bounds: Bounds,
    wanted: Divergence | None,
    samples: int,
    sources: Sources,
    return_eps: bool,
) -> tuple[Tensor, ...]:
    """``plain`` with any prior, free bits and several samples; no KL where none is wanted."""
    prior = Prior() if wanted is None else wanted.prior
    z, values, eps = families.sample(
        prior.of("gaussian"),
        ("mu", mu),
        (SCALE_KINDS[kind], scale),
        *prior.parameters,
        sources=sources,
        kind=kind,
        prior_kind=prior.kind,
        numbers=_numbers(bounds, prior, wanted),
        reduction=None if wanted is None else wanted.inner,
        samples=samples,
        return_eps=return_eps,
    )
    shape = z.shape[1:] if samples else z.shape
    kl = z.new_empty(0) if wanted is None else wanted.finish(values[0], shape)
    return (z, kl) if eps is None else (z, kl, eps)


def general_kl(
    mu: Tensor, scale: Tensor | float, kind: int, bounds: Bounds, wanted: Divergence
) -> Tensor:
    """The KL of ``general`` without a sample."""
    prior = wanted.prior
    shape, (kl,) = families.values_alone(
        prior.of("gaussian"),
        ("mu", mu),
        (SCALE_KINDS[kind], scale),
        *prior.parameters,
        kind=kind,
        prior_kind=prior.kind,
        numbers=_numbers(bounds, prior, wanted),
        reduction=wanted.inner,
    )
    return wanted.finish(kl, shape)


def _numbers(bounds: Bounds, prior: Prior, wanted: Divergence | None) -> tuple[float, ...]:
    return (*bounds, *prior.numbers, -torch.inf if wanted is None else wanted.element_floor)
