"""The way of every element-wise family from named parameters to its op."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import noise
from ..arguments import parameters
from ..ops import draw_short
from ..ops.draw import draw as _draw_op
from ..ops.draw_spec import DrawSpec, kept, shape_of, stacked, stacked_order
from . import sources as noise_sources
from .sources import Sources

UNBOUNDED = (-torch.inf, torch.inf)
Named = tuple[str, Tensor | float]


def sample(
    family: str,
    first: tuple[str, Tensor],
    *others: Named,
    sources: Sources,
    kind: int = 0,
    prior_kind: int = 0,
    numbers: tuple[float, ...] = (),
    reduction: str | None = None,
    samples: int = 0,
    return_eps: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """z, the family's values, and the normals that were used where they are asked for.

    ``reduction`` of the values: as of a KL, or "last", over the last dim; None: none are wanted.
    """
    key, generator, rng, eps = sources
    if eps is None and rng == "philox" and not return_eps:
        if key is not None:
            noise.check_key(key)
        given = (first[1], *(value for _, value in others))
        short = draw_short.draw(
            given, family, kind, prior_kind, numbers, reduction, samples, key, generator
        )
        if short is not None:
            return short[0], short[1:], None
    params = parameters(first, *others)
    shape = shape_of(params)
    order = noise_sources.order_of(params, shape)
    keep = kept(shape, reduction)
    spec = DrawSpec(order, family, kind, prior_kind, list(numbers), samples, True, *keep)
    shape, order = stacked(samples, shape), stacked_order(samples, order)
    key, eps = noise_sources.find(sources, params[0], shape, order)
    z, values = _draw_op(params, key, eps, spec)
    if return_eps and eps is None:
        assert key is not None
        eps = noise_sources.made_of(key, params[0], shape, order)
    return z, values, eps if return_eps else None


def values_alone(
    family: str,
    first: tuple[str, Tensor],
    *others: Named,
    kind: int,
    prior_kind: int,
    numbers: tuple[float, ...],
    reduction: str,
) -> tuple[torch.Size, tuple[Tensor, ...]]:
    """The shape, and the values where they need no noise, without a sample."""
    params = parameters(first, *others)
    shape = shape_of(params)
    order = noise_sources.order_of(params, shape)
    keep = kept(shape, reduction)
    spec = DrawSpec(order, family, kind, prior_kind, list(numbers), 0, False, *keep)
    return shape, _draw_op(params, None, None, spec)[1]
