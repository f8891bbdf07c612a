"""The autograd Functions of the differentiable ops, one for each direction, and functorch's forms.

They are hand-made: those of ``torch.library.register_autograd`` fail under ``torch.func.grad``,
``jacrev`` and ``vmap(grad)`` on PyTorch 2.13. What they compute, the op of a call says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .library import as_tensor
from .operands import save, saved

Tensors = tuple[Any, ...]  # tensors or None
# (inputs, spec) -> outputs, and (grads, saved, spec, needs) -> gradients
Forward = Callable[[Sequence[Tensor | None], Any], Tensors]
Backward = Callable[
    [Sequence[Tensor | None], Sequence[Tensor | None], Any, Sequence[bool]], Tensors
]


def filled(found: Sequence[Tensor | None], like: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """As many tensors as an op returns: what is absent has no elements."""
    first = like[0] if like[0] is not None else next(t for t in like if t is not None)
    return tuple([first.new_empty(0) if t is None else t for t in found])


class Call:
    """One call of an op on its way through the Functions: a leaf, for functorch."""

    __slots__ = ("backward", "forward", "needs", "op", "spec")

    def __init__(
        self,
        op: Any,
        forward: Forward | None,
        backward: Backward,
        spec: Any,
        needs: tuple[bool, ...] = (),
    ) -> None:
        self.op, self.forward, self.backward, self.spec = op, forward, backward, spec
        self.needs = needs


class ForwardFunction(torch.autograd.Function):
    """Saves what the op says, nothing else of the outputs' size."""

    @staticmethod
    def forward(ctx: Any, call: Any, *inputs: Any) -> Any:
        outputs = filled(call.forward(inputs, call.spec), inputs)
        ForwardFunction.setup(ctx, call, tuple([as_tensor(t) for t in inputs]), outputs)
        return outputs

    @staticmethod
    def setup(ctx: Any, call: Any, inputs: Tensors, outputs: Any) -> None:
        save(ctx, *call.op.keep(inputs, outputs, call.spec))
        ctx.set_materialize_grads(False)
        ctx.call, ctx.dtype = call, inputs[0].dtype  # type: ignore[union-attr]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        call = ctx.call
        op = call.op
        dtype, needed = ctx.dtype, ctx.needs_input_grad
        # A hook on saved tensors may have changed their dtype.
        kept = tuple([
            t if t is None or t.dtype is dtype or not t.is_floating_point() else t.to(dtype)
            for t in saved(ctx, *grads)
        ])  # fmt: skip
        needs = [needed[1 + i] for i in op.gradients]
        found = op.apply_gradients(call.backward, grads, kept, call.spec, needs)
        all_inputs: list[Tensor | None] = [None] * op.inputs_count
        for at, gradient in zip(op.gradients, found, strict=True):
            all_inputs[at] = gradient
        return None, *all_inputs


class BackwardFunction(torch.autograd.Function):
    """The backward pass as a function of its own, so that it has a gradient too."""

    @staticmethod
    def forward(ctx: Any, call: Any, *tensors: Any) -> Any:
        BackwardFunction.setup(ctx, call, tensors)
        return BackwardFunction.compute(call, tensors)

    @staticmethod
    def compute(call: Any, tensors: Sequence[Any]) -> Any:
        outputs = len(call.op.outputs)
        return call.backward(tensors[:outputs], tensors[outputs:], call.spec, call.needs)

    @staticmethod
    def setup(ctx: Any, call: Any, tensors: Sequence[Any]) -> None:
        save(ctx, *tensors)
        ctx.set_materialize_grads(False)
        ctx.call = call

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        call = ctx.call
        tensors = saved(ctx, *cotangents)
        if all(c is None for c in cotangents):
            return (None,) * (1 + len(tensors))
        outputs = len(call.op.outputs)
        wanted = tuple(c if n else None for c, n in zip(cotangents, call.needs, strict=True))
        found = call.op.double_backward(wanted, tensors[:outputs], tensors[outputs:], call.spec)
        needed = ctx.needs_input_grad[1:]
        return None, *(g if n else None for g, n in zip(found, needed, strict=True))


class TransformableForward(ForwardFunction):
    """The form that functorch takes (vmap, torch.func.grad); it costs more by call."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: Any, *inputs: Any) -> Any:  # type: ignore[override]
        return filled(call.forward(inputs, call.spec), inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        call, *tensors = inputs
        ForwardFunction.setup(ctx, call, tuple(tensors), output)


class TransformableBackward(BackwardFunction):
    generate_vmap_rule = True

    @staticmethod
    def forward(call: Any, *tensors: Any) -> Any:  # type: ignore[override]
        return BackwardFunction.compute(call, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        call, *tensors = inputs
        BackwardFunction.setup(ctx, call, tensors)
