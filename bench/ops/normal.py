"""The noise itself: standard normals of a given shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal

from bench.ops import gaussian
from bench.ops.base import Alive, Compute, Op, Oracle, Shape, Tensors


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    """One element, expanded: it tells shape, dtype and device and takes no memory."""
    return (torch.zeros((), dtype=dtype, device=device).expand(shape),)


def textbook(like: Tensor) -> Tensors:
    return (torch.randn(like.shape, dtype=like.dtype, device=like.device),)


def distributions(validate: bool) -> Compute:
    def sample(like: Tensor) -> Tensors:
        zero, one = like.new_zeros(()), like.new_ones(())
        return (Normal(zero, one, validate_args=validate).sample(like.shape),)

    return sample


def ours(like: Tensor) -> Tensors:
    from fused_reparam import noise

    return (noise.normal(noise.draw_key(like.device), like.shape, dtype=like.dtype),)


def incoming(shape: Shape, outputs: Tensors, sample_grad: Callable[[], Tensor]) -> Tensors:
    raise TypeError("normal has no backward pass")


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    return Oracle(outputs[0].double())


def no_results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    """The noise is all that there is, and the oracle has it."""
    return {}


OP = Op(
    name="normal",
    inputs=inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape,),
    operands=gaussian.itself,
    incoming=incoming,
    oracle=oracle,
    sums=gaussian.no_sums,
    results=no_results,
    moved={"forward": 1},
    made={"forward": 1},
    noise_passes={"forward": 1},
    alive={"pytorch": Alive(2, 2), "reference": Alive(9, 9), "fused": Alive(1, 1)},
)
