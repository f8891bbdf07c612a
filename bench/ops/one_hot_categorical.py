"""A straight-through one-hot draw along dim 1 with a share UNIMIX of equal chances."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import OneHotCategoricalStraightThrough

from bench.ops import categories, gaussian, gumbel_softmax
from bench.ops.base import Alive, Base, Compute, Op, Tensors

# As world models have it: Hafner and others, "Mastering diverse domains through world models".
UNIMIX = 0.01


def _mixed(logits: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Shares of classes in the last dim."""
    return (1 - UNIMIX) * torch.softmax(logits, -1, dtype) + UNIMIX / logits.shape[-1]


@categories.classes_last
def _straight_through(logits: Tensor) -> Tensor:
    shares = _mixed(logits)
    chosen = torch.multinomial(shares.detach().flatten(0, -2), 1).view(*shares.shape[:-1], 1)
    one_hot = torch.zeros_like(shares).scatter_(-1, chosen, 1.0)
    return one_hot + (shares - shares.detach())


def distributions(validate: bool) -> Compute:
    @categories.classes_last
    def sample(logits: Tensor) -> Tensor:
        # The Categorical inside always checks that shares add up to 1, which 16 bits can't do.
        shares = _mixed(logits, torch.promote_types(logits.dtype, torch.float32))
        one = OneHotCategoricalStraightThrough(probs=shares, validate_args=validate)
        return one.rsample().to(logits.dtype)

    return categories.only(sample)


def ours(logits: Tensor) -> Tensors:
    from fused_reparam import one_hot_categorical

    return (one_hot_categorical(logits, UNIMIX, dim=1),)


OP = Op(
    name="one_hot_categorical",
    inputs=categories.inputs,
    textbook=categories.only(_straight_through),
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape,),
    operands=gaussian.itself,
    incoming=categories.incoming,
    oracle=categories.hard_oracle(UNIMIX),
    sums=gaussian.no_sums,
    results=categories.results,
    # forward: logits in, y out; backward: logits and y's gradient in, a gradient out; no noise.
    moved=gumbel_softmax.OP.moved,
    made=gumbel_softmax.OP.made,
    noise_passes=gumbel_softmax.OP.noise_passes,
    alive={
        "pytorch": Alive(6, 7),
        # Of float32 in 16-bit cases too.
        "distributions": Alive(17, 17),
        "reference": Alive(16, 18),
        "fused": Alive(1, 2),
    },
    base=Base("gumbel"),
    sliced=categories.rows,
    # A world model's 1024 states of 32 categories of 32 classes.
    sizes=("128x20", "32768x32"),
    dtypes=("float32",),
)
