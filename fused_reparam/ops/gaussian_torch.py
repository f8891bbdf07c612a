"""``rng="torch"`` on CUDA without a tensor of noise: kernels draw what ``torch.randn_like`` draws.

It serves z and a summed KL of two contiguous tensors in eager mode, where the backend has
found that its numbers are PyTorch's. Everything else draws the noise and passes it as ``eps``.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends import dispatch
from ..core import reductions
from ..rng import cuda
from .elementwise import Spec, gradients_of
from .elementwise_spec import inputs_of
from .library import all_eager, forward_ad_active
from .operands import save, saved

# PyTorch draws for longer tensors in several launches.
_MOST_BYTES = 2**31 - 1
_SUMMED = ("sum", "mean", "batchmean")


class Call(NamedTuple):
    """What a call computes, by which backend, with which numbers."""

    backend: ModuleType
    draw: Any
    kind: int
    low: float
    high: float
    factor: float
    reduction: str


def latent(
    loc: Tensor,
    scale: Tensor | float,
    kind: int,
    bounds: tuple[float, float],
    reduction: Any,
    generator: torch.Generator | tuple[torch.Generator, ...] | None,
) -> tuple[Tensor, Tensor] | None:
    """z and the KL, or None when the noise has to be drawn as a tensor."""
    if (
        isinstance(generator, tuple)
        or not all_eager(loc, scale)
        or reduction not in _SUMMED
        or forward_ad_active()
        or not _serves(loc, scale)  # type: ignore[arg-type]
    ):
        return None
    backend = dispatch.pick(loc.device)
    stream = getattr(backend, "torch_random", None)
    source = cuda.eager_generator(loc.device, generator)
    if stream is None or source is None or not stream().holds(loc.device, loc.dtype):
        return None
    threads, offsets = stream().threads_and_offsets(loc.numel(), stream().most_blocks(loc.device))
    draw = stream().Draw(*cuda.reserve(source, offsets), threads)
    factor = reductions.factor(loc.shape, reduction)
    call = Call(backend, draw, kind, *bounds, factor, reduction)
    if torch.is_grad_enabled() and (loc.requires_grad or scale.requires_grad):  # type: ignore[union-attr]
        return TorchLatent.apply(loc, scale, call)  # type: ignore[no-any-return]
    return _forward(loc, scale, call)  # type: ignore[arg-type]


def _serves(loc: Tensor, scale: Tensor) -> bool:
    return (
        (loc.shape, loc.dtype, loc.device) == (scale.shape, scale.dtype, scale.device)
        and loc.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and loc.is_contiguous()
        and scale.is_contiguous()
        and 0 < loc.numel() * loc.element_size() <= _MOST_BYTES
    )


def _forward(loc: Tensor, scale: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    z, kl = torch.empty_like(loc), torch.empty((), dtype=torch.float32, device=loc.device)
    call.backend.torch_random().forward(
        call.draw, loc, scale, call.kind, call.low, call.high, call.factor, z, kl
    )
    return z, kl


class TorchLatent(torch.autograd.Function):
    """Saves the inputs, and where the noise lies in the generator's stream."""

    @staticmethod
    def forward(ctx: Any, loc: Tensor, scale: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        save(ctx, (loc, scale))
        ctx.set_materialize_grads(False)
        ctx.call = call
        return _forward(loc, scale, call)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> Any:
        (loc, scale), eager, same = saved(ctx, (grad_z, grad_kl))
        call: Call = ctx.call
        if (
            torch.is_grad_enabled()
            or not (eager and same)
            or not all(ctx.needs_input_grad[:2])
            or grad_z is None
            or not grad_z.is_contiguous()
        ):
            return _general_backward(ctx, loc, scale, grad_z, grad_kl)
        to_loc, to_scale = torch.empty_like(loc), torch.empty_like(scale)
        call.backend.torch_random().backward(
            call.draw, grad_z, grad_kl, loc, scale, call.kind, call.low, call.high, call.factor,
            to_loc, to_scale,
        )  # fmt: skip
        return to_loc, to_scale, None


def _general_backward(
    ctx: Any, loc: Tensor, scale: Tensor, grad_z: Tensor | None, grad_kl: Tensor | None
) -> Any:
    """With the noise as a tensor."""
    call: Call = ctx.call
    eps = torch.empty(loc.shape, dtype=loc.dtype, device=loc.device)
    call.backend.torch_random().normal(call.draw, eps)
    constants = call.low, call.high, 0.0, 1.0, -math.inf
    spec = Spec((), "gaussian", call.kind, 0, constants, 0, True, call.reduction)
    found = gradients_of(
        call.backend, (grad_z, grad_kl), inputs_of((loc, scale), None, eps), spec,
        (*ctx.needs_input_grad[:2], False, False, False),
    )  # fmt: skip
    return *found[:2], None
