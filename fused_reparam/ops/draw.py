"""``fused_reparam::draw`` and its backward, for every element-wise family.

Schemas, fake kernels and autograd. The ways from a call to a backend are those of ``gaussian.py``:
the Function straight to a backend in plain eager mode, through the op's own dispatch under a
compiler or a mode, in functorch's form under its transforms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backends import native_host, select
from ..modes import exporting
from . import draw_call, draw_formula, draw_short, draw_spec
from .draw_check import check
from .draw_spec import DrawSpec, Gradients, Inputs, count, shape_of
from .gaussian_call import unbroadcast
from .layout import empty_ordered
from .library import (
    LIB,
    all_plain,
    below_autograd,
    define,
    functorch_active,
    needs_grad,
    plain,
)
from .operands import check_needs, save, saved

__all__ = ["DrawSpec", "draw"]

_PARAMS, _VALUES = 4, 2  # the most that a family has
_INPUTS = "Tensor p0, Tensor? p1, Tensor? p2, Tensor? p3, Tensor? key, Tensor? eps"
_SPEC = (
    "int[] order, str family, int kind, int prior_kind, float[] numbers, int samples, "
    "bool sample, int keep, float weight"
)
# What a family does not have is None, or a tensor without elements in a result.
define(f"draw({_INPUTS}, {_SPEC}) -> (Tensor, Tensor, Tensor)")
define(
    f"draw_backward(Tensor? grad_z, Tensor? grad0, Tensor? grad1, {_INPUTS}, {_SPEC}, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
Forward = Callable[[Inputs, DrawSpec], tuple[Tensor, ...]]
Backward = Callable[
    [Tensor | None, Sequence[Tensor | None], Inputs, DrawSpec, Sequence[bool]], Gradients
]


def draw(
    params: Sequence[Tensor], key: Tensor | None, eps: Tensor | None, spec: DrawSpec
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z and the values, differentiable; an unwanted z has no elements.

    Parameters are of one dtype and device and broadcast against each other; eps has z's shape. A
    value has shape ``((samples,) if sampled and samples > 0) + shape[:keep]``.
    """
    inputs = Inputs(tuple(params), key, eps)
    if key is None and exporting():
        # Nothing is to be drawn: an exported model needs no op of this package.
        z, *values = draw_formula.evaluate(inputs.params, eps, spec)
    elif functorch_active():
        z, *values = _apply(Draw, _redispatch_forward, _redispatch_backward, spec, *_flat(inputs))
    elif not all(t is None or plain(t) for t in _flat(inputs)):
        z, *values = _through_op(inputs, spec)
    else:
        backend = select.pick(params[0].device)
        compute = partial(draw_call.forward, backend)
        if needs_grad(*_flat(inputs)):
            back = partial(draw_call.backward, backend)
            z, *values = Draw.apply(compute, back, spec, *_flat(inputs))
        else:
            z, *values = compute(inputs, spec)
    return z, tuple(values)


def _through_op(inputs: Inputs, spec: DrawSpec) -> list[Tensor]:
    # A compiler would compile anew for each weight, that is for each batch size of a mean.
    outside = torch.compiler.is_compiling()
    inside = spec._replace(weight=1.0) if outside else spec
    z, *values = torch.ops.fused_reparam.draw(*_padded(inputs), *inside)[: 1 + count(spec)]
    return [z, *(spec.weight * v if outside else v for v in values)]


def draw_backward(
    compute: Backward,
    grad_z: Tensor | None,
    grad_values: Sequence[Tensor | None],
    inputs: Inputs,
    spec: DrawSpec,
    needs: Sequence[bool],
) -> Gradients:
    """The gradients that are needed of the parameters and eps; differentiable when asked to be."""
    if needs[0] and draw_spec.passes(spec, grad_z, grad_values):
        needs = (False, *needs[1:])
        grads = draw_backward(compute, grad_z, grad_values, inputs, spec, needs)
        return unbroadcast(grad_z, inputs.params[0]), *grads[1:]
    if not any(needs):
        return (None,) * len(needs)
    tensors = (grad_z, *grad_values, *_flat(inputs))
    if not all(t is None or plain(t) for t in tensors):
        compute = _redispatch_backward
    if needs_grad(*tensors):
        return _apply(DrawBackward, compute, spec, needs, *tensors)  # type: ignore[no-any-return]
    return compute(grad_z, grad_values, inputs, spec, needs)


def _flat(inputs: Inputs) -> tuple[Tensor | None, ...]:
    return *inputs.params, inputs.key, inputs.eps


def _inputs(tensors: Sequence[Any]) -> Inputs:
    *params, key, eps = tensors
    return Inputs(tuple(params), key, eps)


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    return (_TRANSFORMABLE[function] if functorch_active() else function).apply(*args)


