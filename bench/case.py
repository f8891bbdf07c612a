"""A case: one op at one size and dtype, with its inputs, and what a variant is to do with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import gate, memory
from bench.ops.base import Base, Op, Shape, Tensors
from bench.timing import Contestant
from bench.variants import Variant

# Graphs kept ready for the backward pass of small sizes may take this much memory.
GRAPH_BYTES = 1 << 28


class Case(Protocol):
    """What is measured at a time: an op at one size and dtype, or a model's training step."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def torch_dtype(self) -> torch.dtype: ...
    @property
    def works(self) -> tuple[str, ...]: ...
    @property
    def elements(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def moved(self, work: str) -> int | None: ...
    def made(self, work: str) -> int | None: ...
    def noise_elements(self, work: str) -> int: ...
    @property
    def noise_base(self) -> Base: ...
    def need(self, work: str, variant: Variant) -> int: ...
    def verdict(self, variant: Variant) -> str | None: ...
    def saved_bytes(self, variant: Variant) -> int: ...
    def contestant(self, work: str, variant: Variant) -> Contestant: ...


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
        return self.op.inputs(self.shape, self.torch_dtype, self.device)

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def works(self) -> tuple[str, ...]:
        return self.op.works

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def latent_bytes(self) -> int:
        """What one tensor of the latent's size takes."""
        return self.elements * self.torch_dtype.itemsize

    @property
    def has_backward(self) -> bool:
        return "backward" in self.op.works

    def moved(self, work: str) -> int:
        """Bytes that the op must read and write for `work`."""
        return self.op.moved[work] * self.latent_bytes

    def made(self, work: str) -> int:
        """Bytes of the new tensors that `work` results in."""
        return self.op.made[work] * self.latent_bytes

    def noise_elements(self, work: str) -> int:
        """Numbers to be made from the noise's stream for `work`."""
        return self.op.noise_passes[work] * self.elements

    @property
    def noise_base(self) -> Base:
        return self.op.base

    def need(self, work: str, variant: Variant) -> int:
        """An estimate of the bytes that a call takes, its inputs included unless they exist."""
        alive = self.op.alive.get(variant.family, self.op.alive["pytorch"])
        count = alive.forward if work == "forward" else alive.backward
        # Plain PyTorch makes noise in wider types.
        width = max(self.torch_dtype.itemsize, 4 if variant.family == "reference" else 0)
        return count * self.elements * width + self._waiting_bytes()

    def _waiting_bytes(self) -> int:
        """What the tensors take that are not made yet: inputs, and the gradient of a sample."""
        bytes_ = 0
        if "inputs" not in self.__dict__:
            with FakeTensorMode():
                inputs = self.op.inputs(self.shape, self.torch_dtype, torch.device("cpu"))
                bytes_ += sum(tensor.untyped_storage().nbytes() for tensor in inputs)
        if self.has_backward and "sample_grad" not in self.__dict__:
            bytes_ += math.prod(self.op.output_shapes(self.shape)[0]) * self.torch_dtype.itemsize
        return bytes_

    def incoming(self, outputs: Tensors) -> Tensors:
        """The gradients that arrive at the outputs; a sample's is the same for all variants."""
        return self.op.incoming(self.shape, outputs, lambda: self.sample_grad)

    @cached_property
    def sample_grad(self) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(21)
        shape = self.op.output_shapes(self.shape)[0]
        return torch.randn(shape, dtype=self.torch_dtype, device=self.device, generator=generator)

    def verdict(self, variant: Variant) -> str | None:
        """What is wrong with the variant's results; None when they are right."""
        return gate.verdict(self, variant)

    def saved_bytes(self, variant: Variant) -> int:
        with variant.context():
            return memory.saved_bytes(variant.compute, self.inputs)

    def contestant(self, work: str, variant: Variant) -> Contestant:
        """`variant` doing `work`. The backward pass finds its graphs ready, one for each call."""
        compute, inputs = variant.compute, self.inputs
        if work == "forward":
            return Contestant(variant.name, lambda _: compute(*inputs), context=variant.context)
        with variant.context():
            incoming = self.incoming(compute(*inputs))

        def both(_: object) -> Tensors:
            return torch.autograd.grad(compute(*inputs), inputs, incoming)

        if work == "forward+backward":
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
