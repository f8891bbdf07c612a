"""The sample alone: `z = mu + sigma * eps`, `sigma = exp(logvar / 2)`."""

from __future__ import annotations

from torch import Tensor

from bench.ops import gaussian
from bench.ops.base import Alive, Op, Tensors


def textbook(mu: Tensor, logvar: Tensor) -> Tensors:
    return (gaussian.textbook_sample(mu, logvar),)


def ours(mu: Tensor, logvar: Tensor) -> Tensors:
    from fused_reparam import gaussian_rsample

    z = gaussian_rsample(mu, logvar)
    assert isinstance(z, Tensor)
    return (z,)


OP = Op(
    name="gaussian_rsample",
    inputs=gaussian.pair,
    textbook=textbook,
    distributions=gaussian.through_distributions(sample=True, kl=False),
    ours=ours,
    output_shapes=lambda shape: (shape,),
    operands=gaussian.itself,
    incoming=gaussian.incoming,
    oracle=gaussian.oracle,
    sums=gaussian.no_sums,
    results=gaussian.results,
    # forward: mu, logvar in, z out; backward: logvar, grad z in, one gradient out, for mu's
    # gradient is the one that came.
    moved={"forward": 3, "backward": 3, "forward+backward": 6},
    made={"forward": 1, "backward": 1, "forward+backward": 2},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(4, 5), "reference": Alive(13, 15), "fused": Alive(1, 3)},
)
