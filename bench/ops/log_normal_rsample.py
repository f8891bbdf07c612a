"""A log-normal sample: `z = exp(mu + sigma * eps)` with `sigma = exp(logvar / 2)`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import LogNormal

from bench.ops import gaussian
from bench.ops.base import Alive, Compute, Expected, Op, Oracle, Shape, Tensors


def textbook(mu: Tensor, logvar: Tensor) -> Tensors:
    return (torch.exp(gaussian.textbook_sample(mu, logvar)),)


def distributions(validate: bool) -> Compute:
    def compute(mu: Tensor, logvar: Tensor) -> Tensors:
        return (LogNormal(mu, torch.exp(0.5 * logvar), validate_args=validate).rsample(),)

    return compute


def ours(mu: Tensor, logvar: Tensor) -> Tensors:
    from fused_reparam import log_normal_rsample

    return (log_normal_rsample(mu, logvar=logvar),)


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    mu, logvar, z, grad = (t.double() for t in (*operands, *outputs, *incoming))
    x = torch.log(z)
    off = x - mu
    to_mu = grad * z
    # A rounding of z moves its logarithm by one; a rounding of the logarithm moves z by as much.
    error = 1 + x.abs() + mu.abs()
    elements = {
        "grad mu": Expected(to_mu, to_mu.abs()),
        "grad logvar": Expected(0.5 * to_mu * off, 0.5 * to_mu.abs() * (off.abs() + error)),
    }
    return Oracle(off / torch.exp(0.5 * logvar), elements)


OP = Op(
    name="log_normal_rsample",
    inputs=gaussian.pair,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape,),
    operands=gaussian.itself,
    incoming=gaussian.incoming,
    oracle=oracle,
    sums=gaussian.no_sums,
    results=gaussian.results,
    # forward: mu, logvar in, z out; backward: mu, logvar and grad z in, two gradients out.
    moved={"forward": 3, "backward": 5, "forward+backward": 8},
    made={"forward": 1, "backward": 2, "forward+backward": 3},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(8, 9), "reference": Alive(14, 20), "fused": Alive(1, 3)},
    sizes=("128x20", "1M"),
    dtypes=("float32",),
)
