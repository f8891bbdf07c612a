"""Handwritten digits for the examples, and the likelihood of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Data:
    """Images as rows of pixels in [0, 1], the square's side, and the levels of grey above white."""

    train: Tensor
    test: Tensor
    side: int
    levels: int


def load(name: str = "digits") -> Data:
    """`digits`: the 1797 real digits that come with scikit-learn. `mnist`: through torchvision."""
    if name == "mnist":
        return _mnist()
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = images[order]
    return Data(images[300:], images[:300], side=8, levels=16)


def _mnist() -> Data:
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        raise SystemExit(
            "--data mnist needs torchvision, which is not installed here (pip install torchvision);"
            " --data digits needs no download"
        ) from error
    try:
        parts = [MNIST("out/mnist", train=flag, download=True).data for flag in (True, False)]
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"--data mnist: could not download it to out/mnist: {error}") from error
    training, test = (part.flatten(1).float() / 255 for part in parts)
    return Data(training, test, side=28, levels=1)


def loss_of(logits: Tensor, kl: Tensor, x: Tensor, levels: int) -> Tensor:
    """In nats for each image: what the reconstruction costs, and what the latent costs.

    A pixel counts how many of `levels` dots are black, so its likelihood is binomial. With one
    level, that is the binary cross entropy of the tutorials. This is the negative ELBO but for a
    constant of the data, `log_ways`.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return levels * cross_entropy / x.shape[0] + kl


def log_ways(x: Tensor, levels: int) -> Tensor:
    """Log of the binomial coefficients of an image's pixels, on average over the images."""
    n, k = torch.tensor(float(levels)), levels * x
    ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return ways.sum() / x.shape[0]


def negative_elbo(logits: Tensor, kl: Tensor, x: Tensor, levels: int) -> float:
    """In nats for each image, from several decodings of the images: (samples, *x.shape)."""
    many = x.expand_as(logits)
    loss = loss_of(logits.flatten(0, 1), kl, many.flatten(0, 1), levels)
    return (loss - log_ways(x, levels)).item()
