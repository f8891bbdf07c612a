"""A case: an op at one size and dtype, and what a variant does with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bench import check, memory
from bench.ops import BACKWARD, FORWARD, Op, Shape, Tensors
from bench.timing import Contestant
from bench.variants import Variant

# Graphs kept ready for the backward pass of small sizes may take this much memory.
GRAPH_BYTES = 1 << 28


@dataclass(frozen=True)
class OpCase:
    """An op at one size."""

    op: Op
    size: str
    shape: Shape
    dtype: str
    device: torch.device

    @cached_property
    def inputs(self) -> Tensors:
        generator = torch.Generator(self.device).manual_seed(20)
        one = torch.zeros((), dtype=self.torch_dtype, device=self.device)

        def normals(count: int) -> list[Tensor]:
            if not count:
                return [one.expand(self.shape)]
            return [one.new_empty(self.shape).normal_(generator=generator) for _ in range(count)]

        made = self.op.inputs(normals)
        return tuple(t.requires_grad_() for t in made) if self.has_backward else made

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def works(self) -> tuple[str, ...]:
        return self.op.works

    @property
    def base(self) -> str | None:
        return self.op.base

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def has_backward(self) -> bool:
        return BACKWARD in self.op.works

    @property
    def _bytes(self) -> int:
        """What one tensor of the latent's size takes."""
        return self.elements * self.torch_dtype.itemsize

    def moved(self, work: str) -> int:
        """Bytes that the op must read and write for `work`."""
        return self.op.moved(work) * self._bytes

    def made(self, work: str) -> int:
        """Bytes of the new tensors that `work` results in."""
        return self.op.made(work) * self._bytes

    def noise_elements(self, work: str) -> int:
        """Numbers to be made from the noise's stream for `work`."""
        return self.op.noise_passes(work) * self.elements

    def need(self, work: str, variant: Variant) -> int:  # noqa: ARG002
        """An estimate of the bytes that a call takes, its inputs included unless they exist."""
        fused = sum(self.op.made(one) for one in self.works[:2]) + 1
        alive = {"fused": fused, "reference": 2 * self.op.alive + 2}
        # The specification makes noise in wider types.
        width = max(self.torch_dtype.itemsize, 4 if variant.family == "reference" else 0)
        waiting = 0 if "inputs" in self.__dict__ else sum(self.op.moves[0])
        return alive.get(variant.family, self.op.alive) * self.elements * width + (
            waiting * self._bytes
        )

    @cached_property
    def shapes(self) -> Tensors:
        """The outputs' shapes, as tensors without memory."""
        return check.shapes_of(self.op, tuple(t.detach() for t in self.inputs))

    @cached_property
    def scalars(self) -> list[float | None]:
        return check.scalars(self)

    @cached_property
    def pooled(self) -> dict[str, Tensor]:
        return check.pooled(self)

    def incoming(self, outputs: Tensors) -> Tensors:
        """The gradients that arrive at outputs of these shapes, the same for all variants.

        At a sample they are random; at a KL such that it weighs about as much; at a row's values
        they are weights, of opposite signs where an op has two of them.
        """
        made = []
        for i, output in enumerate(outputs):
            dtype = self.torch_dtype if output.is_meta else output.dtype
            if output.ndim >= len(self.shape):
                made.append(self._sample_grad)
            elif output.ndim == 0:
                value = self.shape[0] if self.op.mean else 0.1
                made.append(torch.full((), value, dtype=dtype, device=self.device))
            else:
                weights = torch.linspace(0.5, 1.5, output.numel(), device=self.device)
                made.append((weights.view(output.shape) * (-1) ** (i + 1)).to(dtype))
        return tuple(made)

    @cached_property
    def _sample_grad(self) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(21)
        shape = self.shapes[0].shape
        made = torch.empty(shape, dtype=self.torch_dtype, device=self.device)
        return made.normal_(generator=generator)

    def verdict(self, variant: Variant) -> str | None:
        """What is wrong with the variant's results; None when they are right."""
        return check.verdict(self, variant)

    def saved_bytes(self, variant: Variant) -> int:
        with variant.context():
            return memory.saved_bytes(variant.compute, self.inputs)

    def contestant(self, work: str, variant: Variant) -> Contestant:
        """`variant` doing `work`. The backward pass finds its graphs ready, one for each call."""
        compute, inputs = variant.compute, self.inputs
        if work == FORWARD:
            return Contestant(variant.name, lambda _: compute(*inputs), context=variant.context)
        with variant.context():
            incoming = self.incoming(compute(*inputs))

        def both(_: object) -> Tensors:
            return torch.autograd.grad(compute(*inputs), inputs, incoming)

        if work != BACKWARD:
            return Contestant(variant.name, both, context=variant.context)

        def backward(outputs: Tensors) -> Tensors:
            return torch.autograd.grad(outputs, inputs, incoming)

        def graphs(count: int) -> list[Tensors]:
            return [compute(*inputs) for _ in range(count)]

        most = max(1, GRAPH_BYTES // max(1, self.need(work, variant)))
        return Contestant(
            variant.name,
            backward,
            graphs,
            variant.context,
            # A CUDA graph's next forward pass overwrites what the last one kept.
            most_calls=1 if variant.overwrites else most,
        )
