"""The gate: a variant is timed only after its sample, KL and gradients were found right.

What is held in float64 at any time is one slice of the latent. Sums over all elements are added up
from all slices. Noise and gradients, of which each element is right or wrong by itself, are checked
on every element too, or in latents of more than MOST_SLICES slices on slices evenly spread from the
first to the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.normality import Noise
from bench.ops.base import Expected, Shape, Tensors
from bench.variants import Variant

if TYPE_CHECKING:
    from bench.case import OpCase

# An element may be off by this many roundings of the terms it is made of.
ROUNDINGS = 16
# A factor common to all elements, such as 1.01, hides in the rounding of 16-bit elements but not
# in their projection on the expected ones, where roundings average out. Those that don't are
# allowed beside it: see `_Projection.rounding`.
GAIN = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2**-8, torch.bfloat16: 2**-8}
# Elements that are checked at a time: in a CPU's cache, and enough to keep a GPU busy.
SLICE = {"cpu": 1 << 18, "cuda": 1 << 24}
MOST_SLICES = 64


def verdict(case: OpCase, variant: Variant) -> str | None:
    """None when the variant's results are right, else one sentence: what is wrong.

    Raises:
        What the variant raises.
    """
    op, inputs = case.op, case.inputs
    indices = list(slices(case.shape, SLICE[case.device.type], op.sliced(case.shape)))
    with variant.context():
        for _ in range(variant.warm_ups):
            _run(case, variant)
        problem = _form_problem(case, variant.compute(*inputs))
        if problem:
            return problem
        again = _run(case, variant)[0][0]
        again = part_of(again, case.shape, indices[0]).clone()
        outputs, incoming, gradients = _run(case, variant)
    operands, gradients = op.operands(inputs), op.operands(gradients)
    tally = _Tally(case.torch_dtype, Noise(case.torch_dtype))
    for index, chosen in _marked(indices):

        def cut(tensors: Tensors, index: tuple[slice, ...] = index) -> Tensors:
            return tuple(part_of(t, case.shape, index) for t in tensors)

        for name, expected in op.sums(case.shape, cut(operands)).items():
            tally.add_sum(name, expected)
        if not chosen:
            continue
        part = op.oracle(case.shape, cut(operands), cut(outputs), cut(incoming))
        if part.noise is not None:
            if tally.noise.count == 0 and torch.equal(cut(outputs)[0], again):
                return "two calls drew the same noise"
            tally.noise.add(part.noise)
        results = op.results(cut(outputs), cut(gradients)) if case.has_backward else {}
        for name, expected in part.elements.items():
            tally.add_elements(name, results[name], expected)
    sums = op.results(outputs, gradients) if case.has_backward else {}
    return tally.problem(sums)


def _run(case: OpCase, variant: Variant) -> tuple[Tensors, Tensors, Tensors]:
    def keep(tensors: Tensors) -> Tensors:
        # A CUDA graph writes its next results over these.
        return tuple(t.detach().clone() if variant.overwrites else t.detach() for t in tensors)

    outputs = variant.compute(*case.inputs)
    kept = keep(outputs)
    if not case.has_backward:
        return kept, (), ()
    incoming = case.incoming(outputs)
    return kept, incoming, keep(torch.autograd.grad(outputs, case.inputs, incoming))


def _form_problem(case: OpCase, outputs: Tensors) -> str | None:
    got, shapes = tuple(tuple(t.shape) for t in outputs), case.op.output_shapes(case.shape)
    dtype = case.torch_dtype
    if got != shapes:
        return f"outputs of shapes {got}, expected {shapes}"
    # Of an op that has one, it is the first output; values such as a KL may be of a wider dtype.
    if outputs[0].ndim and outputs[0].dtype != dtype:
        return f"a sample of {outputs[0].dtype}, expected {dtype}"
    return None


def slices(shape: Shape, size: int, dim: int) -> Iterator[tuple[slice, ...]]:
    """Indices that cut a tensor along `dim` into parts of about `size` elements."""
    step = max(1, size * shape[dim] // math.prod(shape))
    for start in range(0, shape[dim], step):
        yield (slice(None),) * dim + (slice(start, start + step),)


def part_of(tensor: Tensor, shape: Shape, index: tuple[slice, ...]) -> Tensor:
    """What belongs to a slice of a latent of this shape: of several samples the part of each, of
    values that are sums over the last dims the part that they have."""
    samples = (slice(None),) * max(tensor.ndim - len(shape), 0)
    return tensor[(*samples, *index[: tensor.ndim])]


def _marked(indices: list[tuple[slice, ...]]) -> Iterator[tuple[tuple[slice, ...], bool]]:
    """Each index, and whether it is one of at most MOST_SLICES that are evenly spread."""
    last, most = len(indices) - 1, min(MOST_SLICES, len(indices))
    marked = {round(i * last / max(most - 1, 1)) for i in range(most)}
    for number, index in enumerate(indices):
        yield index, number in marked


@dataclass
class _Tally:
    """What the slices have shown so far."""

    dtype: torch.dtype
    noise: Noise
    excess: dict[str, float] = field(default_factory=dict)
    projection: dict[str, _Projection] = field(default_factory=dict)
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add_elements(self, name: str, got: Tensor, expected: Expected) -> None:
        excess = _excess(got, expected, self.dtype)
        # max() would lose a NaN.
        self.excess[name] = max(
            self.excess.get(name, 0.0), math.inf if excess != excess else excess
        )
        self.projection.setdefault(name, _Projection()).add(got, expected, self.dtype)

    def add_sum(self, name: str, expected: Expected) -> None:
        value, scale = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = value + expected.value.item(), scale + expected.scale.item()

    def problem(self, results: dict[str, Tensor]) -> str | None:
        return (
            (self.noise.problem() if self.noise.count else None)
            or self._sum_problem(results)
            or self._element_problem()
        )

    def _sum_problem(self, results: dict[str, Tensor]) -> str | None:
        for name, pair in self.sums.items():
            value, scale = (torch.tensor(v, dtype=torch.float64) for v in pair)
            excess = _excess(results[name].cpu(), Expected(value, scale), self.dtype)
            if not excess <= 1:
                return f"{name}: off by {excess:.3g} times the tolerance"
        return None

    def _element_problem(self) -> str | None:
        for name, excess in self.excess.items():
            if not excess <= 1:
                return f"{name}: an element is off by {excess:.3g} times the tolerance"
            found = self.projection[name]
            if not abs(found.gain - 1) <= GAIN[self.dtype] + found.rounding:
                return f"{name}: scaled by {found.gain:.6f}"
        return None


@dataclass
class _Projection:
    """Of results on the expected values."""

    dot: float = 0.0
    square: float = 0.0
    shift: float = 0.0
    variance: float = 0.0

    def add(self, got: Tensor, expected: Expected, sample: torch.dtype) -> None:
        value = expected.value
        self.dot += (got.double() * value).sum().item()
        self.square += (value**2).sum().item()
        self.shift += value.abs().sum().item() * expected.shift
        self.variance += ((value * _rounding(got.dtype, expected, sample)) ** 2).sum().item()

    @property
    def gain(self) -> float:
        return self.dot / self.square

    @property
    def rounding(self) -> float:
        """What constants' roundings make of it, and one rounding of each element, at random: much
        where a few large elements are nearly all of the sum."""
        return (self.shift + math.sqrt(self.variance)) / self.square


def _rounding(dtype: torch.dtype, expected: Expected, sample: torch.dtype) -> Tensor:
    """The largest error of one rounding of the terms in the dtype, and of the sample in its own."""
    unit, sample_unit = (torch.finfo(one).eps / 2 for one in (dtype, sample))
    return unit * expected.scale + sample_unit * expected.read


def _excess(got: Tensor, expected: Expected, sample: torch.dtype) -> float:
    """How many tolerances a result is off by; one in a wider dtype is to be better."""
    allowed = ROUNDINGS * _rounding(got.dtype, expected, sample)
    off = (got.double() - expected.value).abs() / allowed
    # Exactly right where all terms are 0.
    return torch.where(got == expected.value, 0.0, off).max().item()
