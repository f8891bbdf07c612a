"""``fused_reparam::relaxed_categories`` and its backward: schemas, fake kernels and autograd.

The ways through are those of ``gaussian.py``. The backward pass needs no noise: SOFT saves y, HARD
the soft values that its gradient is of, ONE_HOT the logits; with a KL the logits are saved too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..backends import native_host, select
from ..backends.reference.rows import HARD, ONE_HOT, SOFT, formula
from ..modes import exporting
from . import rows_call
from .gaussian_call import compute_dtype
from .layout import memory_order
from .library import (
    LIB,
    all_plain,
    below_autograd,
    define,
    functorch_active,
    needs_grad,
    plain,
)
from .operands import save, saved
from .rows_call import Outputs, Spec
from .rows_check import LARGEST_TAU, SMALLEST_TAU, check_backward, check_forward, like_of
from .rows_double_backward import double_backward

_SPEC = (
    "int[] order, int mode, float tau, float unimix, int dim, bool want_y, bool want_soft, "
    "bool want_kl"
)
define(
    f"relaxed_categories(Tensor logits, Tensor? key, Tensor? noise, {_SPEC})"
    " -> (Tensor, Tensor, Tensor)"
)
define(
    "relaxed_categories_backward(Tensor? grad_y, Tensor? grad_kl, Tensor? logits, Tensor? soft,"
    f" {_SPEC}) -> Tensor"
)
# (logits, key, noise, spec) and (grad_y, grad_kl, logits, soft, spec)
Forward = Callable[..., Outputs]
Backward = Callable[..., Tensor]


def relaxed_categories(
    logits: Tensor,
    key: Tensor | None,
    noise: Tensor | None,
    mode: int,
    tau: float,
    unimix: float,
    dim: int,
    want_y: bool = True,
    want_kl: bool = False,
) -> tuple[Tensor, Tensor]:
    """y, shaped and laid out as logits, and the KL, of logits' shape without ``dim``.

    What is computed is stated in ``reference/rows.py``. Differentiable in the logits; an output
    that is not wanted has no elements. ``noise``, Gumbel noise of y's shape, replaces the key; it
    gets no gradient. A tau beyond 2^-126 or 2^126 is taken as that.
    """
    tau = temperature_within(tau)
    if key is None and exporting():
        # Nothing is to be drawn: an exported model needs no op of this package.
        x, given = (
            t if t is None else t.to(compute_dtype(logits.dtype)).unsqueeze(0).movedim(dim + 1, 1)
            for t in (logits, noise)
        )
        assert x is not None
        found, _, value = formula(x, given, mode, tau, unimix)
        return found.movedim(1, dim + 1).squeeze(0).to(logits.dtype), value.squeeze(0)
    spec = Spec(memory_order(logits), mode, tau, unimix, dim % logits.dim(), want_y, False, want_kl)
    y, _, kl = _run(logits, key, noise, spec)
    return y, kl


def temperature_within(tau: float) -> float:
    """The nearest temperature that kernels take."""
    return min(max(tau, SMALLEST_TAU), LARGEST_TAU)


def _run(logits: Tensor, key: Tensor | None, noise: Tensor | None, spec: Spec) -> Any:
    if functorch_active():
        return _differentiable(logits, key, noise, spec)
    if not all(t is None or plain(t) for t in (logits, key, noise)):
        return torch.ops.fused_reparam.relaxed_categories(logits, key, noise, *spec)
    backend = select.pick(logits.device)
    forward = partial(rows_call.forward, backend)
    if not needs_grad(logits):
        return forward(logits, key, noise, spec)
    compute = partial(rows_call.backward, backend)
    return Categories.apply(forward, compute, _with_soft(spec), logits, key, noise)


def _with_soft(spec: Spec) -> Spec:
    return spec._replace(want_soft=spec.want_y and spec.mode == HARD)


def _differentiable(logits: Tensor, key: Tensor | None, noise: Tensor | None, spec: Spec) -> Any:
    """Through the op's own dispatch, with the gradient around it."""
    function = _TransformableCategories if functorch_active() else Categories
    args = (_redispatch_forward, _redispatch_backward, _with_soft(spec), logits, key, noise)
    return function.apply(*args)  # type: ignore[no-untyped-call]


def summed(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of what there is of two gradients."""
    return b if a is None else a if b is None else a + b


def categories_backward(
    compute: Backward,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor | None,
    soft: Tensor | None,
    spec: Spec,
) -> Tensor | None:
    """The logits' gradient; differentiable when asked to be."""
    if grad_y is None and grad_kl is None:
        return None
    tensors = (grad_y, grad_kl, logits, soft)
    if not all(t is None or plain(t) for t in tensors):
        compute = _redispatch_backward
    if needs_grad(*tensors):
        function = _TransformableBackward if functorch_active() else CategoriesBackward
        return function.apply(compute, spec, *tensors)  # type: ignore[no-any-return, no-untyped-call]
    return compute(grad_y, grad_kl, logits, soft, spec)


class Categories(torch.autograd.Function):
    """y, soft and kl. soft is an output so that the backward pass has a gradient through it."""

    @staticmethod
    def forward(
        ctx: Any, forward: Forward, compute: Backward, spec: Spec, logits: Tensor, *noise: Any
    ) -> Outputs:
        out = forward(logits, *noise, spec)
        Categories.setup(ctx, compute, spec, logits, out)
        return out

    @staticmethod
    def setup(ctx: Any, compute: Backward, spec: Spec, logits: Tensor, out: Any) -> None:
        saved_soft = {SOFT: out[0], HARD: out[1], ONE_HOT: None}[spec.mode]
        read = spec.want_kl or spec.mode == ONE_HOT
        save(ctx, logits if read else None, saved_soft if spec.want_y else None)
        ctx.set_materialize_grads(False)
        ctx.compute, ctx.spec, ctx.dtype = compute, spec, logits.dtype

    @staticmethod
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_soft: Tensor | None, grad_kl: Tensor | None
    ) -> Any:
        spec: Spec = ctx.spec
        # A hook on saved tensors may have changed their dtype.
        kept = saved(ctx, grad_y, grad_soft, grad_kl)
        logits, soft = (t if t is None else t.to(ctx.dtype) for t in kept)
        # The gradient of a hard y is soft's, so both come together.
        grad_y = summed(grad_y, grad_soft if spec.want_soft else None) if spec.want_y else None
        grad_kl = grad_kl if spec.want_kl else None
        grad = None
        if ctx.needs_input_grad[3]:
            grad = categories_backward(ctx.compute, grad_y, grad_kl, logits, soft, spec)
        return None, None, None, grad, None, None


