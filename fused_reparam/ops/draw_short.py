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
from ..backends import native_host, select
from ..modes import eager
from . import draw_call, draw_spec
from .draw_check import check
from .draw_spec import DrawSpec, Inputs
from .gaussian_call import compute_dtype
from .library import at_hand, forward_ad_active, ordinary, strided
from .operands import check_size, save, saved

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
    plan: bytes
    """All of it, for the native backend's host path."""

    def general_backward(
        self,
        backend: ModuleType,
        needs: Sequence[bool],
        grads: Sequence[Tensor | None],
        key: Tensor,
        params: Sequence[Tensor],
    ) -> tuple[Tensor | None, ...]:
        """The backward pass where it is not of the usual kind."""
        from .draw import draw_backward

        inputs = Inputs(tuple(params), key, None)
        compute = functools.partial(draw_call.backward, backend)
        return draw_backward(compute, grads[0], grads[1:], inputs, self.spec, (*needs, False))[:-1]


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
    keep, weight = draw_spec.kept(shape, reduction)
    spec = DrawSpec([], family, kind, prior_kind, list(numbers), samples, True, keep, weight)
    return _geometry_of(shape, spec) if shape.numel() else None


def _geometry_of(shape: torch.Size, spec: DrawSpec) -> Geometry:
    samples, member = spec.samples, draw_spec.member(spec)
    check_size(shape, samples)
    z = draw_spec.stacked(samples, shape) if samples else None
    value, count = draw_spec.value_shape(shape, spec), draw_spec.count(spec)
    plan = select.load("native").host_plan(
        shape.numel(), samples, spec.keep, count, value.numel() if count else 0, member.sampled,
        member.linear, spec.family, spec.kind, spec.prior_kind, spec.numbers, spec.weight,
    )  # fmt: skip
    return Geometry(spec, max(samples, 1), z, value, count, plan)


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
    host = None if torch.compiler.is_compiling() else native_host.module
    if host is not None and strided(loc) and loc.is_cpu:
        geometry = _geometry(loc.shape, family, kind, prior_kind, numbers, reduction, samples)
        if geometry is not None:
            found = host.draw(tuple(params), geometry, geometry.plan, key, generator)
            if found is not None:
                return found  # type: ignore[no-any-return]
    if not eager() or forward_ad_active() or not _alike(params):
        return None
    if key is not None and not at_hand(key, loc):
        return None
    geometry = _geometry(loc.shape, family, kind, prior_kind, numbers, reduction, samples)
    if geometry is None:
        return None
    device = loc.device
    backend = select.pick(device)
    drawn: Tensor | noise.HostKey | noise.GraphKey | None = key
    if drawn is None:
        drawn = noise.draw_for(backend, device, generator)
    if torch.is_grad_enabled():
        for p in params:
            if p.requires_grad:
                return _apply(backend, geometry, drawn, *params)  # type: ignore[no-any-return]
    return _forward(backend, geometry, drawn, params)


def _alike(params: Sequence[Any]) -> bool:
    """Whether parameters are contiguous tensors of one shape, dtype and device."""
    loc = params[0]
    if not ordinary(loc) or loc.dtype not in _VALUE_DTYPES:
        return False
    dtype, device, shape = loc.dtype, loc.device, loc.shape
    for p in params:
        if (
            (p is not loc and (not ordinary(p) or p.dtype is not dtype or p.device != device))
            or p.shape != shape
            or not p.is_contiguous()
        ):
            return False
    return True


