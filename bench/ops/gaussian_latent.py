"""The Gaussian latent: `z = mu + sigma * eps`, `sigma = exp(logvar / 2)`, and its KL to N(0, I)."""

from __future__ import annotations

from torch import Tensor

from bench.ops import gaussian
from bench.ops.base import Alive, Op, Tensors


def ours(mu: Tensor, logvar: Tensor) -> Tensors:
    """The package's op; which backend computes it is the caller's choice."""
    from fused_reparam import gaussian_latent

    return gaussian_latent(mu, logvar)


OP = Op(
    name="gaussian_latent",
    inputs=gaussian.pair,
    textbook=gaussian.textbook,
    distributions=gaussian.through_distributions(sample=True, kl=True),
    ours=ours,
    output_shapes=lambda shape: (shape, ()),
    operands=gaussian.itself,
    incoming=gaussian.incoming,
    oracle=gaussian.oracle,
    sums=gaussian.kl_sum,
    results=gaussian.results,
    # forward: mu, logvar in, z out; backward: mu, logvar, grad z in, two gradients out.
    moved={"forward": 3, "backward": 5, "forward+backward": 8},
    made={"forward": 1, "backward": 2, "forward+backward": 3},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(10, 11), "reference": Alive(13, 15), "fused": Alive(1, 3)},
    sizes=("128x20", "16k", "128k", "1M", "16M"),
)
