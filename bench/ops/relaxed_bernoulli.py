"""A relaxed Bernoulli draw (binary concrete): `sigmoid((logits + logistic noise) / TAU)`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import RelaxedBernoulli

from bench import scores
from bench.ops import gaussian
from bench.ops.base import Alive, Base, Compute, Expected, Op, Oracle, Shape, Tensors

TAU = 0.9


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    return gaussian.leaves(*gaussian.normals(1, shape, dtype, device))


def textbook(logits: Tensor) -> Tensors:
    """As in Maddison and others, 2017, and away from the logarithm of 0."""
    least = torch.finfo(logits.dtype).eps
    u = torch.empty_like(logits).uniform_(least, 1 - least)
    return (torch.sigmoid((logits + torch.log(u) - torch.log1p(-u)) / TAU),)


def distributions(validate: bool) -> Compute:
    def compute(logits: Tensor) -> Tensors:
        tau = logits.new_full((), TAU)
        return (RelaxedBernoulli(tau, logits=logits, validate_args=validate).rsample(),)

    return compute


def ours(logits: Tensor) -> Tensors:
    from fused_reparam import relaxed_bernoulli

    return (relaxed_bernoulli(logits, TAU),)


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    logits, z, grad = (t.double() for t in (*operands, *outputs, *incoming))
    # Where rounding made it 0 or 1, it may have been as far from it as that.
    info = torch.finfo(outputs[0].dtype)
    z = z.clamp(info.smallest_normal * info.eps, 1 - info.eps / 4)
    noise = TAU * torch.logit(z) - logits
    slope = z * (1 - z)
    scale = slope + z * (1 - 2 * z).abs()
    expected = Expected(grad * slope / TAU, grad.abs() * scale / TAU)
    return Oracle(scores.of_logistic(noise), {"grad logits": expected})


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    return {"grad logits": gradients[0]}


OP = Op(
    name="relaxed_bernoulli",
    inputs=inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape,),
    operands=gaussian.itself,
    incoming=gaussian.incoming,
    oracle=oracle,
    sums=gaussian.no_sums,
    results=results,
    # forward: logits in, z out; backward: logits and grad z in, a gradient out.
    moved={"forward": 2, "backward": 3, "forward+backward": 5},
    made={"forward": 1, "backward": 1, "forward+backward": 2},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(7, 8), "reference": Alive(14, 20), "fused": Alive(1, 2)},
    base=Base("logistic"),
    sizes=("128x20", "1M"),
    dtypes=("float32",),
)
