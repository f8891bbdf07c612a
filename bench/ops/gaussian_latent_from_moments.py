"""The Gaussian latent from one tensor: means, then log variances, along dim 1."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.ops import gaussian, gaussian_latent
from bench.ops.base import Compute, Op, Shape, Tensors


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    halves = gaussian.pair(shape, dtype, device)
    with torch.no_grad():
        return (torch.cat(halves, dim=1).requires_grad_(),)


def halves(tensors: Tensors) -> Tensors:
    """The halves of the moments, or of their gradient; of a gradient that there isn't, nothing."""
    return tuple(half for tensor in tensors for half in tensor.chunk(2, dim=1))


def textbook(moments: Tensor) -> Tensors:
    return gaussian.textbook(*halves((moments,)))


def distributions(validate: bool) -> Compute:
    compute = gaussian_latent.OP.distributions(validate)
    return lambda moments: compute(*halves((moments,)))


def ours(moments: Tensor) -> Tensors:
    from fused_reparam import gaussian_latent_from_moments

    return gaussian_latent_from_moments(moments)


OP = Op(
    name="gaussian_latent_from_moments",
    inputs=inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=gaussian_latent.OP.output_shapes,
    operands=halves,
    incoming=gaussian.incoming,
    oracle=gaussian.oracle,
    sums=gaussian.kl_sum,
    results=gaussian.results,
    # As for the latent of two tensors: the moments count as two, and so does their gradient.
    moved=gaussian_latent.OP.moved,
    made=gaussian_latent.OP.made,
    noise_passes=gaussian_latent.OP.noise_passes,
    alive=gaussian_latent.OP.alive,
)
