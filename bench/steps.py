"""Whole training steps of models in which an op sits: forward, loss, backward, optimizer.

A model is called as `model(latent, *batch)` and returns the loss; `latent` draws the sample and its
KL: as the textbook writes it, through torch.distributions, or by ours.
"""
# ruff: noqa: ARG002 (a case answers for each kind of work; a step is one kind)

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_reparam as fr
from bench import check, memory
from bench import variants as by
from bench.ops import OPS, Compute, Op, Shape, Tensors, standard
from bench.results import STEPS
from bench.timing import Contestant
from bench.variants import Missing, Variant

STEP, DTYPE = "step", "float32"
# An optimizer's step does the same work whatever the rate; the parameters are to stay where they
# are, for the variants are compared on them.
LEARNING_RATE = 0.0


class MlpVae(nn.Module):
    """784 - 400 - latent - 400 - 784, its weights such that the KL is that of a trained one."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.inner = nn.Linear(784, 400)
        self.mean, self.logvar = nn.Linear(400, latent), nn.Linear(400, latent)
        self.outer, self.pixels = nn.Linear(latent, 400), nn.Linear(400, 784)
        with torch.no_grad():
            self.mean.weight.mul_(6)
            self.logvar.bias.sub_(1)
            self.outer.weight.mul_(2)

    def forward(self, latent: Compute, images: Tensor) -> Tensor:
        hidden = F.relu(self.inner(images))
        z, kl = latent(self.mean(hidden), self.logvar(hidden))
        logits = self.pixels(F.relu(self.outer(z)))
        likelihood = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        return likelihood / len(images) + kl


class ImageVae(nn.Module):
    """Two convolutions each way around a latent of half the side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        moments = nn.Conv2d(wide, wide, 3, padding=1)
        with torch.no_grad():
            moments.get_parameter("bias")[channels:].sub_(2)  # sigma is about 0.4
        self.encoder = nn.Sequential(nn.Conv2d(3, wide, 3, stride=2, padding=1), nn.SiLU(), moments)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, wide, 3, padding=1), nn.SiLU(), nn.ConvTranspose2d(wide, 3, 2, 2)
        )

    def forward(self, latent: Compute, images: Tensor) -> Tensor:
        z, kl = latent(self.encoder(images))
        error = F.mse_loss(self.decoder(z), images, reduction="sum")
        return error / len(images) + kl


class BayesLinear(nn.Module):
    """A linear layer whose weights are drawn anew in each step (Blundell et al., 2015); the KL is
    that of one weight."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(shape))
        self.rho = nn.Parameter(torch.randn(shape).mul_(0.2).sub_(1.0))

    def forward(self, latent: Compute, x: Tensor, target: Tensor) -> Tensor:
        weight, kl = latent(self.mean, self.rho)
        return F.mse_loss(F.linear(x, weight), target) + kl


def weights(eps: Tensor, mean: Tensor, rho: Tensor) -> Tensors:
    sigma = F.softplus(rho)
    return mean + sigma * eps, (0.5 * (mean.pow(2) + sigma.pow(2) - 1) - torch.log(sigma)).mean()


def weights_of(validate: bool, mean: Tensor, rho: Tensor) -> Tensors:
    q = torch.distributions.Normal(mean, F.softplus(rho), validate_args=validate)
    kl = torch.distributions.kl_divergence(q, standard(validate, mean))
    return q.rsample(), kl.mean()


WEIGHTS = Op(
    "weights", lambda normals: tuple(normals(2)), weights,
    lambda mean, rho: fr.gaussian_latent(mean, rho=rho, reduction="mean"), weights_of,
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model, its data, and the op in it."""

    name: str
    shape: Shape
    """The latent's."""
    build: Callable[[], nn.Module]
    batch: Callable[[torch.device], Tensors]
    op: Op
    alive: int
    """Tensors of the latent's size alive at a step's worst moment, and in the check, in whatever
    variant: parameters and batch among them."""


def models(quick: bool) -> list[Model]:
    return [mlp_vae(), image_vae(), bayes_linear((2500, 4000) if quick else (10_000, 10_000))]


def mlp_vae(batch: int = 128, latent: int = 20) -> Model:
    """Digits of 784 pixels, as in pytorch/examples/vae."""
    return Model(
        "mlp-vae",
        (batch, latent),
        lambda: MlpVae(latent),
        lambda device: (torch.rand(batch, 784, device=device),),
        OPS["gaussian_latent"],
        alive=1000,  # 652,824 parameters and a batch of 100,352 are 294 of them
    )