class Draw(torch.autograd.Function):
    """Saves the parameters, the key and eps, nothing else of the sample's size."""

    @staticmethod
    def forward(
        ctx: Any, forward: Forward, backward: Backward, spec: DrawSpec, *tensors: Any
    ) -> tuple[Tensor, ...]:
        Draw.setup(ctx, backward, spec, tensors)
        return forward(_inputs(tensors), spec)

    @staticmethod
    def setup(ctx: Any, backward: Backward, spec: DrawSpec, tensors: Sequence[Any]) -> None:
        save(ctx, *tensors)
        ctx.set_materialize_grads(False)
        ctx.backward_of, ctx.spec, ctx.dtype = backward, spec, tensors[0].dtype

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, *grad_values: Tensor | None) -> Any:
        *params, key, eps = saved(ctx, grad_z, *grad_values)
        grad_z = grad_z if ctx.spec.sample else None
        if grad_z is None and all(g is None for g in grad_values):
            return (None,) * len(ctx.needs_input_grad)
        *to_params, _, to_eps = ctx.needs_input_grad[3:]
        # A hook on saved tensors may have changed their dtype.
        typed = tuple(p.to(ctx.dtype) for p in params)
        inputs = Inputs(typed, key, eps if eps is None else eps.to(ctx.dtype))
        *grads, grad_eps = draw_backward(
            ctx.backward_of,
            grad_z,
            grad_values,
            inputs,
            ctx.spec,
            (*to_params, to_eps),
        )
        return None, None, None, *grads, None, grad_eps


class DrawBackward(torch.autograd.Function):
    """The backward pass as a function of its own, so that it has a gradient too."""

    @staticmethod
    def forward(
        ctx: Any, backward: Backward, spec: DrawSpec, needs: Sequence[bool], *tensors: Any
    ) -> Gradients:
        DrawBackward.setup(ctx, spec, needs, tensors)
        return _call_backward(backward, spec, needs, tensors)

    @staticmethod
    def setup(ctx: Any, spec: DrawSpec, needs: Sequence[bool], tensors: Sequence[Any]) -> None:
        save(ctx, *tensors)
        ctx.set_materialize_grads(False)
        ctx.spec, ctx.needs = spec, needs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        grads, inputs = _split(saved(ctx, *cotangents), ctx.spec)
        wanted = [c if n else None for c, n in zip(cotangents, ctx.needs, strict=True)]
        *found, to_eps = draw_formula.double_backward(wanted, grads, inputs, ctx.spec)
        of_inputs = (*found, None, to_eps)  # none of the key
        needed = ctx.needs_input_grad[3:]
        return None, None, None, *(g if n else None for g, n in zip(of_inputs, needed, strict=True))


def _split(tensors: Sequence[Any], spec: DrawSpec) -> tuple[Sequence[Tensor | None], Inputs]:
    """The gradients of z and the values, and the inputs, of a backward pass's tensors."""
    grads = 1 + count(spec)
    return tensors[:grads], _inputs(tensors[grads:])


def _call_backward(
    backward: Backward, spec: DrawSpec, needs: Sequence[bool], tensors: Sequence[Any]
) -> Gradients:
    (grad_z, *grad_values), inputs = _split(tensors, spec)
    return backward(grad_z, grad_values, inputs, spec, needs)


class _TransformableDraw(Draw):
    """For vmap, torch.func.grad and their compositions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(forward: Forward, _: Backward, spec: DrawSpec, *tensors: Any) -> Any:  # type: ignore[override]
        return forward(_inputs(tensors), spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, backward, spec, *tensors = inputs
        Draw.setup(ctx, backward, spec, tensors)


class _TransformableBackward(DrawBackward):
    generate_vmap_rule = True

    @staticmethod
    def forward(backward: Backward, spec: DrawSpec, needs: Sequence[bool], *tensors: Any) -> Any:  # type: ignore[override]
        return _call_backward(backward, spec, needs, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, spec, needs, *tensors = inputs
        DrawBackward.setup(ctx, spec, needs, tensors)


_TRANSFORMABLE: dict[type[torch.autograd.Function], type[torch.autograd.Function]] = {
    Draw: _TransformableDraw,
    DrawBackward: _TransformableBackward,
}

# The ops. Below autograd they compute; their Autograd kernels apply the Functions around a second
# call of the op, so that a compiler, vmap or a mode sees the op itself.


def _padded(inputs: Inputs) -> tuple[Tensor | None, ...]:
    """The inputs as the op takes them."""
    params, key, eps = inputs
    return *params, *(None,) * (_PARAMS - len(params)), key, eps


def unpadded(args: Sequence[Any]) -> tuple[Inputs, DrawSpec]:
    """The inputs and the spec of the op's arguments."""
    params = tuple(p for p in args[:_PARAMS] if p is not None)
    if not params or any(p is None for p in args[: len(params)]):
        raise ValueError(
            "torch.ops.fused_reparam.draw: the parameters must be the first of p0 to p3, got None "
            "before one of them"
        )
    return Inputs(params, *args[_PARAMS : _PARAMS + 2]), DrawSpec(*args[_PARAMS + 2 :])


def unpadded_backward(
    args: Sequence[Any],
) -> tuple[Sequence[Tensor | None], Inputs, DrawSpec, list[bool]]:
    """The gradients, inputs, spec and needs (of the parameters and eps) of the backward op's."""
    inputs, spec = unpadded(args[1 + _VALUES : -1])
    check_needs("torch.ops.fused_reparam.draw_backward", args[-1], _PARAMS + 1, inputs.eps)
    needs = [*args[-1][: len(inputs.params)], args[-1][_PARAMS]]
    return args[: 1 + _VALUES], inputs, spec, needs


