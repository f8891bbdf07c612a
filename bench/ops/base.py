"""What the bench must know about an op; everything else in the bench is the same for all ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]
Tensors = tuple[Tensor, ...]
Compute = Callable[..., Tensors]

WORKS = ("forward", "backward", "forward+backward")


def longest(shape: Shape) -> int:
    return shape.index(max(shape))


def rounding(constant: float, dtype: torch.dtype) -> float:
    """By how much a constant is off in a dtype."""
    return abs(constant - torch.tensor(constant, dtype=dtype).item())


class Base(NamedTuple):
    """Noise: a name of `fused_reparam.streams.BASES`, and the number that it goes with."""

    name: str
    number: float = 0.0


NORMAL = Base("normal")


class Expected(NamedTuple):
    """A value in float64, and the size of the terms that rounding errors are proportional to."""

    value: Tensor
    scale: Tensor
    read: Tensor | float = 0.0
    """What is to be added to the scale for the rounding of the sample, from which the value was
    made: the sample's dtype may be a shorter one than that of the result."""
    shift: float = 0.0
    """How far plain PyTorch, which rounds constants to the dtype, moves it: the same way in all
    elements, so that it does not average out."""


@dataclass(frozen=True)
class Oracle:
    """What an op's results must be on some of its elements."""

    noise: Tensor | None = None
    """What the sample reveals of the noise, as standard normals (`bench.scores` makes them of other
    noise); None for an op that makes none."""
    elements: dict[str, Expected] = field(default_factory=dict)
    """Element by element, by the names of `Op.results`."""


class Alive(NamedTuple):
    """Tensors of the latent's size alive at the worst moment of a call, beyond its inputs."""

    forward: int
    backward: int
    """For both kinds of work with a backward pass: it keeps what the forward pass left."""


@dataclass(frozen=True)
class Op:
    """An op under test.

    Every form of it is called as `form(*inputs)` and returns a tuple of tensors, drawing new noise
    by itself. `inputs` makes leaves that require gradients, where there are any.
    """

    name: str
    inputs: Callable[[Shape, torch.dtype, torch.device], Tensors]
    textbook: Compute
    distributions: Callable[[bool], Compute]
    ours: Compute
    output_shapes: Callable[[Shape], tuple[Shape, ...]]
    """The shapes of the outputs, from the latent's."""
    operands: Callable[[Tensors], Tensors]
    """The inputs, or their gradients, as views of the latent's shape."""
    incoming: Callable[[Shape, Tensors, Callable[[], Tensor]], Tensors]
    """The gradients that arrive at the outputs, the last argument making a sample's."""
    oracle: Callable[[Shape, Tensors, Tensors, Tensors], Oracle]
    """From the latent's shape, and operands, outputs and incoming gradients on some elements."""
    sums: Callable[[Shape, Tensors], dict[str, Expected]]
    """From the latent's shape and some elements of the operands, what these add to results that are
    summed over all elements, by name."""
    results: Callable[[Tensors, Tensors], dict[str, Tensor]]
    """From outputs and gradients of the operands, what to hold against the oracle, by name."""
    moved: dict[str, int]
    """Tensors of the latent's size that each kind of work has to read or write."""
    made: dict[str, int]
    """Those among them that are new: outputs and gradients."""
    noise_passes: dict[str, int]
    """How often each kind of work has to make the noise, when none is kept."""
    alive: dict[str, Alive]
    """By family of variants, see `Variant.family`; "distributions" where it is not "pytorch"'s."""
    base: Base = NORMAL
    """The noise."""
    sliced: Callable[[Shape], int] = longest
    """The dim of the latent along which the oracle can be given a part."""
    sizes: tuple[str, ...] = ("128x20", "1M", "16M")
    """Those to measure where the user names none, the smallest first."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")

    @property
    def works(self) -> tuple[str, ...]:
        """The kinds of work that make sense."""
        return tuple(work for work in WORKS if work in self.moved)
