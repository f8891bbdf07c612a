"""What a call of the element-wise op computes, and the shapes that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import reductions
from ..families import FAMILIES, Family
from .layout import UNSETTLED, memory_order, shifted_order

PARAMETERS, TERMS = 4, 2  # the most that a family has


class Spec(NamedTuple):
    """The op's arguments that are not tensors, in the schema's order."""

    order: Sequence[int]  # memory order of one sample, see layout.py; UNSETTLED: the parameters'
    family: str  # a name of families.FAMILIES
    kind: int
    prior_kind: int
    constants: tuple[float, ...]
    samples: int  # 0: no leading sample dim; K: z is (K, *shape), sample k outermost in memory
    sample: bool  # whether z is wanted
    reduction: str | None  # of the terms; None: they are not wanted
    split: int = -1  # dim along which p0 holds the first two parameters; -1: each is a tensor


class Inputs(NamedTuple):
    """The op's tensors, all of which are saved for the backward pass."""

    p0: Tensor
    p1: Tensor | None
    p2: Tensor | None
    p3: Tensor | None
    key: Tensor | None
    eps: Tensor | None


def inputs_of(params: Sequence[Tensor], key: Tensor | None, eps: Tensor | None) -> Inputs:
    return Inputs(*params, *(None,) * (PARAMETERS - len(params)), key, eps)  # type: ignore[arg-type, call-arg]


def halves(moments: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The two halves of a tensor along a dim, as views."""
    half = moments.shape[dim] // 2
    return moments.narrow(dim, 0, half), moments.narrow(dim, half, half)


def parameters(inputs: Sequence[Tensor | None], spec: Spec) -> tuple[Tensor, ...]:
    """The parameters, each as a tensor of its own."""
    given = [p for p in inputs[:PARAMETERS] if p is not None]
    if spec.split >= 0:
        return *halves(given[0], spec.split), *given[1:]
    return tuple(given)


def settled(inputs: Sequence[Tensor | None], spec: Spec) -> Spec:
    """The spec with its order: that of the first parameter which is not broadcast."""
    if spec.order is not UNSETTLED:
        return spec
    params = parameters(inputs, spec)
    shape = shape_of(params)
    if spec.split < 0 and params[0].dim() == len(shape) and params[0].shape == shape:
        return spec._replace(order=tuple(memory_order(params[0])))
    at = next(
        (i for i, p in enumerate(params) if p.dim() == len(shape) and p.shape == shape),
        None,
    )
    if at is None:
        return spec._replace(order=())
    moments = inputs[0] if spec.split >= 0 and at == 0 else None
    return spec._replace(order=tuple(memory_order(params[at] if moments is None else moments)))


def member(spec: Spec) -> Family:
    return FAMILIES[spec.family]


def count(spec: Spec) -> int:
    """The number of terms that are computed."""
    return 0 if spec.reduction is None else FAMILIES[spec.family].terms


def term_samples(spec: Spec) -> int:
    """The leading sample dim of a term; 0: none."""
    return spec.samples if member(spec).sampled else 0


def noisy(spec: Spec) -> bool:
    """Whether anything that is computed depends on the noise."""
    return spec.sample or (member(spec).sampled and spec.reduction is not None)


def shape_of(params: Sequence[Tensor]) -> torch.Size:
    """The parameters' broadcast shape: that of one sample."""
    shape = params[0].shape
    for p in params[1:]:
        # PyTorch's own way takes 20 us, and what broadcasts to the first is the usual case.
        if not (p.dim() == len(shape) and p.shape == shape) and not broadcasts_to(shape, p):
            return torch.broadcast_shapes(*(p.shape for p in params))
    return shape


def broadcasts_to(shape: torch.Size, t: Tensor) -> bool:
    """Whether a tensor broadcasts to a shape, which does not get wider by it."""
    # The number of dims first: of symbolic sizes a comparison becomes a condition of the graph.
    ahead = len(shape) - t.dim()
    if ahead < 0:
        return False
    behind = shape[ahead:] if ahead else shape
    return t.shape == behind or all(n in (1, m) for m, n in zip(behind, t.shape, strict=True))


def stacked(samples: int, shape: Sequence[int]) -> torch.Size:
    """A shape with the samples in front, where they have a dim."""
    return torch.Size((samples, *shape) if samples else shape)


def stacked_order(samples: int, order: Sequence[int]) -> list[int]:
    return shifted_order(order, 1 if samples else 0)


def kept(shape: Sequence[int], spec: Spec) -> int:
    """How many leading dims of the parameters' shape a term keeps."""
    return 0 if spec.reduction is None else reductions.kept_dims(len(shape), spec.reduction)


def term_shape(shape: Sequence[int], spec: Spec) -> torch.Size:
    return stacked(term_samples(spec), shape[: kept(shape, spec)])


def term_order(shape: Sequence[int], spec: Spec) -> list[int]:
    order = [d for d in spec.order if d < kept(shape, spec)]
    return stacked_order(term_samples(spec), order)
