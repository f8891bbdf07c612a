"""The short way through the Gaussian latent: contiguous operands or rows, in plain eager mode.

A small latent costs calls, not arithmetic. Where z is wanted of two tensors of one shape (or of
moments), with a summed KL or without, nothing has to be promoted or broadcast, and where things
lie in memory is known from the last call with such operands. ``latent`` then does what is left, and
declines everything else, bad input included, to the general way. So does the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import noise
from ..backends import select
from ..backends.reference import SCALE_KINDS
from ..modes import eager
from . import gaussian_call, gaussian_host
from .gaussian_call import Inputs, Spec
from .gaussian_plan import Call, Geometry, geometry_of
from .library import at_hand, forward_ad_active, ordinary
from .operands import save, saved

_KL_DTYPE = {
    dtype: gaussian_call.compute_dtype(dtype)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}


def latent(
    loc: Tensor,
    scale: Tensor | float | None,
    dim: int,
    kind: int,
    bounds: tuple[float, float],
    reduction: str | None,
    key: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor | None] | None:
    """z and the KL, or None when the call has to go the general way."""
    found = gaussian_host.latent(loc, scale, dim, kind, bounds, reduction, True, key, generator)
    if found is not None:
        return found
    if not eager() or forward_ad_active():
        return None
    geometry = _located(loc, scale, dim, reduction)
    if geometry is None or not (key is None or at_hand(key, loc)):
        return None
    device = loc.device
    backend = select.pick(device)
    drawn: Tensor | noise.HostKey | noise.GraphKey | None = key
    if drawn is None:
        drawn = noise.draw_for(backend, device, generator)
    weight = gaussian_call.kl_weight(geometry.shape, reduction)
    call = Call(backend, kind, *bounds, weight, reduction, dim, geometry)
    if torch.is_grad_enabled() and (
        loc.requires_grad or (scale is not None and scale.requires_grad)  # type: ignore[union-attr]
    ):
        return _apply(loc, scale, drawn, call)
    return _forward(loc, scale, drawn, call)


def _located(
    loc: Tensor, scale: Tensor | float | None, dim: int, reduction: str | None
) -> Geometry | None:
    if (
        not ordinary(loc)
        or loc.dtype not in _KL_DTYPE
        or (reduction is not None and reduction not in gaussian_call.SUMMED)
    ):
        return None
    if scale is None:
        return geometry_of(loc.shape, loc.stride(), None, None, dim)
    if (
        not ordinary(scale)
        or scale.dtype is not loc.dtype  # type: ignore[union-attr]
        or scale.device != loc.device  # type: ignore[union-attr]
    ):
        return None
    return geometry_of(loc.shape, loc.stride(), scale.shape, scale.stride(), dim)  # type: ignore[union-attr]


def _operands(loc: Tensor, scale: Any, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Location and scale as a backend takes them."""
    if geometry.dense and scale is not None:
        return loc, scale
    mu = loc.as_strided(geometry.size, geometry.loc)
    if scale is not None:
        return mu, scale.as_strided(geometry.size, geometry.scale)
    shift = loc.storage_offset() + geometry.shift
    return mu, loc.as_strided(geometry.size, geometry.scale, shift)


def _forward(
    loc: Tensor, scale: Any, key: Tensor | noise.HostKey | noise.GraphKey, call: Call
) -> tuple[Tensor, Tensor | None]:
    backend, kind, low, high, weight, reduction, _, geometry, _ = call
    mu, x = _operands(loc, scale, geometry)
    z = _new(loc, scale, geometry)
    kl = None if reduction is None else loc.new_empty((), dtype=_KL_DTYPE[loc.dtype])
    rows = z if geometry.dense else z.view(geometry.size)
    backend.gaussian_forward(mu, x, key, None, kind, low, high, weight, geometry.dense, rows, kl)
    return z, kl


def _new(loc: Tensor, scale: Any, geometry: Geometry) -> Tensor:
    """An uninitialised contiguous tensor of z's shape; empty_like takes half of empty's time."""
    if geometry.dense and scale is not None:
        return torch.empty_like(loc)
    return torch.empty(geometry.shape, dtype=loc.dtype, device=loc.device)


def _backward(
    grad_z: Tensor,
    grad_kl: Tensor | None,
    loc: Tensor,
    scale: Tensor | None,
    key: Tensor,
    call: Call,
) -> tuple[Tensor, Tensor | None]:
    """The gradients of loc (or moments) and scale."""
    backend, kind, low, high, weight, _, _, geometry, _ = call
    mu, x = _operands(loc, scale, geometry)
    to_scale = None
    grads: tuple[Tensor | None, ...]
    if scale is None:
        to_loc = torch.empty_like(loc)
        grads = _operands(to_loc, None, geometry)
    elif grad_kl is None:
        # z is loc + sigma eps: nothing is to be computed of loc's gradient, nor written.
        to_loc, to_scale = grad_z, _new(loc, scale, geometry)
        grads = None, to_scale
    else:
        to_loc, to_scale = _new(loc, scale, geometry), _new(loc, scale, geometry)
        grads = to_loc, to_scale
    if not geometry.dense:
        grad_z = grad_z.view(geometry.size)
        if to_scale is not None:
            grads = tuple(g if g is None else g.view(geometry.size) for g in grads)
    backend.gaussian_backward(
        grad_z, grad_kl, mu, x, key, None, kind, low, high, weight, geometry.dense, *grads
    )
    return to_loc, to_scale


