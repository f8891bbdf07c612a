"""SAMPLES samples of one Gaussian latent, which read its parameters once, and its KL."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bench.ops import gaussian
from bench.ops.base import Alive, Compute, Op, Tensors

SAMPLES = 8


def textbook(mu: Tensor, logvar: Tensor) -> Tensors:
    std = torch.exp(0.5 * logvar)
    eps = torch.randn(SAMPLES, *std.shape, dtype=std.dtype, device=std.device)
    return mu + eps * std, gaussian.textbook_kl(mu, logvar)


def distributions(validate: bool) -> Compute:
    def compute(mu: Tensor, logvar: Tensor) -> Tensors:
        posterior = Normal(mu, torch.exp(0.5 * logvar), validate_args=validate)
        prior = Normal(mu.new_zeros(()), mu.new_ones(()), validate_args=validate)
        kl = kl_divergence(posterior, prior).sum() / mu.shape[0]
        return posterior.rsample((SAMPLES,)), kl

    return compute


def ours(mu: Tensor, logvar: Tensor) -> Tensors:
    from fused_reparam import gaussian_latent

    return gaussian_latent(mu, logvar, num_samples=SAMPLES)


OP = Op(
    name="gaussian_latent_samples",
    inputs=gaussian.pair,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: ((SAMPLES, *shape), ()),
    operands=gaussian.itself,
    incoming=gaussian.incoming,
    oracle=gaussian.oracle,
    sums=gaussian.kl_sum,
    results=gaussian.results,
    # forward: mu, logvar in, z out; backward: mu, logvar, grad z in, two gradients out.
    moved={
        "forward": 2 + SAMPLES,
        "backward": 4 + SAMPLES,
        "forward+backward": 6 + 2 * SAMPLES,
    },
    made={"forward": SAMPLES, "backward": 2, "forward+backward": SAMPLES + 2},
    noise_passes={"forward": SAMPLES, "backward": SAMPLES, "forward+backward": 2 * SAMPLES},
    alive={
        "pytorch": Alive(4 * SAMPLES, 6 * SAMPLES),
        "reference": Alive(14 * SAMPLES, 16 * SAMPLES),
        "fused": Alive(SAMPLES, SAMPLES + 2),
    },
    sizes=("128x20", "8x128x1024"),
    dtypes=("float32",),
)
