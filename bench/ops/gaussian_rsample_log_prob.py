"""A Gaussian sample with its log-densities under its own distribution and under N(0, I).

As importance-weighted bounds take them: summed over all but the batch, differentiated through the
sample and through the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal

from bench.ops import gaussian
from bench.ops.base import Alive, Compute, Expected, Op, Oracle, Shape, Tensors, rounding

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def textbook(mu: Tensor, logvar: Tensor) -> Tensors:
    std = torch.exp(0.5 * logvar)
    eps = torch.randn_like(std)
    z = mu + std * eps
    log_q = (-0.5 * eps**2 - 0.5 * logvar - HALF_LOG_2PI).flatten(1).sum(1)
    log_p = (-0.5 * z**2 - HALF_LOG_2PI).flatten(1).sum(1)
    return z, log_q, log_p


def distributions(validate: bool) -> Compute:
    def compute(mu: Tensor, logvar: Tensor) -> Tensors:
        posterior = Normal(mu, torch.exp(0.5 * logvar), validate_args=validate)
        prior = Normal(mu.new_zeros(()), mu.new_ones(()), validate_args=validate)
        z = posterior.rsample()
        return z, *(one.log_prob(z).flatten(1).sum(1) for one in (posterior, prior))

    return compute


def ours(mu: Tensor, logvar: Tensor) -> Tensors:
    from fused_reparam import gaussian_rsample_log_prob

    return gaussian_rsample_log_prob(mu, logvar)


def incoming(shape: Shape, outputs: Tensors, sample_grad: Callable[[], Tensor]) -> Tensors:
    """For log q and log p what the bound gives them: weights of opposite signs."""
    _, log_q, log_p = outputs
    weights = torch.linspace(0.5, 1.5, shape[0], dtype=torch.float64, device=log_q.device)
    return sample_grad(), weights.to(log_q.dtype), -weights.to(log_p.dtype)


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    mu, logvar, z, grad_z = (t.double() for t in (*operands, outputs[0], incoming[0]))
    # Of each row, to be broadcast over its elements.
    grad_q, grad_p = (g.double().view(-1, *[1] * (mu.ndim - 1)) for g in incoming[1:])
    sigma = torch.exp(0.5 * logvar)
    off = z - mu
    eps = off / sigma
    # z was rounded: its error, of the size of z, stands where sigma * eps is read off.
    error = z.abs() + mu.abs()
    path, path_scale = grad_z - grad_p * z, grad_z.abs() + (grad_p * z).abs()
    # What log q gives mu through z and directly cancels; rounding errors of both remain.
    to_mu = Expected(path, path_scale + (grad_q * eps / sigma).abs())
    score_scale = grad_q.abs() * (1 + eps**2 + eps.abs() * error / sigma)
    path_scale = path_scale * error + (grad_p * off).abs() * error
    to_logvar = Expected(0.5 * (path * off - grad_q), 0.5 * (path_scale + score_scale))
    log_q = 0.5 * eps**2 + 0.5 * logvar + HALF_LOG_2PI
    log_q_scale = 0.5 * eps**2 + 0.5 * logvar.abs() + HALF_LOG_2PI
    log_p = 0.5 * z**2 + HALF_LOG_2PI
    elements = {
        "log q": _density(outputs[1], -log_q, log_q_scale, eps.abs() * error / sigma),
        "log p": _density(outputs[2], -log_p, log_p, z**2),
        "grad mu": to_mu,
        "grad logvar": to_logvar,
    }
    return Oracle(eps, elements)


def _density(output: Tensor, value: Tensor, scale: Tensor, read: Tensor) -> Expected:
    """Of rows, from what their elements add."""
    parts = (t.flatten(1).sum(1) for t in (value, scale, read))
    return Expected(*parts, shift=rounding(HALF_LOG_2PI, output.dtype) * value[0].numel())


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    _, log_q, log_p = outputs
    found = {"log q": log_q, "log p": log_p}
    return found | {"grad mu": gradients[0], "grad logvar": gradients[1]}


OP = Op(
    name="gaussian_rsample_log_prob",
    inputs=gaussian.pair,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    output_shapes=lambda shape: (shape, shape[:1], shape[:1]),
    operands=gaussian.itself,
    incoming=incoming,
    oracle=oracle,
    sums=gaussian.no_sums,
    results=results,
    # forward: mu, logvar in, z out; backward: mu, logvar, grad z in, two gradients out.
    moved={"forward": 3, "backward": 5, "forward+backward": 8},
    made={"forward": 1, "backward": 2, "forward+backward": 3},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
    alive={"pytorch": Alive(12, 14), "reference": Alive(16, 30), "fused": Alive(1, 3)},
    # The densities are sums over whole rows.
    sliced=lambda _: 0,
    sizes=("128x20", "1M"),
    dtypes=("float32",),
)