class ShortLatent(torch.autograd.Function):
    """The short way with its gradient; saves the inputs and the key."""

    @staticmethod
    def forward(
        ctx: Any,
        loc: Tensor,
        scale: Tensor | None,
        key: Tensor | noise.HostKey | noise.GraphKey,
        call: Call,
    ) -> tuple[Tensor, Tensor | None]:
        if type(key) is noise.HostKey:
            bits: Any = key.bits()
        else:
            bits = key.bits if type(key) is noise.GraphKey else key
        save(ctx, loc, scale, bits)
        ctx.set_materialize_grads(False)
        ctx.call, ctx.dtype = call, loc.dtype
        return _forward(loc, scale, key, call)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> Any:
        loc, scale, key = saved(ctx, grad_z, grad_kl)
        need_loc, need_scale, _, _ = ctx.needs_input_grad
        geometry = ctx.call.geometry
        if (
            torch.is_grad_enabled()
            or not eager()
            or not (need_loc and (need_scale or scale is None))
            or grad_z is None
            or not ordinary(grad_z)
            or not grad_z.is_contiguous()
            or not (grad_kl is None or ordinary(grad_kl))
            # A hook on saved tensors may have changed them.
            or (loc.stride(), None if scale is None else scale.stride()) != geometry.strides
            or not (loc.dtype is grad_z.dtype and (scale is None or scale.dtype is grad_z.dtype))
            or not key.is_contiguous()
        ):
            # Unpacked once: a checkpoint allows no more.
            inputs = [t.to(ctx.dtype) for t in (loc, scale) if t is not None]
            needs = ctx.needs_input_grad[:2]
            found = ctx.call.general_backward(
                ctx.call.backend, needs, (grad_z, grad_kl), key, inputs
            )
            return *found, *(None,) * (4 - len(found))
        return *_backward(grad_z, grad_kl, loc, scale, key, ctx.call), None, None


# The ops themselves take it too: a compiled model calls them.


def op_forward(inputs: Inputs, spec: Spec) -> tuple[Tensor, Tensor] | None:
    """The op's result, or None when it has to go the general way."""
    call = _call_of_op(inputs, spec)
    if call is None:
        return None
    z, kl = _forward(inputs.loc, inputs.scale, inputs.key, call)  # type: ignore[arg-type]
    if kl is None:
        kl = inputs.loc.new_empty(0, dtype=_KL_DTYPE[inputs.loc.dtype])
    return z, kl


def op_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    inputs: Inputs,
    spec: Spec,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The backward op's result, or None as above."""
    loc, scale, key, _ = inputs
    # An op's result is never one of its operands, as loc's gradient without a KL would be.
    if grad_z is None or grad_kl is None or not (needs[0] and (needs[1] or scale is None)):
        return None
    call = _call_of_op(inputs, spec)
    if (
        call is None
        or call.reduction is None
        or (grad_z.shape, grad_z.dtype) != (call.geometry.shape, loc.dtype)
        or (grad_kl.shape, grad_kl.dtype) != ((), _KL_DTYPE[loc.dtype])
        or not (loc.device == grad_z.device == grad_kl.device)
        or not grad_z.is_contiguous()
        or not (ordinary(grad_z) and ordinary(grad_kl))
    ):
        return None
    to_loc, to_scale = _backward(grad_z, grad_kl, loc, scale, key, call)  # type: ignore[arg-type]
    none = loc.new_empty(0)
    return to_loc, none if to_scale is None else to_scale, loc.new_empty(0)


def _call_of_op(inputs: Inputs, spec: Spec) -> Call | None:
    loc, scale, key, eps = inputs
    order, kind, low, high, reduction, sample, dim = spec
    if order or not sample or eps is not None or not 0 <= kind < len(SCALE_KINDS):
        return None
    if key is None or key.shape != (2,) or key.dtype not in (torch.uint64, torch.int64):
        return None
    geometry = _located(loc, scale, dim, reduction)
    if geometry is None or not at_hand(key, loc):
        return None
    weight = gaussian_call.kl_weight(geometry.shape, reduction)
    return Call(select.pick(loc.device), kind, low, high, weight, reduction, dim, geometry)


# Function.apply in Python looks for functorch and for default arguments, neither of which is here;
# the C++ apply behind it saves 8 us of a forward pass of 35.
_apply = super(torch.autograd.Function, ShortLatent).apply