class CategoriesBackward(torch.autograd.Function):
    """The backward pass as a function of its own, so that it has a gradient too."""

    @staticmethod
    def forward(ctx: Any, compute: Backward, spec: Spec, *tensors: Any) -> Tensor:
        CategoriesBackward.setup(ctx, spec, tensors)
        return compute(*tensors, spec)

    @staticmethod
    def setup(ctx: Any, spec: Spec, tensors: Any) -> None:
        save(ctx, *tensors)
        ctx.set_materialize_grads(False)
        ctx.spec = spec

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> Any:
        if cotangent is None:
            return (None,) * 6
        grads = double_backward(cotangent, ctx.spec, *saved(ctx, cotangent))
        needed = ctx.needs_input_grad[2:]
        return None, None, *(g if n else None for g, n in zip(grads, needed, strict=True))


class _TransformableCategories(Categories):
    """For vmap, torch.func.grad and their compositions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(forward: Forward, _: Backward, spec: Spec, logits: Any, *noise: Any) -> Any:  # type: ignore[override]
        return forward(logits, *noise, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, compute, spec, logits, *_ = inputs
        Categories.setup(ctx, compute, spec, logits, output)


class _TransformableBackward(CategoriesBackward):
    generate_vmap_rule = True

    @staticmethod
    def forward(compute: Backward, spec: Spec, *tensors: Any) -> Any:  # type: ignore[override]
        return compute(*tensors, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, spec, *tensors = inputs
        CategoriesBackward.setup(ctx, spec, tensors)


# The ops: see gaussian.py.


def _forward_op(logits: Tensor, key: Any, noise: Any, *spec: Any) -> Outputs:
    s = Spec(*spec)
    check_forward(logits, key, noise, s)
    return rows_call.forward(select.pick(logits.device), logits, key, noise, s)


def _forward_fake(logits: Tensor, key: Any, noise: Any, *spec: Any) -> Outputs:
    s = Spec(*spec)
    check_forward(logits, key, noise, s)
    return rows_call.allocate(logits, s)


def _backward_op(grad_y: Any, grad_kl: Any, logits: Any, soft: Any, *spec: Any) -> Tensor:
    s, like = Spec(*spec), like_of(logits, soft)
    check_backward(grad_y, grad_kl, logits, soft, s)
    if grad_y is None and grad_kl is None:
        return rows_call.empty_like(like, s).zero_()
    backend = select.pick(like.device)
    return rows_call.backward(backend, grad_y, grad_kl, logits, soft, s)


def _backward_fake(grad_y: Any, grad_kl: Any, logits: Any, soft: Any, *spec: Any) -> Tensor:
    check_backward(grad_y, grad_kl, logits, soft, Spec(*spec))
    return rows_call.empty_like(like_of(logits, soft), Spec(*spec))


def _redispatch_forward(logits: Any, key: Any, noise: Any, spec: Spec) -> Outputs:
    op = torch.ops.fused_reparam.relaxed_categories.default
    return tuple(below_autograd(op, logits, key, noise, *spec))  # type: ignore[return-value]


def _redispatch_backward(grad_y: Any, grad_kl: Any, logits: Any, soft: Any, spec: Spec) -> Any:
    op = torch.ops.fused_reparam.relaxed_categories_backward.default
    return below_autograd(op, grad_y, grad_kl, logits, soft, *spec)


def _forward_autograd(logits: Any, key: Any, noise: Any, *spec: Any) -> Any:
    s = Spec(*spec)
    if not needs_grad(logits):
        if all_plain(logits, key, noise):
            return _forward_op(logits, key, noise, *spec)
        return _redispatch_forward(logits, key, noise, s)
    y, soft, kl = _differentiable(logits, key, noise, s)
    return y, soft if s.want_soft else soft.new_empty((0,)), kl


def _backward_autograd(grad_y: Any, grad_kl: Any, logits: Any, soft: Any, *spec: Any) -> Any:
    s = Spec(*spec)
    tensors = (grad_y, grad_kl, logits, soft)
    if all_plain(*tensors) and not needs_grad(*tensors):
        return _backward_op(*tensors, *spec)
    grad = categories_backward(_redispatch_backward, grad_y, grad_kl, logits, soft, s)
    return rows_call.empty_like(like_of(logits, soft), s).zero_() if grad is None else grad


for _name, _kernel, _fake, _autograd in (
    ("relaxed_categories", _forward_op, _forward_fake, _forward_autograd),
    ("relaxed_categories_backward", _backward_op, _backward_fake, _backward_autograd),
):
    LIB.impl(_name, _kernel, "CompositeExplicitAutograd")
    LIB.impl(_name, _autograd, "Autograd")
    native_host.serve(_name, _autograd)
    torch.library.register_fake(f"fused_reparam::{_name}", _fake, lib=LIB)