def results(found: Sequence[Tensor | None], like: Tensor, size: int) -> tuple[Tensor, ...]:
    """As many tensors as an op returns: what is missing has no elements."""
    found = (*found, *(None,) * (size - len(found)))
    return tuple(like.new_empty(0) if t is None else t for t in found)


def _grads(found: Gradients, like: Tensor) -> tuple[Tensor, ...]:
    *of_params, of_eps = found
    return *results(of_params, like, _PARAMS), *results([of_eps], like, 1)


def _forward_op(*args: Any) -> tuple[Tensor, ...]:
    inputs, spec = unpadded(args)
    check(inputs, spec)
    like = inputs.params[0]
    found = draw_short.op_forward(inputs, spec)
    if found is None:
        found = draw_call.forward(select.pick(like.device), inputs, spec)
    return results(found, like, 1 + _VALUES)


def _backward_op(*args: Any) -> tuple[Tensor, ...]:
    grads, inputs, spec, needs = unpadded_backward(args)
    check(inputs, spec, grads[0], grads[1:])
    like = inputs.params[0]
    of_values = grads[1 : 1 + count(spec)]
    short = draw_short.op_backward(grads[0], of_values, inputs, spec, needs)
    if short is not None:
        return _grads((*short, None), like)
    found = draw_call.backward(select.pick(like.device), grads[0], of_values, inputs, spec, needs)
    return _grads(found, like)


def _forward_fake(*args: Any) -> tuple[Tensor, ...]:
    inputs, spec = unpadded(args)
    check(inputs, spec)
    like = inputs.params[0]
    z, values = draw_call.allocate(like, shape_of(inputs.params), spec)
    return results((z, *values), like, 1 + _VALUES)


def _backward_fake(*args: Any) -> tuple[Tensor, ...]:
    grads, inputs, spec, needs = unpadded_backward(args)
    check(inputs, spec, grads[0], grads[1:])
    params, _, eps = inputs
    shape = shape_of(params)
    found = [
        None if not needed
        else empty_ordered(shape, spec.order, p.dtype, p.device) if p.shape == shape
        else p.new_empty(p.shape)
        for p, needed in zip(params, needs[:-1], strict=True)
    ]  # fmt: skip
    of_eps = torch.empty_like(eps) if needs[-1] and eps is not None else None
    return _grads((*found, of_eps), params[0])


def _redispatch_forward(inputs: Inputs, spec: DrawSpec) -> tuple[Tensor, ...]:
    op = torch.ops.fused_reparam.draw.default
    return below_autograd(op, *_padded(inputs), *spec)[: 1 + count(spec)]  # type: ignore[no-any-return]


def _redispatch_backward(
    grad_z: Tensor | None,
    grad_values: Sequence[Tensor | None],
    inputs: Inputs,
    spec: DrawSpec,
    needs: Sequence[bool],
) -> Gradients:
    op = torch.ops.fused_reparam.draw_backward.default
    absent = _PARAMS - len(inputs.params)
    *of_params, of_eps = below_autograd(
        op, grad_z, *grad_values, *(None,) * (_VALUES - len(grad_values)), *_padded(inputs), *spec,
        [*needs[:-1], *(False,) * absent, needs[-1]],
    )  # fmt: skip
    found = *of_params[: len(inputs.params)], of_eps
    return tuple(g if n else None for g, n in zip(found, needs, strict=True))


def _forward_autograd(*args: Any) -> tuple[Tensor, ...]:
    inputs, spec = unpadded(args)
    tensors = _flat(inputs)
    if not needs_grad(*tensors):
        if all_plain(*tensors):
            return _forward_op(*args)
        found = _redispatch_forward(inputs, spec)
    else:
        found = _apply(Draw, _redispatch_forward, _redispatch_backward, spec, *tensors)
    return results(found, inputs.params[0], 1 + _VALUES)


def _backward_autograd(*args: Any) -> tuple[Tensor, ...]:
    grads, inputs, spec, needs = unpadded_backward(args)
    tensors = (*grads, *_flat(inputs))
    if all_plain(*tensors) and not needs_grad(*tensors):
        return _backward_op(*args)
    check(inputs, spec, grads[0], grads[1:])
    of_values = grads[1 : 1 + count(spec)]
    found = draw_backward(_redispatch_backward, grads[0], of_values, inputs, spec, needs)
    return _grads(found, inputs.params[0])


for _name, _kernel, _fake, _autograd in (
    ("draw", _forward_op, _forward_fake, _forward_autograd),
    ("draw_backward", _backward_op, _backward_fake, _backward_autograd),
):
    LIB.impl(_name, _kernel, "CompositeExplicitAutograd")
    LIB.impl(_name, _autograd, "Autograd")
    native_host.serve(_name, _autograd, draw_short.plan_of_op)
    torch.library.register_fake(f"fused_reparam::{_name}", _fake, lib=LIB)
