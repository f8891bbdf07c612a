"""The short way through the Gaussian latent: contiguous operands of one shape, in plain eager mode.

A small latent costs calls, not arithmetic. Where z and a summed KL of two contiguous tensors are
wanted, nothing has to be arranged, and this Function does only what is left. Whatever else comes
up in the backward pass goes the general way.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import gaussian_call
from .gaussian_call import Inputs, Spec

_SUMMED = ("sum", "mean", "batchmean")


def serves(inputs: Inputs, spec: Spec) -> bool:
    """Whether a call can go the short way, given that it runs in plain eager mode."""
    loc, scale, _, eps = inputs
    return (
        scale is not None
        and eps is None
        and spec.sample
        and spec.reduction in _SUMMED
        and loc.shape == scale.shape
        and loc.is_contiguous()
        and scale.is_contiguous()
        and loc.numel() > 0
    )


def call(
    backend: ModuleType, loc: Tensor, scale: Tensor, key: Tensor, spec: Spec, weight: float
) -> tuple[Tensor, Tensor]:
    """z and KL, not differentiable."""
    z = torch.empty_like(loc)
    kl = torch.empty((), dtype=gaussian_call.compute_dtype(loc.dtype), device=loc.device)
    backend.gaussian_forward(
        loc, scale, key, None, spec.kind, spec.low, spec.high, weight, True, z, kl
    )
    return z, kl


class DenseLatent(torch.autograd.Function):
    """``call`` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        loc: Tensor,
        scale: Tensor,
        key: Tensor,
        backend: ModuleType,
        spec: Spec,
        weight: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(loc, scale, key)
        ctx.set_materialize_grads(False)
        ctx.call = backend, spec, weight
        return call(backend, loc, scale, key, spec, weight)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> Any:
        loc, scale, key = ctx.saved_tensors
        backend, spec, weight = ctx.call
        need_loc, need_scale, *_ = ctx.needs_input_grad
        if (
            torch.is_grad_enabled()
            or not (need_loc and need_scale)
            or (grad_z is None and grad_kl is None)
            or not (grad_z is None or grad_z.is_contiguous())
            or not (loc.is_contiguous() and scale.is_contiguous())
        ):
            return _general_backward(ctx, grad_z, grad_kl)
        grad_loc, grad_scale = torch.empty_like(loc), torch.empty_like(scale)
        backend.gaussian_backward(
            grad_z, grad_kl, loc, scale, None if grad_z is None else key, None,
            spec.kind, spec.low, spec.high, weight, True, grad_loc, grad_scale,
        )  # fmt: skip
        return grad_loc, grad_scale, None, None, None, None


def _general_backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> Any:
    from .gaussian import latent_backward

    loc, scale, key = ctx.saved_tensors
    backend, spec, _ = ctx.call
    needs = (*ctx.needs_input_grad[:2], False)
    compute = partial(gaussian_call.backward, backend)
    grads = latent_backward(compute, grad_z, grad_kl, Inputs(loc, scale, key, None), spec, needs)
    return grads[0], grads[1], None, None, None, None


# Function.apply in Python looks for functorch and for default arguments, neither of which is here;
# the C++ apply behind it saves 5 us of 35.
apply = super(torch.autograd.Function, DenseLatent).apply
