"""The short way through a draw: contiguous parameters of one shape, in plain eager mode.

A small draw costs calls, not arithmetic. ``draw`` does what is left of one where nothing has to be
promoted, broadcast or laid out, and declines everything else, bad input included, to the general
way. So does the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import noise
from ..backends import select
from ..modes import eager
from . import draw_call, draw_spec
from .draw_spec import DrawSpec, Inputs
from .gaussian_call import compute_dtype
from .library import forward_ad_active, ordinary

_VALUE_DTYPES = {
    dtype: compute_dtype(dtype)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}


class Geometry(NamedTuple):
    """What depends on the shape and the options alone."""

    spec: DrawSpec
    samples: int  # at least 1
    z: torch.Size | None  # None: the parameters' shape
    value: torch.Size
    values: int


@functools.lru_cache(maxsize=4096)
def _geometry(
    shape: torch.Size,
    family: str,
    kind: int,
    prior_kind: int,
    numbers: tuple[float, ...],
    reduction: str | None,
    samples: int,
) -> Geometry | None:
    if not shape.numel():
        return None
    keep, weight = draw_spec.kept(shape, reduction)
    spec = DrawSpec([], family, kind, prior_kind, list(numbers), samples, True, keep, weight)
    z = draw_spec.stacked(samples, shape) if samples else None
    value = draw_spec.value_shape(shape, spec)
    return Geometry(spec, max(samples, 1), z, value, draw_spec.count(spec))


def draw(
    params: Sequence[Any],
    family: str,
    kind: int,
    prior_kind: int,
    numbers: tuple[float, ...],
    reduction: str | None,
    samples: int,
    key: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, ...] | None:
    """z and then the values, or None when the call has to go the general way.

    ``reduction`` is as ``draw_spec.kept`` takes it. A key has been checked, parameters have not.
    """
    loc = params[0]
    if not eager() or not ordinary(loc) or forward_ad_active():
        return None
    dtype, device, shape = loc.dtype, loc.device, loc.shape
    if dtype not in _VALUE_DTYPES or loc.layout is not torch.strided or not loc.is_contiguous():
        return None
    needs_grad = loc.requires_grad
    for p in params[1:]:
        if (
            not ordinary(p)
            or p.dtype is not dtype
            or p.shape != shape
            or p.layout is not torch.strided
            or p.device != device
            or not p.is_contiguous()
        ):
            return None
        needs_grad = needs_grad or p.requires_grad
    if key is not None and not (
        (key.device == device or key.is_cpu) and ordinary(key) and key.is_contiguous()
    ):
        return None
    geometry = _geometry(shape, family, kind, prior_kind, numbers, reduction, samples)
    if geometry is None:
        return None
    backend = select.pick(device)
    drawn: Tensor | noise.HostKey | noise.GraphKey | None = key
    if drawn is None:
        derives = getattr(backend, "DERIVES_KEYS", False)
        drawn = (noise.draw_for_kernel if derives else noise.draw_bits)(device, generator)
    if needs_grad and torch.is_grad_enabled():
        return _apply(backend, geometry, drawn, *params)  # type: ignore[no-any-return]
    return _forward(backend, geometry, drawn, params)


def _forward(
    backend: ModuleType,
    geometry: Geometry,
    key: Tensor | noise.HostKey | noise.GraphKey,
    params: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    spec, samples, of_z, of_value, count = geometry
    loc = params[0]
    z = torch.empty_like(loc) if of_z is None else loc.new_empty(of_z)
    values = [loc.new_empty(of_value, dtype=_VALUE_DTYPES[loc.dtype]) for _ in range(count)]
    backend.draw_forward(
        spec.family, spec.kind, spec.prior_kind, spec.numbers, params, key, None, samples,
        spec.weight, True, z, values,
    )  # fmt: skip
    return z, *values


class ShortDraw(torch.autograd.Function):
    """The short way with its gradient; saves the parameters and the key."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: ModuleType,
        geometry: Geometry,
        key: Tensor | noise.HostKey | noise.GraphKey,
        *params: Tensor,
    ) -> tuple[Tensor, ...]:
        if type(key) is noise.HostKey:
            bits: Any = key.bits()
        else:
            bits = key.bits if type(key) is noise.GraphKey else key
        ctx.save_for_backward(bits, *params)
        ctx.set_materialize_grads(False)
        ctx.call = backend, geometry, params[0].dtype
        return _forward(backend, geometry, key, params)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, *grad_values: Tensor | None) -> Any:
        key, *params = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        backend, geometry, dtype = ctx.call
        if grad_z is None and all(g is None for g in grad_values):
            return (None,) * len(ctx.needs_input_grad)
        if (
            torch.is_grad_enabled()
            or not eager()
            or not key.is_contiguous()
            # A hook on saved tensors may have changed them.
            or not all(p.dtype is dtype and p.is_contiguous() for p in params)
            or not (grad_z is None or (ordinary(grad_z) and grad_z.is_contiguous()))
            or not all(g is None or ordinary(g) for g in grad_values)
        ):
            # Unpacked once: a checkpoint allows no more.
            return _general_backward(ctx, params, key, grad_z, grad_values)
        spec = geometry.spec
        grads = [torch.empty_like(p) if n else None for p, n in zip(params, needs, strict=True)]
        backend.draw_backward(
            spec.family, spec.kind, spec.prior_kind, spec.numbers, grad_z,
            [g if g is None else g.contiguous() for g in grad_values],
            params, key, None, geometry.samples, spec.weight, True, grads,
        )  # fmt: skip
        return None, None, None, *grads


def _general_backward(
    ctx: Any,
    params: Sequence[Tensor],
    key: Tensor,
    grad_z: Tensor | None,
    grad_values: Sequence[Tensor | None],
) -> Any:
    from .draw import draw_backward

    backend, geometry, dtype = ctx.call
    *grads, _ = draw_backward(
        functools.partial(draw_call.backward, backend),
        grad_z,
        grad_values,
        Inputs(tuple(p.to(dtype) for p in params), key, None),
        geometry.spec,
        (*ctx.needs_input_grad[3:], False),
    )
    return None, None, None, *grads


# Function.apply in Python looks for functorch and for default arguments, neither of which is here;
# the C++ apply behind it saves 8 us of a forward pass of 35.
_apply = super(torch.autograd.Function, ShortDraw).apply
