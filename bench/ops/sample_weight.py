"""A sampled weight: `w = mu + softplus(rho) * eps`, and its KL to N(0, PRIOR_STD^2), summed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bench.ops import gaussian
from bench.ops.base import Alive, Compute, Expected, Op, Oracle, Shape, Tensors

PRIOR_STD = 0.1
# So that the KL's gradient weighs about as much as the weight's.
GRAD_KL = 0.1


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    """As in a layer's training: weights near 0.1, standard deviations near 0.05."""
    mu, rho = gaussian.normals(2, shape, dtype, device)
    return gaussian.leaves(mu.mul_(0.1), rho.mul_(0.5).sub_(3))


def textbook(mu: Tensor, rho: Tensor) -> Tensors:
    """As Bayes by backprop is written: Blundell and others, 2015, with the closed KL."""
    sigma = F.softplus(rho)
    w = mu + sigma * torch.randn_like(sigma)
    ratio = (sigma**2 + mu**2) / (2 * PRIOR_STD**2)
    return w, (math.log(PRIOR_STD) - torch.log(sigma) + ratio - 0.5).sum()


def distributions(validate: bool) -> Compute:
    def compute(mu: Tensor, rho: Tensor) -> Tensors:
        posterior = Normal(mu, F.softplus(rho), validate_args=validate)
        zero, std = mu.new_zeros(()), mu.new_full((), PRIOR_STD)
        prior = Normal(zero, std, validate_args=validate)
        return posterior.rsample(), kl_divergence(posterior, prior).sum()

    return compute


def ours(mu: Tensor, rho: Tensor) -> Tensors:
    from fused_reparam import sample_weight

    return sample_weight(mu, rho, prior_std=PRIOR_STD)


def incoming(shape: Shape, outputs: Tensors, sample_grad: Callable[[], Tensor]) -> Tensors:
    return sample_grad(), torch.full_like(outputs[1], GRAD_KL)


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    mu, rho, w, grad_w, grad_kl = (t.double() for t in (*operands, outputs[0], *incoming))
    sigma, slope, precision = F.softplus(rho), torch.sigmoid(rho), PRIOR_STD**-2
    eps = (w - mu) / sigma
    to_mu = Expected(grad_w + grad_kl * mu * precision, grad_w.abs() + (mu * precision).abs())
    to_sigma = grad_w * eps + grad_kl * (sigma * precision - 1 / sigma)
    # w was rounded: its error, of the size of w, stands where eps is read off.
    scale = grad_w.abs() * (w.abs() + mu.abs()) / sigma + grad_kl * (sigma * precision + 1 / sigma)
    to_rho = Expected(slope * to_sigma, slope * scale)
    return Oracle(eps, {"grad mu": to_mu, "grad rho": to_rho})


def sums(shape: Shape, operands: Tensors) -> dict[str, Expected]:
    mu, rho = (t.double() for t in operands)
    sigma = F.softplus(rho)
    terms = (sigma**2 + mu**2) / (2 * PRIOR_STD**2)
    logarithm = torch.log(sigma / PRIOR_STD)
    value, scale = (terms - logarithm - 0.5).sum(), (terms + logarithm.abs() + 0.5).sum()
    return {"kl": Expected(value, scale)}


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    return {"kl": outputs[1], "grad mu": gradients[0], "grad rho": gradients[1]}


OP = Op(
    name="sample_weight",
    inputs=inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape, ()),
    operands=gaussian.itself,
    incoming=incoming,
    oracle=oracle,
    sums=sums,
    results=results,
    # forward: mu, rho in, w out; backward: mu, rho, grad w in, two gradients out.
    moved={"forward": 3, "backward": 5, "forward+backward": 8},
    made={"forward": 1, "backward": 2, "forward+backward": 3},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(10, 12), "reference": Alive(16, 30), "fused": Alive(1, 3)},
    sizes=("128k", "1e7"),
    dtypes=("float32",),
)
