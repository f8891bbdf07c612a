"""``fused_reparam::gaussian_latent`` and its backward: schemas, fake kernels and autograd.

Three ways lead to one computation. In plain eager mode ``gaussian_latent`` applies the autograd
Function directly to a backend. Under a compiler or a dispatch mode it calls the op, whose Autograd
kernel applies the same Function around the op's own dispatch. Under a functorch transform it
applies the Function in the form that functorch takes, which costs more by call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backends import native_host, select
from ..modes import exporting
from . import draw_formula, gaussian_call, gaussian_host, gaussian_short
from .draw_spec import DrawSpec, kept
from .gaussian_call import Grads, Inputs, Spec
from .gaussian_check import check
from .gaussian_double_backward import double_backward
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

_INPUTS = "Tensor loc, Tensor? scale, Tensor? key, Tensor? eps"
_SPEC = "int[] order, int kind, float low, float high, str? reduction, bool sample, int dim"
define(f"gaussian_latent({_INPUTS}, {_SPEC}) -> (Tensor, Tensor)")
define(
    f"gaussian_latent_backward(Tensor? grad_z, Tensor? grad_kl, {_INPUTS}, {_SPEC}, bool[] needs)"
    " -> (Tensor, Tensor, Tensor)"
)
Forward = Callable[[Inputs, Spec], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor | None, Tensor | None, Inputs, Spec, Sequence[bool]], Grads]


def gaussian_latent(inputs: Inputs, spec: Spec) -> tuple[Tensor, Tensor]:
    """z and KL, differentiable; an output that the spec does not want has no elements."""
    if inputs.key is None and exporting():
        return _in_plain_operators(inputs, spec)
    if functorch_active():
        return _apply(GaussianLatent, _redispatch_forward, _redispatch_backward, spec, *inputs)
    if not all(t is None or plain(t) for t in inputs):
        return torch.ops.fused_reparam.gaussian_latent(*inputs, *spec)
    backend = select.pick(inputs.loc.device)
    if not needs_grad(*inputs):
        return gaussian_call.forward(backend, inputs, spec)
    return GaussianLatent.apply(
        partial(gaussian_call.forward, backend),
        partial(gaussian_call.backward, backend),
        spec,
        *inputs,
    )


def _in_plain_operators(inputs: Inputs, spec: Spec) -> tuple[Tensor, Tensor]:
    """Without a key there is nothing to draw: an exported model needs no op of this package."""
    params = gaussian_call.operands(inputs.loc, inputs.scale, spec.dim)
    keep, weight = kept(params[0].shape, spec.reduction)
    numbers = [spec.low, spec.high, 0.0, 1.0, -torch.inf]
    same = DrawSpec([], "gaussian", spec.kind, 0, numbers, 0, spec.sample, keep, weight)
    z, *values = draw_formula.evaluate(params, inputs.eps, same)
    return z, values[0] if values else inputs.loc.new_empty(0)


def latent_backward(
    compute: Backward,
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    inputs: Inputs,
    spec: Spec,
    needs: Sequence[bool],
) -> Grads:
    """The gradients that are needed of loc, scale and eps; differentiable when asked to be."""
    if grad_z is None and grad_kl is None:
        return None, None, None
    if grad_kl is None and needs[0] and inputs.scale is not None:
        # z is loc + sigma eps: nothing is to be computed of loc's gradient, nor written.
        grads = latent_backward(compute, grad_z, None, inputs, spec, (False, *needs[1:]))
        return gaussian_call.unbroadcast(grad_z, inputs.loc), *grads[1:]
    if not any(needs):
        return None, None, None
    if not all(t is None or plain(t) for t in (grad_z, grad_kl, *inputs)):
        compute = _redispatch_backward
    if needs_grad(grad_z, grad_kl, *inputs):
        return _apply(GaussianLatentBackward, compute, spec, needs, grad_z, grad_kl, *inputs)
    return compute(grad_z, grad_kl, inputs, spec, needs)


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    return (_TRANSFORMABLE[function] if functorch_active() else function).apply(*args)


class GaussianLatent(torch.autograd.Function):
    """Saves the inputs and the key, nothing of the latent's size."""

    @staticmethod
    def forward(
        ctx: Any, forward: Forward, backward: Backward, spec: Spec, *inputs: Any
    ) -> tuple[Tensor, Tensor]:
        GaussianLatent.setup(ctx, backward, spec, inputs)
        return forward(Inputs(*inputs), spec)

    @staticmethod
    def setup(ctx: Any, backward: Backward, spec: Spec, inputs: Sequence[Any]) -> None:
        save(ctx, *inputs)
        ctx.set_materialize_grads(False)
        ctx.backward_of, ctx.spec, ctx.dtype = backward, spec, inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> Any:
        loc, scale, key, eps = saved(ctx)
        _, _, _, *(to_loc, to_scale, _, to_eps) = ctx.needs_input_grad
        # A hook on saved tensors may have changed their dtype.
        scale, eps = (t if t is None else t.to(ctx.dtype) for t in (scale, eps))
        inputs, needs = Inputs(loc.to(ctx.dtype), scale, key, eps), (to_loc, to_scale, to_eps)
        grad_z = grad_z if ctx.spec.sample else None
        grad_kl = grad_kl if ctx.spec.reduction is not None else None
        grads = latent_backward(ctx.backward_of, grad_z, grad_kl, inputs, ctx.spec, needs)
        return None, None, None, grads[0], grads[1], None, grads[2]


