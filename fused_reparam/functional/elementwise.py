"""The way of every element-wise family from named parameters to its op."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.noise_options import Generators, NoiseOptions
from ..families import FAMILIES, Family
from ..ops.elementwise import Spec, elementwise
from ..ops.elementwise_spec import broadcasts_to, halves, settled, shape_of
from ..ops.elementwise_spec import parameters as split_parameters
from ..ops.layout import UNSETTLED, shifted_order
from . import sources as noise_sources
from .arguments import check_tensor, deviation, given_noise, number, parameters
from .reduction import Reduction
from .reduction import settled as settled_reduction
from .sources import Sources, drawing_of, drawn_noise, made_in_op, sources_of
from .tensor_numbers import Number, check_broadcasts, number_or_tensor

UNBOUNDED = (-torch.inf, torch.inf)
Named = tuple[str, Tensor | float]


def sample(
    family: str,
    named: tuple[Named, ...],
    sources: Sources,
    kind: int = 0,
    prior_kind: int = 0,
    constants: tuple[float, ...] = (),
    reduction: Reduction | None = None,
    split: int = -1,
    return_eps: bool = False,
    wide: tuple[tuple[str, Tensor], ...] = (),
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """z, the family's terms, and the noise that was used where it is asked for.

    ``reduction`` of the terms: as of a KL, or dims to sum over; None: none are wanted.
    ``split``: the dim along which the first tensor holds the first two parameters; -1: it does not.
    ``wide``: further parameters, of the dtype of the arithmetic, which 16 bits do not round.
    """
    params = parameters(*named) if split < 0 else _beside_moments(named, split)
    like = params[0]
    if wide:
        params = _with_wide(params, wide)
    if split >= 0 and len(params) > 1:
        params, split = _as_wide(params, split)
    front = sources.sample_shape
    samples = math.prod(front) if front else 0
    left: list[int] = []
    if isinstance(reduction, tuple):
        reduction, left = _over_dims(reduction, params, split)
    spec = Spec(
        UNSETTLED, family, kind, prior_kind, tuple(constants), samples, True, reduction, split
    )
    if made_in_op(sources):
        key, eps = noise_sources.key_of(sources, params[0]), None
        z, terms = elementwise(params, key, None, spec)
        if return_eps:
            eps = noise_sources.made_of(key, z)
    else:
        z, terms, eps = _of_noise(params, like, sources, spec)
    if z.dtype is not like.dtype:
        z, eps = z.to(like.dtype), None if eps is None else eps.to(like.dtype)
    if left:
        terms = tuple([term.sum(left) for term in terms])
    if front and (len(front) > 1 or not samples):
        z, eps = as_shaped(z, front), None if eps is None else as_shaped(eps, front)
        if FAMILIES[family].sampled:
            terms = tuple([as_shaped(term, front) for term in terms])
    return z, terms, eps if return_eps else None


def _of_noise(
    params: list[Tensor], like: Tensor, sources: Sources, spec: Spec
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """The op's results, and the noise, which is made here as for ``like``."""
    inputs = [params[0], None, *params[1:]] if spec.split >= 0 else params
    front, dtype = sources.sample_shape, params[0].dtype
    shape = shape_of(params if spec.split < 0 else split_parameters(inputs, spec))
    if front:
        shape = torch.Size((*front, *shape))
    if sources.eps is not None:
        eps = given_noise(sources.eps, like, shape)
    else:
        order: list[int] = []  # PyTorch's distributions draw in the usual one
        if sources.like_loc or type(sources.generator) is tuple:
            order = shifted_order(settled(inputs, spec).order, len(front))
        drawing = drawing_of(spec.family, spec.constants)
        eps = drawn_noise(sources, like, drawing, shape, order)
    eps = flat(eps, front) if front else eps
    key = None
    if type(sources.generator) is tuple and sources.rng == "philox":
        # Any will do: beside a key, noise is one's that the op could have made itself.
        key = torch.zeros(2, dtype=torch.uint64, device=eps.device)
    if eps.dtype is dtype:
        return *elementwise(params, key, eps, spec), eps
    # Each item is to be what it would be alone, for which the op rounds no noise to 16 bits.
    dtype = compute_dtype(dtype)
    z, terms = elementwise([p.to(dtype) for p in params], key, eps.to(dtype), spec)
    return z, terms, eps


def _with_wide(params: list[Tensor], wide: tuple[tuple[str, Tensor], ...]) -> list[Tensor]:
    """All in the dtype of the arithmetic. The further ones broadcast to the sample's shape."""
    shape, dtype = shape_of(params), compute_dtype(params[0].dtype)
    for name, t in wide:
        if not broadcasts_to(shape, t):
            check_broadcasts(name, t, "the parameters", shape)
    return [p if p.dtype is dtype else p.to(dtype) for p in (*params, *[t for _, t in wide])]


def flat(noise: Tensor, front: tuple[int, ...]) -> Tensor:
    """Noise of such dims in front as an op takes it: with one, or none where there is no sample."""
    if front and not math.prod(front):
        # There is nothing to add up. Any number will do that no family's noise is infinite at.
        return noise.sum(tuple(range(len(front)))) + 0.5
    return noise.flatten(0, len(front) - 1) if len(front) > 1 else noise