def image_vae(batch: int = 8, channels: int = 16, side: int = 128) -> Model:
    """Images of twice the latent's side; the moments are halves of the encoder's channels."""
    return Model(
        "image-vae",
        (batch, channels, side, side),
        lambda: ImageVae(channels),
        lambda device: (torch.rand(batch, 3, 2 * side, 2 * side, device=device),),
        OPS["gaussian_latent_from_moments"],
        alive=45,
    )


def bayes_linear(shape: Shape, batch: int = 32) -> Model:
    return Model(
        "bayes-linear",
        shape,
        lambda: BayesLinear(shape),
        lambda device: (
            torch.randn(batch, shape[1], device=device) / shape[1] ** 0.5,
            torch.randn(batch, shape[0], device=device),
        ),
        WEIGHTS,
        alive=17,
    )


@dataclass(frozen=True)
class StepCase:
    """A training step of a model on a device; all variants share its parameters."""

    model: Model
    device: torch.device
    name: str = STEPS
    dtype: str = DTYPE
    works: tuple[str, ...] = (STEP,)
    base: str | None = None

    @property
    def size(self) -> str:
        return self.model.name

    @property
    def shape(self) -> Shape:
        return self.model.shape

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def moved(self, work: str) -> None:
        """A step has no bytes that it must move: a model is more than its op."""

    def made(self, work: str) -> None:
        """As `moved`."""

    def noise_elements(self, work: str) -> int:
        return 0

    def need(self, work: str, variant: Variant) -> int:
        """An estimate of the bytes that a step, and before it the check, takes."""
        return self.model.alive * self.elements * 4

    @cached_property
    def _made(self) -> tuple[nn.Module, Tensors]:
        with torch.random.fork_rng(), self.device:
            torch.manual_seed(22)
            return self.model.build(), self.model.batch(self.device)

    @property
    def module(self) -> nn.Module:
        return self._made[0]

    def loss(self, latent: Compute) -> Tensors:
        module, batch = self._made
        return (module(latent, *batch),)

    @cached_property
    def _expected(self) -> list[check.Figures]:
        return self._draws(partial(self.loss, self.model.op.textbook))

    @cached_property
    def _direction(self) -> Tensors:
        loss = self.loss(self.model.op.textbook)[0]
        return torch.autograd.grad(loss, tuple(self.module.parameters()))

    def _draws(self, compute: Compute) -> list[check.Figures]:
        parameters: dict[str, Tensor] = dict(self.module.named_parameters())
        return check.draws(lambda: compute()[0], parameters, self._direction)

    def verdict(self, variant: Variant) -> str | None:
        """How the variant's losses and gradients differ from eager's, or that its noise comes up
        again; None when neither is so."""
        expected = self._expected
        with variant.context():
            for _ in range(variant.warm_ups):
                self.step(variant)
            got = self._draws(variant.compute)
        return check.difference(expected, got)

    def saved_bytes(self, variant: Variant) -> int:
        with variant.context():
            known = (*self.module.parameters(), *self._made[1])
            return memory.saved_bytes(lambda *_: variant.compute(), known)

    def contestant(self, work: str, variant: Variant) -> Contestant:
        return Contestant(variant.name, lambda _: self.step(variant), context=variant.context)

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.module.parameters(), lr=LEARNING_RATE)

    def step(self, variant: Variant) -> None:
        parameters = tuple(self.module.parameters())
        grads = torch.autograd.grad(variant.compute()[0], parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        self._optimizer.step()
        self._optimizer.zero_grad()

    def variants(self) -> tuple[list[Variant], list[Missing]]:
        """Those of the op, each in an eager model, and textbook's and ours in compiled ones too."""
        op, loss = self.model.op, self.loss
        found = by.of_pytorch(
            partial(loss, op.textbook), lambda v: partial(loss, partial(op.rival, v)), self.device
        )
        names, missing = by.backends(self.device)
        for name in names:
            found.append(Variant(name, partial(loss, op.ours), by.using(name), ours=True))
            compiled = torch.compile(partial(loss, op.ours), dynamic=False)
            found.append(Variant(f"{name}, compiled model", compiled, by.using(name), ours=True))
        return found, missing
