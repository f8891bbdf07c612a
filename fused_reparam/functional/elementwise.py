"""The way of every element-wise family from named parameters to its op."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..families import FAMILIES
from ..ops.elementwise import Spec, elementwise
from ..ops.elementwise_spec import halves, settled, shape_of, stacked, stacked_order
from ..ops.elementwise_spec import parameters as split_parameters
from ..ops.layout import UNSETTLED
from . import sources as noise_sources
from .arguments import check_reduction, deviation, number, parameters
from .sources import Sources, key_source

UNBOUNDED = (-torch.inf, torch.inf)
Named = tuple[str, Tensor | float]


def sample(
    family: str,
    named: tuple[Named, ...],
    sources: Sources,
    kind: int = 0,
    prior_kind: int = 0,
    constants: tuple[float, ...] = (),
    reduction: str | None = None,
    samples: int = 0,
    split: int = -1,
    return_eps: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """z, the family's terms, and the noise that was used where it is asked for.

    ``reduction`` of the terms: as of a KL, or "last", over the last dim; None: none are wanted.
    ``split``: the dim along which the first tensor holds the first two parameters; -1: it does not.
    """
    params = parameters(*named) if split < 0 else _beside_moments(named, split)
    if split >= 0 and len(params) > 1:
        params, split = _as_wide(params, split)
    spec = Spec(
        UNSETTLED, family, kind, prior_kind, tuple(constants), samples, True, reduction, split
    )
    eps = None
    if sources.rng == "philox" and sources.eps is None:
        key = noise_sources.key_of(sources, params[0])
    else:
        key, eps = noise_sources.given_or_torch(sources, params[0], *_of_z(params, spec))
    z, terms = elementwise(params, key, eps, spec)
    if return_eps and eps is None:
        eps = noise_sources.made_of(key, z)
    return z, terms, eps if return_eps else None


def rsample(
    family: str,
    named: tuple[Named, ...],
    key: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """z of a family that has a ``law``."""
    constants = (1.0,) * FAMILIES[family].constants  # of the KL, which is not wanted
    return sample(family, named, key_source(key, generator), constants=constants)[0]


def latent(
    family: str,
    named: tuple[Named, ...],
    prior: tuple[float, ...],
    reduction: str,
    key: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """z of such a family and its KL to the member that ``prior`` tells, reduced."""
    check_reduction(reduction)
    row = FAMILIES[family]
    checked = [
        deviation(name[:-1], value) if name.endswith("+") else number(name, value)
        for name, value in zip(row.prior.split(), prior, strict=True)
    ]
    constants = row.prior_constants(*checked)
    z, (kl,), _ = sample(
        family, named, key_source(key, generator), constants=constants, reduction=reduction
    )
    return z, kl


def terms_alone(
    family: str,
    named: tuple[Named, ...],
    kind: int,
    prior_kind: int,
    constants: tuple[float, ...],
    reduction: str,
) -> tuple[Callable[[], torch.Size], tuple[Tensor, ...]]:
    """The shape, and the terms where they need no noise, without a sample."""
    params = parameters(*named)
    spec = Spec(UNSETTLED, family, kind, prior_kind, tuple(constants), 0, False, reduction)
    return lambda: shape_of(params), elementwise(params, None, None, spec)[1]


def _beside_moments(named: tuple[Named, ...], split: int) -> list[Tensor]:
    """Moments and what comes with them, checked and of one dtype."""
    (_, moments), *others = named
    if not others:
        return [moments]  # type: ignore[list-item]
    # Beside the others, what counts is the shape of one half, and what it is.
    half, *rest = parameters(("mu", halves(moments, split)[0]), *others)  # type: ignore[arg-type]
    return [moments.to(half.dtype), *rest]  # type: ignore[union-attr]


def _as_wide(params: list[Tensor], split: int) -> tuple[list[Tensor], int]:
    """Moments and a prior; as two halves where the prior is wider than they are.

    The gradient of both is one tensor only as long as it has their shape.
    """
    loc, scale = halves(params[0], split)
    shape = shape_of([loc, *params[1:]])
    if len(shape) == loc.dim() and shape == loc.shape:
        return params, split
    return [loc, scale, *params[1:]], -1


def _of_z(params: list[Tensor], spec: Spec) -> tuple[torch.Size, list[int]]:
    """The shape and memory order of z."""
    inputs = [params[0], None, *params[1:]] if spec.split >= 0 else params
    spec = settled(inputs, spec)
    shape = shape_of(split_parameters(inputs, spec))
    return stacked(spec.samples, shape), stacked_order(spec.samples, spec.order)
