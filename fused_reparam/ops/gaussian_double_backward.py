"""The gradient of the Gaussian latent's backward pass, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backends import reference
from ..noise import on_device
from . import gaussian_call
from .gaussian_call import Inputs, Spec


def double_backward(
    cotangents: Sequence[Tensor | None],
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    inputs: Inputs,
    spec: Spec,
) -> tuple[Tensor | None, ...]:
    """Gradients of the backward pass for grad_z, grad_kl, loc, scale, key (none) and eps.

    Plain PyTorch, so that it can be differentiated again. With cotangents ``a, b, c`` of the
    gradients of loc, scale and eps it differentiates::

        a (grad_z + gk loc) + b (grad_z eps dsigma + gk dKL) + c grad_z sigma
    """
    loc, scale, key, eps = inputs
    mu, raw = gaussian_call.operands(loc, scale, spec.dim)
    shape, dtype = mu.shape, gaussian_call.compute_dtype(loc.dtype)
    a, b, c = cotangents
    if scale is None and a is not None:
        a, b = gaussian_call.halves(a, spec.dim)
    mu, raw = mu.to(dtype), raw.to(dtype)
    x = reference.clamp(raw, spec.low, spec.high)
    inside = reference.inside(raw, spec.low, spec.high)
    zero = torch.zeros((), dtype=dtype, device=loc.device)
    a, c = (zero if t is None else t.to(dtype).expand(shape) for t in (a, c))
    b = zero if b is None else torch.where(inside, b.to(dtype).expand(shape), 0.0)
    gz = zero if grad_z is None else grad_z.to(dtype)
    gk = zero
    if grad_kl is not None:
        assert spec.reduction is not None
        gk = gaussian_call.spread(grad_kl, shape) * gaussian_call.kl_weight(shape, spec.reduction)
    if eps is not None:
        noise = eps.to(dtype)
    elif key is not None:
        key = on_device(key, loc.device)
        noise = torch.ops.fused_reparam.normal(key, shape, spec.order, dtype)
    else:
        noise = zero
    sigma = reference.sigma_of(x, spec.kind)
    dsigma = reference.dsigma_of(x, sigma, spec.kind)
    to_gz = a + b * noise * dsigma + c * sigma
    to_gk = a * mu + b * reference.dkl_of(x, sigma, spec.kind)
    to_mu = a * gk
    to_x = torch.where(inside, c * gz * dsigma, 0.0) + b * (
        gz * noise * reference.ddsigma_of(x, sigma, spec.kind)
        + gk * reference.ddkl_of(x, sigma, spec.kind)
    )
    to_eps = b * gz * dsigma

    def fit(grad: Tensor, like: Tensor | None) -> Tensor | None:
        return None if like is None else grad.expand(shape).sum_to_size(like.shape).to(like.dtype)

    if grad_kl is not None:
        assert spec.reduction is not None
        to_gk = to_gk.expand(shape) * gaussian_call.kl_weight(shape, spec.reduction)
        if grad_kl.dim() < len(shape):
            to_gk = to_gk.flatten(grad_kl.dim()).sum(-1)
    to_grad_kl = None if grad_kl is None else to_gk.to(grad_kl.dtype)
    if scale is None:
        to_moments = torch.cat((to_mu.expand(shape), to_x.expand(shape)), spec.dim).to(loc.dtype)
        return fit(to_gz, grad_z), to_grad_kl, to_moments, None, None, fit(to_eps, eps)
    return (
        fit(to_gz, grad_z), to_grad_kl, fit(to_mu, loc), fit(to_x, scale), None, fit(to_eps, eps),
    )  # fmt: skip
