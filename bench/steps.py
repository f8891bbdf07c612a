"""Whole training steps of models in which an op sits: forward, loss, backward, optimizer.

A model is called as `model(latent, *batch)` and returns the loss; `latent` draws the sample and its
KL: as the textbook writes it, through torch.distributions, or by ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_reparam as fr
from bench.ops import (
    OPS,
    PAIR,
    Compute,
    Normals,
    Op,
    Shape,
    Tensors,
    latent_of,
    scaled,
)  # fmt: skip

STEP = "step"


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

    def moments(self, images: Tensor) -> Tensors:
        hidden = F.relu(self.inner(images))
        return self.mean(hidden), self.logvar(hidden)

    def decoded(self, z: Tensor) -> Tensor:
        return self.pixels(F.relu(self.outer(z)))  # type: ignore[no-any-return]

    def forward(self, latent: Compute, images: Tensor) -> Tensor:
        z, kl = latent(*self.moments(images))
        return kl - bernoulli(images, self.decoded(z))


class WholeMlpVae(MlpVae):
    """The same, of which the likelihood is swapped as well as the latent."""

    def forward(self, objective: Compute, images: Tensor) -> Tensor:
        (elbo,) = objective(images, *self.moments(images), self.decoded)
        return -elbo


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


WEIGHTS = Op(
    "weights", lambda normals: tuple(normals(2)), weights,
    lambda mean, rho: fr.gaussian_latent(mean, rho=rho, reduction="mean"),
    rival=partial(latent_of, weight=True),
)  # fmt: skip


def bernoulli(images: Tensor, logits: Tensor) -> Tensor:
    """The log-likelihood of an image, on average over the batch."""
    return -F.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)


def same(z: Tensor) -> Tensor:
    """A decoder, where no model has one."""
    return z


def elbo(eps: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, decoder: Decoder = same) -> Tensors:
    z, kl = OPS["gaussian_latent"].formula(eps, mu, logvar)
    return (bernoulli(x, decoder(z)) - kl,)


def fused_elbo(x: Tensor, mu: Tensor, logvar: Tensor, decoder: Decoder = same) -> Tensors:
    return (OBJECTIVE(x, decoder, mu, logvar).elbo,)


def images_and_moments(normals: Normals) -> Tensors:
    x, *pair = scaled((1.0, 0.0), *PAIR)(normals)
    return x.sigmoid_(), *pair


Decoder = Callable[[Tensor], Tensor]
OBJECTIVE = fr.FusedELBO("bernoulli")
ELBO = Op(
    "elbo", images_and_moments, elbo, fused_elbo, like=lambda *given: given[1], data=1
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


def models(quick: bool) -> list[Model]:
    layer = bayes_linear((2500, 4000) if quick else (10_000, 10_000))
    return [mlp_vae(), whole_mlp_vae(), image_vae(), layer]


def mlp_vae(batch: int = 128, latent: int = 20) -> Model:
    """Digits of 784 pixels, as in pytorch/examples/vae."""
    return Model(
        "mlp-vae", (batch, latent), lambda: MlpVae(latent),
        lambda device: (torch.rand(batch, 784, device=device),), OPS["gaussian_latent"],
    )  # fmt: skip


def whole_mlp_vae(batch: int = 128, latent: int = 20) -> Model:
    """The same digits and layers, by `FusedELBO`."""
    step = mlp_vae(batch, latent)
    return replace(step, name="mlp-vae-elbo", build=lambda: WholeMlpVae(latent), op=ELBO)


def image_vae(batch: int = 8, channels: int = 16, side: int = 128) -> Model:
    """Images of twice the latent's side; the moments are halves of the encoder's channels."""
    return Model(
        "image-vae", (batch, channels, side, side), lambda: ImageVae(channels),
        lambda device: (torch.rand(batch, 3, 2 * side, 2 * side, device=device),),
        OPS["gaussian_latent_from_moments"],
    )  # fmt: skip


def bayes_linear(shape: Shape, batch: int = 32) -> Model:
    def data(device: torch.device) -> Tensors:
        x = torch.randn(batch, shape[1], device=device) / shape[1] ** 0.5
        return x, torch.randn(batch, shape[0], device=device)

    return Model("bayes-linear", shape, lambda: BayesLinear(shape), data, WEIGHTS)