def _forward(
    backend: ModuleType,
    geometry: Geometry,
    key: Tensor | noise.HostKey | noise.GraphKey,
    params: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    spec, samples, of_z, of_value, count, _ = geometry
    loc = params[0]
    z = torch.empty_like(loc) if of_z is None else loc.new_empty(of_z)
    values = [loc.new_empty(of_value, dtype=_VALUE_DTYPES[loc.dtype]) for _ in range(count)]
    backend.draw_forward(
        spec.family, spec.kind, spec.prior_kind, spec.numbers, params, key, None, samples,
        spec.weight, True, z, values,
    )  # fmt: skip
    return z, *values


def _backward(
    backend: ModuleType,
    geometry: Geometry,
    key: Tensor,
    params: Sequence[Tensor],
    grad_z: Tensor | None,
    grad_values: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    spec = geometry.spec
    grads = [torch.empty_like(p) if n else None for p, n in zip(params, needs)]  # noqa: B905
    if any(needs):
        backend.draw_backward(
            spec.family, spec.kind, spec.prior_kind, spec.numbers, grad_z,
            [g if g is None else g.contiguous() for g in grad_values],
            params, key, None, geometry.samples, spec.weight, True, grads,
        )  # fmt: skip
    return grads


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
        save(ctx, bits, *params)
        ctx.set_materialize_grads(False)
        ctx.call = backend, geometry, params[0].dtype
        return _forward(backend, geometry, key, params)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, *grad_values: Tensor | None) -> Any:
        key, *params = saved(ctx, grad_z, *grad_values)
        backend, geometry, dtype = ctx.call
        wanted = False
        # A hook on saved tensors may have changed them.
        short = not torch.is_grad_enabled() and eager() and key.is_contiguous()
        for grad in (grad_z, *grad_values):
            if grad is not None:
                wanted = True
                short = short and ordinary(grad)
        if grad_z is not None:
            short = short and grad_z.is_contiguous()
        for p in params:
            short = short and p.dtype is dtype and p.is_contiguous()
        if not wanted:
            return (None,) * len(ctx.needs_input_grad)
        if not short:
            # Unpacked once: a checkpoint allows no more.
            typed = [p.to(dtype) for p in params]
            of_outputs = (grad_z, *grad_values)
            return (
                None,
                None,
                None,
                *geometry.general_backward(
                    backend, ctx.needs_input_grad[3:], of_outputs, key, typed
                ),
            )
        spec, needs, to_loc = geometry.spec, ctx.needs_input_grad[3:], None
        if needs[0] and draw_spec.passes(spec, grad_z, grad_values):
            to_loc = grad_z
            needs = (False, *needs[1:])
        grads = _backward(backend, geometry, key, params, grad_z, grad_values, needs)
        if to_loc is not None:
            grads[0] = to_loc
        return None, None, None, *grads


# The ops themselves take it too: a compiled model calls them.


def op_forward(inputs: Inputs, spec: DrawSpec) -> tuple[Tensor, ...] | None:
    """z and the values of an op that has been checked, or None when it goes the general way."""
    geometry = _geometry_of_op(inputs, spec)
    if geometry is None:
        return None
    params, key, _ = inputs
    return _forward(select.pick(params[0].device), geometry, key, params)  # type: ignore[arg-type]


def op_backward(
    grad_z: Tensor | None,
    grad_values: Sequence[Tensor | None],
    inputs: Inputs,
    spec: DrawSpec,
    needs: Sequence[bool],
) -> list[Tensor | None] | None:
    """The gradients of the parameters, or None as above."""
    for g in (grad_z, *grad_values):
        if g is not None and not ordinary(g):
            return None
    if grad_z is not None and not grad_z.is_contiguous():
        return None
    if grad_z is None and all(g is None for g in grad_values):
        return None
    geometry = _geometry_of_op(inputs, spec)
    if geometry is None or needs[-1]:
        return None
    params, key, _ = inputs
    backend = select.pick(params[0].device)
    return _backward(backend, geometry, key, params, grad_z, grad_values, needs[:-1])  # type: ignore[arg-type]


def plan_of_op(*args: Any) -> bytes | None:
    """The host path's plan of a checked op's arguments, or None."""
    from .draw import unpadded

    inputs, spec = unpadded(args)
    check(inputs, spec)
    # Of nothing but what the plan is kept for: the types of these very tensors are not.
    shape = inputs.params[0].shape
    return _geometry_of(shape, spec).plan if shape.numel() else None


def _geometry_of_op(inputs: Inputs, spec: DrawSpec) -> Geometry | None:
    params, key, eps = inputs
    if spec.order or not spec.sample or eps is not None or key is None:
        return None
    if not _alike(params) or not at_hand(key, params[0]) or not params[0].numel():
        return None
    return _geometry_of(params[0].shape, spec)


# Function.apply in Python looks for functorch and for default arguments, neither of which is here;
# the C++ apply behind it saves 8 us of a forward pass of 35.
_apply = super(torch.autograd.Function, ShortDraw).apply