def as_shaped(found: Tensor, front: tuple[int, ...]) -> Tensor:
    """An op's result with these dims in front, of the one that it has; or none of a sample."""
    if math.prod(front):
        return found.unflatten(0, front)
    return found.unsqueeze(0)[:0].reshape(*front, *found.shape)


def rsample(
    family: str,
    named: tuple[Named, ...],
    key: Tensor | None,
    generator: Generators | None,
    noise: NoiseOptions,
) -> Tensor:
    """z of a family that has a ``law``."""
    return _sample_alone(family, named, sources_of(key, generator, noise))


def _sample_alone(family: str, named: tuple[Named, ...], sources: Sources) -> Tensor:
    constants = (1.0,) * FAMILIES[family].constants  # of the KL, which is not wanted
    return sample(family, named, sources, constants=constants)[0]


def latent(
    family: str,
    named: tuple[Named, ...],
    prior: tuple[Number, ...],
    reduction: Reduction,
    key: Tensor | None,
    generator: Generators | None,
    noise: NoiseOptions,
) -> tuple[Tensor, Tensor]:
    """z of such a family and its KL to the member that ``prior`` tells, reduced."""
    row, sources = FAMILIES[family], sources_of(key, generator, noise)
    checked = _checked_prior(row, named, prior)
    if any(isinstance(value, Tensor) for value in checked):
        return _latent_to_tensors(family, named, checked, sources, reduction)
    constants = row.prior_constants(*checked)
    z, (kl,), _ = sample(family, named, sources, constants=constants, reduction=reduction)
    return z, kl


def divergence(family: str, named: tuple[Named, ...], prior: tuple[Number, ...]) -> Tensor:
    """The same KL without a sample, one of each element."""
    row = FAMILIES[family]
    checked = _checked_prior(row, named, prior)
    if not any(isinstance(value, Tensor) for value in checked):
        return terms_alone(family, named, 0, 0, row.prior_constants(*checked), "none")[1][0]
    own = parameters(*named)
    wide = compute_dtype(own[0].dtype)  # a prior keeps its precision, and an op has one dtype
    both: list[Named] = [(name, p.to(wide)) for (name, _), p in zip(named, own, strict=True)]
    both += zip(row.prior.replace("+", "").split(), checked, strict=True)
    return terms_alone(f"{family}_prior", tuple(both), 0, 0, (), "none")[1][0]


def _checked_prior(
    row: Family, named: tuple[Named, ...], prior: tuple[Number, ...]
) -> list[Number]:
    name, like = next((pair for pair in named if isinstance(pair[1], Tensor)), named[0])
    if not all(type(value) is float for value in prior):
        check_tensor(name, like)  # type: ignore[arg-type]
    return [
        number_or_tensor(name.rstrip("+"), value, like, deviation if name[-1] == "+" else number)  # type: ignore[arg-type]
        for name, value in zip(row.prior.split(), prior, strict=True)
    ]


def _latent_to_tensors(
    family: str,
    named: tuple[Named, ...],
    prior: list[Number],
    sources: Sources,
    reduction: Reduction,
) -> tuple[Tensor, Tensor]:
    """The same to a prior with tensors in it, which are parameters of the op as well."""
    own = parameters(*named)
    beside = tuple(zip(FAMILIES[family].prior.replace("+", "").split(), prior, strict=True))
    shape = shape_of(own)
    for name, value in beside:
        if isinstance(value, Tensor) and value.dim():
            check_broadcasts(name, value, "the parameters", shape)
    learned, wide = f"{family}_prior", compute_dtype(own[0].dtype)
    checked = tuple(zip([name for name, _ in named], own, strict=True))
    if wide is own[0].dtype:
        z, (kl,), _ = sample(learned, (*checked, *beside), sources, reduction=reduction)
        return z, kl
    # A prior keeps its precision, and an op has one dtype.
    z = _sample_alone(family, checked, sources)
    checked = tuple([(name, p.to(wide)) for name, p in checked])
    return z, terms_alone(learned, (*checked, *beside), 0, 0, (), reduction)[1][0]


def terms_alone(
    family: str,
    named: tuple[Named, ...],
    kind: int,
    prior_kind: int,
    constants: tuple[float, ...],
    reduction: Reduction,
) -> tuple[Callable[[], torch.Size], tuple[Tensor, ...]]:
    """The shape, and the terms where they need no noise, without a sample."""
    params = parameters(*named)
    left: list[int] = []
    if isinstance(reduction, tuple):
        reduction, left = _over_dims(reduction, params)
    spec = Spec(UNSETTLED, family, kind, prior_kind, tuple(constants), 0, False, reduction)
    terms = elementwise(params, None, None, spec)[1]
    if left:
        terms = tuple([term.sum(left) for term in terms])
    return lambda: shape_of(params), terms


def _over_dims(
    dims: tuple[int, ...], params: list[Tensor], split: int = -1
) -> tuple[str, list[int]]:
    """The op's reduction, and the dims that are left to sum over."""

    def shape() -> torch.Size:
        return shape_of(params) if split < 0 else halves(params[0], split)[0].shape

    return settled_reduction(dims, max([p.dim() for p in params]), shape)


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
