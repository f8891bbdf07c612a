"""What a draw computes and the shapes that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..backends.reference.families import FAMILIES, Family
from .gaussian_call import kl_weight


class DrawSpec(NamedTuple):
    """What a call computes: the op's arguments that are not tensors, in the schema's order."""

    order: list[int]  # memory order of one sample, see layout.py
    family: str  # a name of reference.families.FAMILIES
    kind: int
    prior_kind: int
    numbers: list[float]
    samples: int  # 0: no leading sample dim; K: z is (K, *shape), sample k outermost in memory
    sample: bool  # whether z is wanted
    keep: int  # leading dims of the parameters' shape that the values keep; -1: no values
    weight: float  # factor of the values' sums


class Inputs(NamedTuple):
    """What is saved for the backward pass."""

    params: tuple[Tensor, ...]
    key: Tensor | None
    eps: Tensor | None


def member(spec: DrawSpec) -> Family:
    return FAMILIES[spec.family]


def count(spec: DrawSpec) -> int:
    """The number of values that are computed."""
    return member(spec).values if spec.keep >= 0 else 0


def passes(spec: DrawSpec, grad_z: Tensor | None, grad_values: Sequence[Tensor | None]) -> bool:
    """Whether z's gradient is parameter 0's as it is: nothing is to be computed, nor written.

    The very tensor: of a view autograd would not see that others hold the memory too.
    """
    if spec.samples or not member(spec).linear:
        return False
    return grad_z is not None and all(g is None for g in grad_values)


def value_samples(spec: DrawSpec) -> int:
    """The leading sample dim of a value; 0: none."""
    return spec.samples if member(spec).sampled else 0


def noisy(spec: DrawSpec) -> bool:
    """Whether anything that is computed depends on the noise."""
    return spec.sample or (member(spec).sampled and spec.keep >= 0)


Gradients = tuple[Tensor | None, ...]  # of each parameter, then of eps


def kept(shape: Sequence[int], reduction: str | None) -> tuple[int, float]:
    """``keep`` and ``weight`` of a reduction: one of the Gaussian's, or "last", or None.

    "last" sums over the last dim; None stands for no values.
    """
    if reduction is None:
        return -1, 1.0
    if reduction == "last":
        return max(len(shape) - 1, 0), 1.0
    keep = {"none": len(shape), "sample": min(len(shape), 1)}.get(reduction, 0)
    return keep, kl_weight(torch.Size(shape), reduction)


def shape_of(params: Sequence[Tensor]) -> torch.Size:
    """The parameters' broadcast shape: that of one sample."""
    shape = params[0].shape
    if all(p.dim() == len(shape) and p.shape == shape for p in params):
        return shape
    return torch.broadcast_shapes(*(p.shape for p in params))


def stacked(samples: int, shape: Sequence[int]) -> torch.Size:
    """A shape with the samples in front, where they have a dim."""
    return torch.Size((samples, *shape) if samples else shape)


def stacked_order(samples: int, order: list[int]) -> list[int]:
    return [0, *(d + 1 for d in order)] if samples and order else order


def value_shape(shape: Sequence[int], spec: DrawSpec) -> torch.Size:
    return stacked(value_samples(spec), shape[: spec.keep])


def value_order(spec: DrawSpec) -> list[int]:
    return stacked_order(value_samples(spec), [d for d in spec.order if d < spec.keep])
