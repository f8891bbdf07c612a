"""What the bench must know about an op; everything else in the bench is the same for all ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Compute = Callable[..., Tensors]

WORKS = ("forward", "backward", "forward+backward")


class Expected(NamedTuple):
    """A value in float64, and the size of the terms that rounding errors are proportional to."""

    value: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Oracle:
    """What an op's outputs and gradients must be, given the noise that its sample reveals."""

    noise: Tensor
    expected: dict[str, Expected]


@dataclass(frozen=True)
class Op:
    """An op under test.

    Every form of it is called as `form(*inputs)` and returns a tuple of tensors, drawing new noise
    by itself. `inputs` makes leaves that require gradients.
    """

    name: str
    inputs: Callable[[tuple[int, ...], torch.dtype, torch.device], Tensors]
    textbook: Compute
    distributions: Callable[[bool], Compute]
    ours: Compute
    incoming: Callable[[Tensors], Tensors]
    """The gradients that arrive at the outputs."""
    oracle: Callable[[Tensors, Tensors, Tensors], Oracle]
    """From inputs, outputs and incoming gradients, what should have come out."""
    checked: Callable[[Tensors, Tensors], dict[str, Tensor]]
    """From outputs and gradients, the tensors to hold against the oracle, by its names."""
    tensors_moved: dict[str, int]
    """Tensors of the latent's size that each kind of work has to read or write."""
    tensors_made: dict[str, int]
    """Those among them that are new: outputs and gradients."""
    noise_passes: dict[str, int]
    """How often each kind of work has to make the noise, when none is kept."""
