"""The Gaussian latent against a learned prior, as in hierarchical VAEs, which has gradients too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bench.ops import gaussian
from bench.ops.base import Alive, Compute, Expected, Op, Oracle, Shape, Tensors


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    """mu, logvar, and the prior's."""
    made = gaussian.normals(4, shape, dtype, device)
    for logvar in made[1::2]:
        logvar.mul_(0.5).sub_(0.5)
    return gaussian.leaves(*made)


def textbook(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensors:
    """As in ladder VAEs, averaged over the batch."""
    terms = logvar.exp() + (mu - prior_mu).pow(2)
    kl = 0.5 * torch.sum(prior_logvar - logvar - 1 + terms * torch.exp(-prior_logvar))
    return gaussian.textbook_sample(mu, logvar), kl / mu.shape[0]


def distributions(validate: bool) -> Compute:
    def compute(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensors:
        posterior = Normal(mu, torch.exp(0.5 * logvar), validate_args=validate)
        prior = Normal(prior_mu, torch.exp(0.5 * prior_logvar), validate_args=validate)
        return posterior.rsample(), kl_divergence(posterior, prior).sum() / mu.shape[0]

    return compute


def ours(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensors:
    from fused_reparam import gaussian_latent

    return gaussian_latent(mu, logvar, prior=(prior_mu, {"logvar": prior_logvar}))


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    mu, logvar, prior_mu, prior_logvar, z, grad_z = (
        t.double() for t in (*operands, outputs[0], incoming[0])
    )
    grad_kl = incoming[1].double() / shape[0]
    distance, precision = mu - prior_mu, torch.exp(-prior_logvar)
    ratio, square = torch.exp(logvar) * precision, distance**2 * precision
    to_distance = grad_kl * distance * precision
    distance_scale = grad_kl * (mu.abs() + prior_mu.abs()) * precision
    off = z - mu
    # z was rounded: its error, of the size of z, stands where sigma * eps is read off.
    off_scale = grad_z.abs() * (z.abs() + mu.abs())
    # So were the differences of the means, before they were squared.
    square_scale = square + 2 * distance.abs() * (mu.abs() + prior_mu.abs()) * precision
    elements = {
        "grad mu": Expected(grad_z + to_distance, grad_z.abs() + distance_scale),
        "grad logvar": Expected(
            0.5 * (grad_z * off + grad_kl * (ratio - 1)), 0.5 * (off_scale + grad_kl * (ratio + 1))
        ),
        "grad prior mu": Expected(-to_distance, distance_scale),
        "grad prior logvar": Expected(
            0.5 * grad_kl * (1 - ratio - square), 0.5 * grad_kl * (1 + ratio + square_scale)
        ),
    }
    return Oracle(off / torch.exp(0.5 * logvar), elements)


def kl_sum(shape: Shape, operands: Tensors) -> dict[str, Expected]:
    """What some elements add to the KL."""
    mu, logvar, prior_mu, prior_logvar = (t.double() for t in operands)
    terms = (torch.exp(logvar) + (mu - prior_mu) ** 2) * torch.exp(-prior_logvar)
    value = (prior_logvar - logvar - 1 + terms).sum()
    scale = (prior_logvar.abs() + logvar.abs() + 1 + terms).sum()
    return {"kl": Expected(0.5 * value / shape[0], 0.5 * scale / shape[0])}


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    names = ("grad mu", "grad logvar", "grad prior mu", "grad prior logvar")
    return {"kl": outputs[1]} | dict(zip(names, gradients, strict=False))


OP = Op(
    name="gaussian_latent_prior",
    inputs=inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape, ()),
    operands=gaussian.itself,
    incoming=gaussian.incoming,
    oracle=oracle,
    sums=kl_sum,
    results=results,
    # forward: four parameters in, z out; backward: these and grad z in, four gradients out.
    moved={"forward": 5, "backward": 9, "forward+backward": 14},
    made={"forward": 1, "backward": 4, "forward+backward": 5},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(12, 16), "reference": Alive(20, 30), "fused": Alive(1, 5)},
    sizes=("128x20", "1M"),
    dtypes=("float32",),
)
