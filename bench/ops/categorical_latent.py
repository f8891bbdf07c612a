"""A relaxed categorical latent along dim 1: Gumbel-softmax, and the KL to equal shares."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from bench.ops import categories, gaussian, gumbel_softmax
from bench.ops.base import Alive, Base, Compute, Op, Tensors
from bench.ops.categories import TAU


def textbook(logits: Tensor) -> Tensors:
    """As discrete VAEs are written; the KL is averaged over the batch."""
    log_p = F.log_softmax(logits, 1)
    kl = (log_p.exp() * (log_p + math.log(logits.shape[1]))).sum() / logits.shape[0]
    return F.gumbel_softmax(logits, TAU, dim=1), kl


def distributions(validate: bool) -> Compute:
    sample = gumbel_softmax.distributions(validate)

    def compute(logits: Tensor) -> Tensors:
        shares = Categorical(logits=logits.movedim(1, -1), validate_args=validate)
        kl = (math.log(logits.shape[1]) - shares.entropy()).sum() / logits.shape[0]
        return *sample(logits), kl

    return compute


def ours(logits: Tensor) -> Tensors:
    from fused_reparam import categorical_latent

    return categorical_latent(logits, TAU, dim=1)


OP = Op(
    name="categorical_latent",
    inputs=categories.inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape, ()),
    operands=gaussian.itself,
    incoming=categories.incoming,
    oracle=categories.soft_oracle,
    sums=categories.kl_sum,
    results=categories.results,
    # forward: logits in, y out; backward: logits, y and its gradient in, a gradient out.
    moved={"forward": 2, "backward": 4, "forward+backward": 6},
    made={"forward": 1, "backward": 1, "forward+backward": 2},
    noise_passes=gumbel_softmax.OP.noise_passes,
    alive={"pytorch": Alive(10, 12), "reference": Alive(16, 20), "fused": Alive(1, 2)},
    base=Base("gumbel"),
    sliced=categories.rows,
    sizes=("128x20", "4x8192x16x16"),
    dtypes=("float32",),
)
