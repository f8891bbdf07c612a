"""What the ops of the Gaussian latent share: inputs, the textbook's formulas, and the oracle.

`z = mu + sigma * eps` with `sigma = exp(logvar / 2)`, and the KL to N(0, I) over the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bench.ops.base import Compute, Expected, Oracle, Shape, Tensors


def pair(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    """mu and logvar as an encoder early in training gives them; always the same ones."""
    mu, logvar = normals(2, shape, dtype, device)
    logvar.mul_(0.5).sub_(0.5)
    return leaves(mu, logvar)


def normals(count: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    """Tensors of normals, always the same ones, of which inputs are made."""
    generator = torch.Generator(device).manual_seed(20)
    made = [torch.randn(shape, dtype=dtype, device=device, generator=generator)
            for _ in range(count)]  # fmt: skip
    return tuple(made)


def leaves(*tensors: Tensor) -> Tensors:
    return tuple(t.requires_grad_() for t in tensors)


def itself(tensors: Tensors) -> Tensors:
    return tensors


def textbook_sample(mu: Tensor, logvar: Tensor) -> Tensor:
    """As in pytorch/examples/vae."""
    std = torch.exp(0.5 * logvar)
    eps = torch.randn_like(std)
    return mu + eps * std


def textbook_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """As in pytorch/examples/vae, averaged over the batch."""
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / mu.shape[0]


def textbook(mu: Tensor, logvar: Tensor) -> Tensors:
    return textbook_sample(mu, logvar), textbook_kl(mu, logvar)


def through_distributions(sample: bool, kl: bool) -> Callable[[bool], Compute]:
    """The same through torch.distributions, with or without its checks of the arguments."""

    def checked_or_not(validate: bool) -> Compute:
        def compute(mu: Tensor, logvar: Tensor) -> Tensors:
            posterior = Normal(mu, torch.exp(0.5 * logvar), validate_args=validate)
            outputs = (posterior.rsample(),) if sample else ()
            if not kl:
                return outputs
            prior = Normal(mu.new_zeros(()), mu.new_ones(()), validate_args=validate)
            return *outputs, kl_divergence(posterior, prior).sum() / mu.shape[0]

        return compute

    return checked_or_not


def incoming(shape: Shape, outputs: Tensors, sample_grad: Callable[[], Tensor]) -> Tensors:
    """A random gradient for z; for the KL one that weighs as much as z's."""
    return tuple(torch.full_like(t, shape[0]) if _is_kl(t) else sample_grad() for t in outputs)


def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    """Noise and gradients in float64, with sigma * eps read off the sample: `z - mu`."""
    mu, logvar = (t.detach().double() for t in operands)
    batch = shape[0]
    z = grad_z = noise = None
    grad_kl = torch.zeros((), dtype=torch.float64, device=mu.device)
    for output, grad in zip(outputs, incoming, strict=True):
        if _is_kl(output):
            grad_kl = grad.double() / batch
        else:
            z, grad_z = output.detach().double(), grad.double()
    variance = torch.exp(logvar)
    to_mu, mu_scale = grad_kl * mu, (grad_kl * mu).abs()
    to_logvar, logvar_scale = grad_kl * (variance - 1), grad_kl.abs() * (variance + 1)
    if z is not None and grad_z is not None:
        noise = (z - mu) / torch.exp(0.5 * logvar)
        # Several samples of the same parameters: their gradients add up.
        z, grad_z = (t.reshape(-1, *mu.shape) for t in (z, grad_z))
        to_mu, mu_scale = to_mu + grad_z.sum(0), mu_scale + grad_z.abs().sum(0)
        to_logvar = to_logvar + (grad_z * (z - mu)).sum(0)
        # z was rounded: its error, of the size of z, stands where sigma * eps is read off.
        logvar_scale = logvar_scale + (grad_z.abs() * (z.abs() + mu.abs())).sum(0)
    elements = {
        "grad mu": Expected(to_mu, mu_scale),
        "grad logvar": Expected(0.5 * to_logvar, 0.5 * logvar_scale),
    }
    return Oracle(noise, elements)


def kl_sum(shape: Shape, operands: Tensors) -> dict[str, Expected]:
    """What some elements add to the KL, in float64."""
    mu, logvar = (t.detach().double() for t in operands)
    terms = mu**2 + torch.exp(logvar)
    value, scale = (terms - 1 - logvar).sum(), (terms + 1 + logvar.abs()).sum()
    return {"kl": Expected(0.5 * value / shape[0], 0.5 * scale / shape[0])}


def no_sums(shape: Shape, operands: Tensors) -> dict[str, Expected]:
    return {}


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    kl = {"kl": outputs[-1]} if _is_kl(outputs[-1]) else {}
    return kl | {"grad mu": gradients[0], "grad logvar": gradients[1]}


def _is_kl(output: Tensor) -> bool:
    return output.ndim == 0