class GaussianLatentBackward(torch.autograd.Function):
    """The backward pass as a function of its own, so that it has a gradient too."""

    @staticmethod
    def forward(
        ctx: Any, backward: Backward, spec: Spec, needs: Sequence[bool], *tensors: Any
    ) -> Grads:
        GaussianLatentBackward.setup(ctx, spec, needs, tensors)
        grad_z, grad_kl, *inputs = tensors
        return backward(grad_z, grad_kl, Inputs(*inputs), spec, needs)

    @staticmethod
    def setup(ctx: Any, spec: Spec, needs: Sequence[bool], tensors: Sequence[Any]) -> None:
        save(ctx, *tensors)
        ctx.set_materialize_grads(False)
        ctx.spec, ctx.needs = spec, needs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        grad_z, grad_kl, *inputs = saved(ctx)
        wanted = [c if n else None for c, n in zip(cotangents, ctx.needs, strict=True)]
        grads = double_backward(wanted, grad_z, grad_kl, Inputs(*inputs), ctx.spec)
        return (
            None,
            None,
            None,
            *(
                g if needed else None
                for g, needed in zip(grads, ctx.needs_input_grad[3:], strict=True)
            ),
        )


class _TransformableLatent(GaussianLatent):
    """For vmap, torch.func.grad and their compositions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(forward: Forward, _: Backward, spec: Spec, *inputs: Any) -> Any:  # type: ignore[override]
        return forward(Inputs(*inputs), spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, backward, spec, *tensors = inputs
        GaussianLatent.setup(ctx, backward, spec, tensors)


class _TransformableBackward(GaussianLatentBackward):
    generate_vmap_rule = True

    @staticmethod
    def forward(backward: Backward, spec: Spec, needs: Sequence[bool], *tensors: Any) -> Any:  # type: ignore[override]
        grad_z, grad_kl, *inputs = tensors
        return backward(grad_z, grad_kl, Inputs(*inputs), spec, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, spec, needs, *tensors = inputs
        GaussianLatentBackward.setup(ctx, spec, needs, tensors)


_TRANSFORMABLE: dict[type[torch.autograd.Function], type[torch.autograd.Function]] = {
    GaussianLatent: _TransformableLatent,
    GaussianLatentBackward: _TransformableBackward,
}

# The ops. Below autograd they compute; their Autograd kernels apply the Functions around a second
# call of the op, so that a compiler, vmap or a mode sees the op itself.


def _forward_op(loc: Any, scale: Any, key: Any, eps: Any, *spec: Any) -> tuple[Tensor, Tensor]:
    inputs, s = Inputs(loc, scale, key, eps), Spec(*spec)
    check(inputs, s)
    short = gaussian_short.op_forward(inputs, s)
    if short is not None:
        return short
    return gaussian_call.forward(select.pick(loc.device), inputs, s)


def _unpacked(rest: Sequence[Any]) -> tuple[Inputs, Spec, Sequence[bool]]:
    """The inputs, the spec and the needs (of loc, scale and eps) of the backward op."""
    inputs, needs = Inputs(*rest[:4]), rest[-1]
    check_needs("torch.ops.fused_reparam.gaussian_latent_backward", needs, 3, inputs.eps)
    return inputs, Spec(*rest[4:-1]), needs


def _backward_op(grad_z: Any, grad_kl: Any, *rest: Any) -> tuple[Tensor, ...]:
    inputs, spec, needs = _unpacked(rest)
    check(inputs, spec, grad_z, grad_kl)
    short = gaussian_short.op_backward(grad_z, grad_kl, inputs, spec, needs)
    if short is not None:
        return short
    backend = select.pick(inputs.loc.device)
    grads = gaussian_call.backward(backend, grad_z, grad_kl, inputs, spec, needs)
    return tuple(inputs.loc.new_empty(0) if g is None else g for g in grads)


def _forward_fake(loc: Any, scale: Any, key: Any, eps: Any, *spec: Any) -> tuple[Tensor, Tensor]:
    s = Spec(*spec)
    check(Inputs(loc, scale, key, eps), s)
    mu, _ = gaussian_call.operands(loc, scale, s.dim)
    return gaussian_call.allocate(loc, mu.shape, s)


def _backward_fake(grad_z: Any, grad_kl: Any, *rest: Any) -> tuple[Tensor, ...]:
    inputs, spec, needs = _unpacked(rest)
    check(inputs, spec, grad_z, grad_kl)
    loc, scale, _, eps = inputs
    mu, _ = gaussian_call.operands(loc, scale, spec.dim)
    to_loc, to_scale, moments = gaussian_call.allocate_grads(inputs, mu.shape, spec, needs)
    found = (
        to_loc if moments is None else moments,
        to_scale if moments is None else None,
        torch.empty_like(eps) if needs[2] and eps is not None else None,
    )
    return tuple(
        loc.new_empty(0) if g is None or like is None
        else g if g.shape == like.shape else loc.new_empty(like.shape)
        for g, like in zip(found, (loc, scale, eps), strict=True)
    )  # fmt: skip


def _redispatch_forward(inputs: Inputs, spec: Spec) -> tuple[Tensor, Tensor]:
    return below_autograd(torch.ops.fused_reparam.gaussian_latent.default, *inputs, *spec)


def _redispatch_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    inputs: Inputs,
    spec: Spec,
    needs: Sequence[bool],
) -> Grads:
    op = torch.ops.fused_reparam.gaussian_latent_backward.default
    grads = below_autograd(op, grad_z, grad_kl, *inputs, *spec, list(needs))
    return tuple(g if n else None for g, n in zip(grads, needs, strict=True))  # type: ignore[return-value]


def _forward_autograd(loc: Any, scale: Any, key: Any, eps: Any, *spec: Any) -> Any:
    inputs, s = Inputs(loc, scale, key, eps), Spec(*spec)
    if not needs_grad(*inputs):
        if all_plain(*inputs):
            return _forward_op(loc, scale, key, eps, *spec)
        return _redispatch_forward(inputs, s)
    return _apply(GaussianLatent, _redispatch_forward, _redispatch_backward, s, *inputs)


def _backward_autograd(grad_z: Any, grad_kl: Any, *rest: Any) -> Any:
    inputs, spec, needs = _unpacked(rest)
    tensors = (grad_z, grad_kl, *inputs)
    if all_plain(*tensors) and not needs_grad(*tensors):
        return _backward_op(grad_z, grad_kl, *rest)
    grads = latent_backward(_redispatch_backward, grad_z, grad_kl, inputs, spec, needs)
    return tuple(inputs.loc.new_empty(0) if g is None else g for g in grads)


for _name, _kernel, _fake, _autograd in (
    ("gaussian_latent", _forward_op, _forward_fake, _forward_autograd),
    ("gaussian_latent_backward", _backward_op, _backward_fake, _backward_autograd),
):
    LIB.impl(_name, _kernel, "CompositeExplicitAutograd")
    LIB.impl(_name, _autograd, "Autograd")
    native_host.serve(_name, _autograd, gaussian_host.plan_of_op)
    torch.library.register_fake(f"fused_reparam::{_name}", _fake, lib=LIB)
