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
from bench.ops.base import Expected, Tensors
from bench.variants import Variant

if TYPE_CHECKING:
    from bench.case import OpCase

# An element may be off by this many roundings of the terms it is made of.
ROUNDINGS = 16
# A factor common to all elements, such as 1.01, hides in the rounding of 16-bit elements but not
# in their projection on the expected ones, where roundings average out.
GAIN = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2**-8, torch.bfloat16: 2**-8}
# Elements that are checked at a time: in a CPU's cache, and enough to keep a GPU busy.
SLICE = {"cpu": 1 << 18, "cuda": 1 << 24}
MOST_SLICES = 64


def verdict(case: OpCase, variant: Variant) -> str | None:
    """None when the variant's results are right, else one sentence: what is wrong.

    Raises:
        What the variant raises.
    """
    op, inputs, size = case.op, case.inputs, SLICE[case.device.type]
    with variant.context():
        for _ in range(variant.warm_ups):
            _run(case, variant)
        problem = _form_problem(case, variant.compute(*inputs))
        if problem:
            return problem
        again = _run(case, variant)[0][0]
        again = again[next(slices(case.shape, size))].clone() if again.ndim else again
        outputs, incoming, gradients = _run(case, variant)
    operands, gradients = op.operands(inputs), op.operands(gradients)
    tally = _Tally(case.torch_dtype, Noise(case.torch_dtype))
    for index, chosen in _marked(list(slices(case.shape, size))):

        def cut(tensors: Tensors, index: tuple[slice, ...] = index) -> Tensors:
            return tuple(t[index] if t.shape == case.shape else t for t in tensors)

        for name, expected in op.sums(case.shape, cut(operands)).items():
            tally.add_sum(name, expected)
        if not chosen:
            continue
        part = op.oracle(case.shape, cut(operands), cut(outputs), cut(incoming))
        if part.noise is not None:
            if tally.noise.count == 0 and torch.equal(outputs[0][index], again):
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
    for output in outputs:
        if output.ndim and output.dtype != dtype:
            return f"a sample of {output.dtype}, expected {dtype}"
    return None


def slices(shape: tuple[int, ...], size: int) -> Iterator[tuple[slice, ...]]:
    """Indices that cut a tensor along its longest dim into parts of about `size` elements."""
    dim = shape.index(max(shape))
    step = max(1, size * shape[dim] // math.prod(shape))
    for start in range(0, shape[dim], step):
        yield (slice(None),) * dim + (slice(start, start + step),)


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
    projection: dict[str, tuple[float, float]] = field(default_factory=dict)
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add_elements(self, name: str, got: Tensor, expected: Expected) -> None:
        excess = _excess(got, expected)
        got = got.double()
        # max() would lose a NaN.
        self.excess[name] = max(
            self.excess.get(name, 0.0), math.inf if excess != excess else excess
        )
        dot, square = self.projection.get(name, (0.0, 0.0))
        dot += (got * expected.value).sum().item()
        self.projection[name] = dot, square + (expected.value**2).sum().item()

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
            excess = _excess(results[name].cpu(), Expected(value, scale))
            if not excess <= 1:
                return f"{name}: off by {excess:.3g} times the tolerance"
        return None

    def _element_problem(self) -> str | None:
        for name, excess in self.excess.items():
            if not excess <= 1:
                return f"{name}: an element is off by {excess:.3g} times the tolerance"
            dot, square = self.projection[name]
            if not abs(dot / square - 1) <= GAIN[self.dtype]:
                return f"{name}: scaled by {dot / square:.6f}"
        return None


def _excess(got: Tensor, expected: Expected) -> float:
    """How many tolerances a result is off by; one in a wider dtype is to be better."""
    unit = torch.finfo(got.dtype).eps / 2
    off = (got.double() - expected.value).abs() / (ROUNDINGS * unit * expected.scale)
    # Exactly right where all terms are 0.
    return torch.where(got == expected.value, 0.0, off).max().item()
