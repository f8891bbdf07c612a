"""The KL divergence of N(mu, sigma^2) to N(0, I) alone, averaged over the batch; no noise."""

from __future__ import annotations

from torch import Tensor

from bench.ops import gaussian
from bench.ops.base import Alive, Op, Tensors


def textbook(mu: Tensor, logvar: Tensor) -> Tensors:
    return (gaussian.textbook_kl(mu, logvar),)


def ours(mu: Tensor, logvar: Tensor) -> Tensors:
    from fused_reparam import gaussian_kl

    return (gaussian_kl(mu, logvar),)


OP = Op(
    name="gaussian_kl",
    inputs=gaussian.pair,
    textbook=textbook,
    distributions=gaussian.through_distributions(sample=False, kl=True),
    ours=ours,
    output_shapes=lambda _: ((),),
    operands=gaussian.itself,
    incoming=gaussian.incoming,
    oracle=gaussian.oracle,
    sums=gaussian.kl_sum,
    results=gaussian.results,
    # forward: mu, logvar in; backward: mu, logvar in, two gradients out.
    moved={"forward": 2, "backward": 4, "forward+backward": 6},
    made={"forward": 0, "backward": 2, "forward+backward": 2},
    noise_passes={"forward": 0, "backward": 0, "forward+backward": 0},
    alive={"pytorch": Alive(8, 8), "reference": Alive(6, 9), "fused": Alive(0, 2)},
)
