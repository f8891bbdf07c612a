"""The autograd Functions of the differentiable ops, one for each direction, and functorch's forms.

They are hand-made: those of ``torch.library.register_autograd`` fail under ``torch.func.grad``,
``jacrev`` and ``vmap(grad)`` on PyTorch 2.13. What they compute, the op of a call says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import vjp

from .library import Facts, as_tensor, facts_of
from .operands import save, saved

Tensors = tuple[Any, ...]  # tensors or None
MOST_REMEMBERED = 4096


def filled(found: Sequence[Tensor | None], like: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """As many tensors as an op returns: what is absent has no elements."""
    first = like[0] if like[0] is not None else next(t for t in like if t is not None)
    return tuple([first.new_empty(0) if t is None else t for t in found])


def given(tensors: Sequence[Tensor | None]) -> bool:
    """Whether there is any."""
    for t in tensors:  # noqa: SIM110 (a generator takes three times as long)
        if t is not None:
            return True
    return False


def remember(cache: dict[Any, Any], key: Any, found: Any) -> Any:
    """Keep what was found for a kind of calls; a program may make any number of kinds."""
    if len(cache) >= MOST_REMEMBERED:
        cache.clear()
    cache[key] = found
    return found


def _shapes(found: Any) -> list[tuple[torch.Size, torch.dtype] | None]:
    return [None if t is None else (t.shape, t.dtype) for t in found]


def _zeros(shapes: Sequence[tuple[torch.Size, torch.dtype] | None], kept: Tensors) -> Tensors:
    """Zeros of such shapes, beside what was saved."""
    like = next(t for t in kept if t is not None and t.is_floating_point())
    return tuple([None if s is None else like.new_zeros(s[0], dtype=s[1]) for s in shapes])


def _each(tangents: Sequence[Tensor | None], zeros: Tensors) -> Tensors:
    """A tangent for each output that there is: functorch takes no None."""
    return tuple([z if t is None else t for t, z in zip(tangents, zeros, strict=True)])


class Call:
    """What is known of a call of an op but for its tensors; a leaf, for functorch.

    ``backend``: None where a second call of the op, below autograd, is to compute. ``layout``: what
    the op makes of shapes and strides for a backend. ``kept``: the facts of what is saved, the same
    for all calls by a backend but for where a key was drawn.
    """

    __slots__ = ("backend", "kept", "layout", "memos", "needs", "op", "spec")

    def __init__(
        self,
        op: Any,
        spec: Any,
        backend: Any = None,
        layout: Any = None,
        needs: tuple[bool, ...] = (),
    ) -> None:
        self.op, self.spec, self.backend, self.layout, self.needs = op, spec, backend, layout, needs
        self.kept: dict[torch.device | None, Facts] = {}
        self.memos: dict[Any, dict[Any, Any]] = {}

    def memo(self, layout: Any) -> dict[Any, Any]:
        """What the backend keeps for passes that differ in nothing but memory and key."""
        found = self.memos.get(layout)
        if found is None:
            found = self.memos[layout] = {}
        return found

    def outputs(self, inputs: Tensors) -> Tensors:
        """What the op computes, by the backend or by a second call."""
        if self.backend is None:
            return self.op.redispatch(inputs, self.spec)  # type: ignore[no-any-return]
        return self.op.forward(self, inputs)  # type: ignore[no-any-return]

    def gradients(self, grads: Tensors, kept: Tensors, needs: Sequence[bool]) -> Tensors:
        """Likewise of a backward pass."""
        if self.backend is None:
            return self.op.redispatch_backward(grads, kept, self.spec, needs)  # type: ignore[no-any-return]
        return self.op.backward(self, grads, kept, needs)  # type: ignore[no-any-return]

    def needing(self, needs: tuple[bool, ...]) -> Call:
        """The same for a backward pass that is a function of its own."""
        return Call(self.op, self.spec, self.backend, self.layout, needs)


class ForwardFunction(torch.autograd.Function):
    """Saves what the op says, nothing else of the outputs' size."""

    @staticmethod
    def forward(ctx: Any, call: Any, *inputs: Any) -> Any:
        op = call.op
        outputs = call.outputs(inputs)
        key = inputs[op.key_at]
        if key is not None and not isinstance(key, Tensor):
            inputs = op.with_key(inputs, as_tensor(key))
        ForwardFunction.setup(ctx, call, inputs, outputs)
        return outputs

    @staticmethod
    def setup(ctx: Any, call: Any, inputs: Tensors, outputs: Any) -> None:
        key = inputs[call.op.key_at]
        where = key if key is None else key.device
        kept = save(ctx, call.op.keep(inputs, outputs, call.spec), call.kept.get(where))
        if call.backend is not None:
            call.kept[where] = kept
        ctx.set_materialize_grads(False)
        ctx.call = call
        if forward_ad._current_level >= 0:
            ctx.shapes = _shapes(outputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        """The transpose of the backward pass, which is linear in the gradients that come: what a
        double backward pass gives to those, whatever they are.
        """
        op, spec, kept = ctx.call.op, ctx.call.spec, ctx.saved_tensors
        zeros = _zeros(ctx.shapes, kept)
        grads = op.incoming(zeros, spec)
        found = op.double_backward(op.needs(tangents), grads, kept, spec)
        return _each(op.tangents(found[: len(grads)], spec), zeros)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        call, needed = ctx.call, ctx.needs_input_grad
        op = call.op
        kept, eager, same = saved(ctx, grads)
        if eager and not same and call.backend is not None:
            call = op.call(call.backend, kept, call.spec, facts_of(kept))
        found = op.apply_gradients(call, grads, kept, op.needs(needed), eager)
        return op.to_inputs((None, *found))


class BackwardFunction(torch.autograd.Function):
    """The backward pass as a function of its own, so that it has a gradient too."""

    @staticmethod
    def forward(ctx: Any, call: Any, *tensors: Any) -> Any:
        found = BackwardFunction.compute(call, tensors)
        BackwardFunction.setup(ctx, call, tensors, found)
        return found

    @staticmethod
    def compute(call: Any, tensors: Sequence[Any]) -> Any:
        outputs = len(call.op.outputs)
        return call.gradients(tensors[:outputs], tensors[outputs:], call.needs)

    @staticmethod
    def setup(ctx: Any, call: Any, tensors: Sequence[Any], found: Any) -> None:
        save(ctx, tensors)
        ctx.set_materialize_grads(False)
        ctx.call = call
        if forward_ad._current_level >= 0:
            ctx.shapes = _shapes(found)

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: Tensor | None) -> Any:
        """The transpose of the double backward pass, which is linear in its cotangents."""
        call, tensors = ctx.call, ctx.saved_tensors
        outputs = len(call.op.outputs)
        zeros = _zeros(ctx.shapes, tensors)
        at = [i for i, zero in enumerate(zeros) if zero is not None]
        met: list[Tensor] = []  # the tangents that a result of double_backward is for

        def back(*cotangents: Tensor) -> tuple[Tensor, ...]:
            all_of = dict(zip(at, cotangents, strict=True))
            wanted = tuple([all_of.get(i) for i in range(len(zeros))])
            found = call.op.double_backward(wanted, tensors[:outputs], tensors[outputs:], call.spec)
            both = [(f, t) for f, t in zip(found, tangents, strict=True)
                    if f is not None and t is not None]  # fmt: skip
            met[:] = [t for _, t in both]
            return tuple([f for f, _ in both])

        pull = vjp(back, *[zeros[i] for i in at])[1]
        pulled = dict(zip(at, pull(tuple(met)), strict=True)) if met else {}
        return _each([pulled.get(i) for i in range(len(zeros))], zeros)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        call = ctx.call
        tensors, _, _ = saved(ctx, cotangents)
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
        return filled(call.outputs(inputs), inputs)

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
        BackwardFunction.setup(ctx, call, tensors, output)
