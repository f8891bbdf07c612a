"""A model on a device, and who computes its latent."""
# ruff: noqa: ARG002 (a case answers for each kind of work; a step is one kind)

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from bench import memory
from bench.ops.base import NORMAL, Base, Compute, Shape, Tensors
from bench.steps import DTYPE, TRAINING_STEP, check
from bench.steps.models import Model
from bench.timing import Contestant
from bench.variants import (
    COMPILE,
    DISTRIBUTIONS,
    EAGER,
    REDUCE_OVERHEAD,
    UNCHECKED,
    Missing,
    Variant,
    backends,
    reduce_overhead,
    using,
)

# An optimizer's step does the same work whatever the rate; the parameters are to stay where they
# are, for the variants are compared on them.
LEARNING_RATE = 0.0


@dataclass(frozen=True)
class StepCase:
    """A training step of a model; all variants share its parameters."""

    model: Model
    device: torch.device

    @property
    def name(self) -> str:
        return TRAINING_STEP

    @property
    def size(self) -> str:
        return self.model.name

    @property
    def shape(self) -> Shape:
        return self.model.shape

    @property
    def dtype(self) -> str:
        return DTYPE

    @property
    def works(self) -> tuple[str, ...]:
        return ("step",)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def moved(self, work: str) -> None:
        """A step has no bytes that it must move: a model is more than its op."""

    def made(self, work: str) -> None:
        """As `moved`."""

    def noise_elements(self, work: str) -> int:
        return 0

    @property
    def noise_base(self) -> Base:
        return NORMAL

    def need(self, work: str, variant: Variant) -> int:
        """An estimate of the bytes that a step, and before it the check, takes."""
        count = self.model.alive[variant.family]
        if "_made" not in self.__dict__:
            count += self.model.own
        return count * self.elements * 4

    @cached_property
    def _made(self) -> tuple[nn.Module, Tensors]:
        with torch.random.fork_rng(), self.device:
            torch.manual_seed(22)
            return self.model.build(), self.model.batch(self.device)

    @property
    def module(self) -> nn.Module:
        return self._made[0]

    @property
    def batch(self) -> Tensors:
        return self._made[1]

    def loss(self, latent: Compute, *batch: Tensor) -> Tensors:
        return (self.module(latent, *batch),)

    @cached_property
    def _direction(self) -> Tensors:
        loss = self.loss(self.model.textbook, *self.batch)[0]
        return check.gradients(loss, tuple(self.module.parameters()))

    @cached_property
    def _expected(self) -> list[check.Figures]:
        return self._draws(partial(self.loss, self.model.textbook))

    def _draws(self, compute: Compute) -> list[check.Figures]:
        parameters: dict[str, Tensor] = dict(self.module.named_parameters())
        return check.draws(lambda: compute(*self.batch)[0], parameters, self._direction)

    def verdict(self, variant: Variant) -> str | None:
        """How the variant's losses and gradients differ from eager's, or that its noise comes up
        again; None when neither is so."""
        expected = self._expected
        with variant.context():
            for _ in range(variant.warm_ups):
                self._step(variant)
            got = self._draws(variant.compute)
        return check.repeated(expected, got) or check.difference(expected, got)

    def saved_bytes(self, variant: Variant) -> int:
        known = (*self.module.parameters(), *self.batch)
        with variant.context():
            return memory.saved_bytes(lambda *_: variant.compute(*self.batch), known)

    def contestant(self, work: str, variant: Variant) -> Contestant:
        return Contestant(variant.name, lambda _: self._step(variant), context=variant.context)

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.module.parameters(), lr=LEARNING_RATE)

    def _step(self, variant: Variant) -> None:
        parameters = tuple(self.module.parameters())
        grads = torch.autograd.grad(variant.compute(*self.batch)[0], parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        self._optimizer.step()
        self._optimizer.zero_grad()


def step_variants(case: StepCase) -> tuple[list[Variant], list[Missing]]:
    """Eager and compiled models with the textbook's latent, eager ones with torch.distributions',
    and both with ours on each backend."""
    textbook = partial(case.loss, case.model.textbook)
    found = [
        Variant(EAGER, textbook),
        Variant(COMPILE, torch.compile(textbook, dynamic=False)),
    ]
    if case.device.type == "cuda":
        found.append(Variant(REDUCE_OVERHEAD, reduce_overhead(textbook), overwrites=True))
    for name, validate in ((DISTRIBUTIONS, True), (UNCHECKED, False)):
        found.append(Variant(name, partial(case.loss, case.model.distributions(validate))))
    names, missing = backends(case.device)
    fused = partial(case.loss, case.model.ours)
    for name in names:
        found.append(Variant(name, fused, using(name), ours=True))
        compiled = torch.compile(partial(case.loss, case.model.ours), dynamic=False)
        found.append(Variant(f"{name}, compiled model", compiled, using(name), ours=True))
    return found, missing
