"""The models: a small MLP VAE, a VAE of images, a linear layer with sampled weights.

Each is a module that is called as `model(latent, *batch)` and returns the loss. `latent` draws the
sample and its KL: the textbook's composition, or the package's op.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from bench.ops import gaussian_latent, gaussian_latent_from_moments
from bench.ops.base import Compute, Shape, Tensors

# Of variants, by how much memory they take.
FAMILIES = ("pytorch", "distributions", "reference", "fused")


@dataclass(frozen=True)
class Model:
    """A model, its data, and the ways to write its latent."""

    name: str
    shape: Shape
    """The latent's."""
    build: Callable[[], nn.Module]
    batch: Callable[[torch.device], Tensors]
    textbook: Compute
    distributions: Callable[[bool], Compute]
    """Through torch.distributions, with or without its checks of the arguments."""
    ours: Compute
    own: int
    """Tensors of the latent's size that parameters and batch take together, rounded up."""
    alive: dict[str, int]
    """Those alive at a step's worst moment beyond that, by family of variants."""


def models(quick: bool) -> list[Model]:
    weights = (2500, 4000) if quick else (10_000, 10_000)
    return [mlp_vae(), image_vae(), bayes_linear(weights)]


def mlp_vae(batch: int = 128, latent: int = 20) -> Model:
    """Digits of 784 pixels, as in pytorch/examples/vae."""
    return Model(
        name="mlp-vae",
        shape=(batch, latent),
        build=lambda: MlpVae(latent),
        batch=lambda device: (torch.rand(batch, 784, device=device),),
        textbook=gaussian_latent.OP.textbook,
        distributions=gaussian_latent.OP.distributions,
        ours=gaussian_latent.OP.ours,
        # 652,824 parameters and a batch of 100,352.
        own=753_176 // (batch * latent) + 1,
        alive=dict.fromkeys(FAMILIES, 700),
    )


def image_vae(batch: int = 8, channels: int = 16, side: int = 128) -> Model:
    """Images of twice the latent's side; the moments are halves of the encoder's channels."""
    return Model(
        name="image-vae",
        shape=(batch, channels, side, side),
        build=lambda: ImageVae(channels),
        batch=lambda device: (torch.rand(batch, 3, 2 * side, 2 * side, device=device),),
        textbook=gaussian_latent_from_moments.OP.textbook,
        distributions=gaussian_latent_from_moments.OP.distributions,
        ours=gaussian_latent_from_moments.OP.ours,
        # Images of 12 values for each pixel of the latent, and few parameters.
        own=12 // channels + 2,
        alive=dict.fromkeys(FAMILIES, 40),
    )


def bayes_linear(shape: tuple[int, int], batch: int = 32) -> Model:
    """All weights sampled each step (Blundell et al., 2015), sigma = softplus(rho)."""
    return Model(
        name="bayes-linear",
        shape=shape,
        build=lambda: BayesLinear(shape),
        batch=lambda device: (
            torch.randn(batch, shape[1], device=device) / shape[1] ** 0.5,
            torch.randn(batch, shape[0], device=device),
        ),
        textbook=textbook_weights,
        distributions=distributions_weights,
        ours=our_weights,
        own=3,
        # The check holds two gradients more.
        alive={"pytorch": 12, "distributions": 14, "reference": 17, "fused": 6},
    )


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
    """A linear layer whose weights are drawn anew in each step; the KL is that of one weight."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(shape))
        self.rho = nn.Parameter(torch.randn(shape).mul_(0.2).sub_(1.0))

    def forward(self, latent: Compute, x: Tensor, target: Tensor) -> Tensor:
        weight, kl = latent(self.mean, self.rho)
        return F.mse_loss(F.linear(x, weight), target) + kl


def textbook_weights(mean: Tensor, rho: Tensor) -> Tensors:
    sigma = F.softplus(rho)
    weight = mean + sigma * torch.randn_like(sigma)
    kl = (0.5 * (mean.pow(2) + sigma.pow(2) - 1) - torch.log(sigma)).mean()
    return weight, kl


def distributions_weights(validate: bool) -> Compute:
    def compute(mean: Tensor, rho: Tensor) -> Tensors:
        posterior = Normal(mean, F.softplus(rho), validate_args=validate)
        prior = Normal(mean.new_zeros(()), mean.new_ones(()), validate_args=validate)
        return posterior.rsample(), kl_divergence(posterior, prior).mean()

    return compute


def our_weights(mean: Tensor, rho: Tensor) -> Tensors:
    from fused_reparam import gaussian_latent

    return gaussian_latent(mean, rho=rho, reduction="mean")
