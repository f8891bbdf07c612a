"""The Gaussian latent: `z = mu + sigma * eps`, `sigma = exp(logvar / 2)`, and its KL to N(0, I)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bench.ops.base import Compute, Expected, Op, Oracle, Tensors


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensors:
    """mu and logvar as an encoder early in training gives them; always the same ones."""
    generator = torch.Generator().manual_seed(20)
    mu = torch.randn(shape, generator=generator)
    logvar = torch.randn(shape, generator=generator).mul_(0.5).sub_(0.5)
    return tuple(t.to(device, dtype).requires_grad_() for t in (mu, logvar))


def textbook(mu: Tensor, logvar: Tensor) -> Tensors:
    """The composition of pytorch/examples/vae, with the KL averaged over the batch."""
    std = torch.exp(0.5 * logvar)
    eps = torch.randn_like(std)
    z = mu + eps * std
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / mu.shape[0]
    return z, kl


def distributions(validate: bool) -> Compute:
    """The same through torch.distributions, with or without its checks of the arguments."""

    def through_distributions(mu: Tensor, logvar: Tensor) -> Tensors:
        posterior = Normal(mu, torch.exp(0.5 * logvar), validate_args=validate)
        zero, one = mu.new_zeros(()), mu.new_ones(())
        prior = Normal(zero, one, validate_args=validate)
        z = posterior.rsample()
        return z, kl_divergence(posterior, prior).sum() / mu.shape[0]

    return through_distributions


def ours(mu: Tensor, logvar: Tensor) -> Tensors:
    """The package's op; which backend computes it is the caller's choice."""
    from fused_reparam import gaussian_latent

    return gaussian_latent(mu, logvar)


def incoming(outputs: Tensors) -> Tensors:
    """A random gradient for z; for the KL one that weighs as much as z's."""
    z, kl = outputs
    generator = torch.Generator().manual_seed(21)
    grad_z = torch.randn(z.shape, generator=generator).to(z.device, z.dtype)
    return grad_z, torch.full_like(kl, z.shape[0])


def oracle(inputs: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    """KL and gradients in float64, with sigma * eps read off the sample: `z - mu`."""
    mu, logvar = (t.detach().double() for t in inputs)
    z = outputs[0].detach().double()
    grad_z, grad_kl = (t.double() for t in incoming)
    batch = mu.shape[0]
    grad_kl = grad_kl / batch
    sigma = torch.exp(0.5 * logvar)
    variance = sigma**2
    noise = (z - mu) / sigma
    kl = Expected(
        (0.5 * (mu**2 + variance - 1 - logvar)).sum() / batch,
        (0.5 * (mu**2 + variance + 1 + logvar.abs())).sum() / batch,
    )
    grad_mu = Expected(grad_z + grad_kl * mu, grad_z.abs() + (grad_kl * mu).abs())
    grad_logvar = Expected(
        0.5 * (grad_z * (z - mu) + grad_kl * (variance - 1)),
        # z was rounded: its error, of the size of z, stands where sigma * eps is read off.
        0.5 * (grad_z.abs() * (z.abs() + mu.abs()) + grad_kl.abs() * (variance + 1)),
    )
    return Oracle(noise, {"kl": kl, "grad mu": grad_mu, "grad logvar": grad_logvar})


def checked(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    return {"kl": outputs[1], "grad mu": gradients[0], "grad logvar": gradients[1]}


OP = Op(
    name="gaussian_latent",
    inputs=inputs,
    textbook=textbook,
    distributions=distributions,
    ours=ours,
    incoming=incoming,
    oracle=oracle,
    checked=checked,
    # forward: mu, logvar in, z out; backward: mu, logvar, grad z in, two gradients out.
    tensors_moved={"forward": 3, "backward": 5, "forward+backward": 8},
    tensors_made={"forward": 1, "backward": 2, "forward+backward": 3},
    noise_passes={"forward": 1, "backward": 1, "forward+backward": 2},
)
