"""Gumbel-softmax along dim 1: `softmax((logits + g) / TAU)`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import RelaxedOneHotCategorical

from bench.ops import categories, gaussian
from bench.ops.base import Alive, Base, Compute, Op, Tensors
from bench.ops.categories import TAU


def textbook(logits: Tensor) -> Tensors:
    return (F.gumbel_softmax(logits, TAU, dim=1),)


def distributions(validate: bool) -> Compute:
    @categories.classes_last
    def sample(logits: Tensor) -> Tensor:
        tau = logits.new_full((), TAU)
        return RelaxedOneHotCategorical(tau, logits=logits, validate_args=validate).rsample()

    return categories.only(sample)


def ours(logits: Tensor) -> Tensors:
    from fused_reparam import gumbel_softmax

    return (gumbel_softmax(logits, TAU, dim=1),)


OP = Op(
    name="gumbel_softmax",
    inputs=categories.inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape,),
    operands=gaussian.itself,
    incoming=categories.incoming,
    oracle=categories.soft_oracle,
    sums=gaussian.no_sums,
    results=categories.results,
    # forward: logits in, y out; backward: y and its gradient in, a gradient out; no noise.
    moved={"forward": 2, "backward": 3, "forward+backward": 5},
    made={"forward": 1, "backward": 1, "forward+backward": 2},
    noise_passes={"forward": 1, "backward": 0, "forward+backward": 1},
    alive={"pytorch": Alive(6, 7), "reference": Alive(16, 18), "fused": Alive(1, 2)},
    base=Base("gumbel"),
    sliced=categories.rows,
    # A matrix of rows, and the codes of 4 images of 16 x 16, classes not last in memory.
    sizes=("128x20", "4096x1024", "4x8192x16x16"),
    dtypes=("float32",),
)
