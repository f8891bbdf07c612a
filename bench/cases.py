"""A case: an op, or a model's training step, at one size, and what a variant does with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from bench import check, profiles
from bench.ops import BACKWARD, FORWARD, Op, Shape, Tensors
from bench.results import STEPS
from bench.steps import STEP, Model
from bench.timing import Contestant
from bench.variants import Missing, Variant, variants

# Graphs kept ready for the backward pass of small sizes may take this much memory.
GRAPH_BYTES = 1 << 28
# Elements from which on glibc gives a tensor's memory back at once: blocks of 32 MB, in float32.
LARGE = 1 << 23
# Elements, as far as dim 0 can be cut, of what is compared with the reference.
CHECKED = 1 << 17
# Tensors of the latent's size (or of the noise's) alive at the worst moment in plain PyTorch, the
# specification's included: an estimate, so that what can't fit is not begun.
ALIVE = 16


@dataclass(frozen=True)
class OpCase:
    """An op at one size."""

    op: Op
    size: str
    shape: Shape
    dtype: str
    device: torch.device

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

    def moved(self, work: str) -> int | None:
        """Bytes that the op must read and write for `work`; None where nobody can say."""
        return self.op.moved(work) * self.elements * self.torch_dtype.itemsize

    def noise_elements(self, work: str) -> int:
        """Numbers to be made from the noise's stream for `work`."""
        return self.op.noise_passes(work) * self.elements

    @property
    def need(self) -> int:
        """An estimate of the bytes that a call takes."""
        largest = max(self.elements, self.op.noise_passes(FORWARD) * self.elements)
        return ALIVE * largest * self.torch_dtype.itemsize

    def variants(self) -> tuple[list[Variant], list[Missing]]:
        return variants(self.op, self.device, large=self.elements >= LARGE)

    @cached_property
    def inputs(self) -> Tensors:
        generator = torch.Generator(self.device).manual_seed(20)
        one = torch.zeros((), dtype=self.torch_dtype, device=self.device)

        def normals(count: int) -> list[Tensor]:
            if not count:
                return [one.expand(self.shape)]
            return [one.new_empty(self.shape).normal_(generator=generator) for _ in range(count)]

        made = self.op.inputs(normals)
        backward = BACKWARD in self.op.works
        return tuple(t.requires_grad_(backward and i >= self.op.data) for i, t in enumerate(made))

    def incoming(self, outputs: check.Outputs) -> Tensors:
        """The gradients that arrive, the same for all variants: within -1 and 1 at a sample, and at
        a KL, which is a mean over the batch or a sum, one between the two."""
        generator = torch.Generator(self.device).manual_seed(21)
        return tuple(
            torch.empty_like(one).uniform_(-1, 1, generator=generator)
            if one.ndim
            else torch.full_like(one, self.shape[0] ** 0.5)
            for one in outputs
        )

    def problem(self, variant: Variant) -> str | None:
        """What is wrong with the op as one of ours computes it, on a large latent's first rows."""
        rows = max(1, min(self.shape[0], CHECKED * self.shape[0] // self.elements))
        few = replace(self, shape=(rows, *self.shape[1:]))
        incoming = few.incoming if BACKWARD in self.op.works else None
        return check.problem(variant.backend, variant.op or variant.compute, few.inputs, incoming)

    def saved_bytes(self, variant: Variant) -> int:
        with variant.context():
            return profiles.saved_bytes(variant.compute, self.inputs)

    def contestant(self, work: str, variant: Variant) -> Contestant:
        """`variant` doing `work`. The backward pass finds its graphs ready, one for each call."""
        compute, inputs, leaves = variant.compute, self.inputs, check.leaves(self.inputs)
        if work == FORWARD:
            return Contestant(variant.name, lambda _: compute(*inputs), context=variant.context)
        with variant.context():
            incoming = self.incoming(compute(*inputs))

        def both(_: object) -> Tensors:
            return torch.autograd.grad(compute(*inputs), leaves, incoming)

        if work != BACKWARD:
            return Contestant(variant.name, both, context=variant.context)

        def backward(outputs: Tensors) -> Tensors:
            return torch.autograd.grad(outputs, leaves, incoming)

        def graphs(count: int) -> list[Tensors]:
            return [compute(*inputs) for _ in range(count)]

        # A CUDA graph's next forward pass overwrites what the last one kept.
        most = 1 if variant.overwrites else max(1, GRAPH_BYTES // self.need)
        return Contestant(variant.name, backward, graphs, variant.context, most_calls=most)


@dataclass(frozen=True)
class StepCase(OpCase):
    """A training step of a model in which the op sits; all variants share its parameters."""

    model: Model
    name, works = STEPS, (STEP,)

    @classmethod
    def of(cls, model: Model, device: torch.device) -> StepCase:
        return cls(model.op, model.name, model.shape, "float32", device, model)

    def moved(self, _work: str) -> int | None:
        return None  # a model is more than its op

    def noise_elements(self, _work: str) -> int:
        return 0

    @cached_property
    def made(self) -> tuple[nn.Module, Tensors, torch.optim.Optimizer]:
        """The model, a batch, and what makes the step, which does the same work at any rate."""
        with torch.random.fork_rng(), self.device:
            torch.manual_seed(22)
            module = self.model.build()
            optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
            return module, self.model.batch(self.device), optimizer

    def variants(self) -> tuple[list[Variant], list[Missing]]:
        """Those of the op, each in an eager model, and textbook's and ours in compiled ones too."""
        module, batch, _ = self.made
        return variants(self.op, self.device, lambda op: lambda: (module(op, *batch),), True)

    def saved_bytes(self, variant: Variant) -> int:
        module, batch, _ = self.made
        with variant.context():
            known = (*module.parameters(), *batch)
            return profiles.saved_bytes(lambda *_: variant.compute(), known)

    def contestant(self, _work: str, variant: Variant) -> Contestant:
        module, _, optimizer = self.made
        parameters = tuple(module.parameters())

        def step(_: object) -> None:
            grads = torch.autograd.grad(variant.compute()[0], parameters)
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            optimizer.step()
            optimizer.zero_grad()

        return Contestant(variant.name, step, context=variant.context)
