"""What makes a differentiable op of the package: schema, fake kernels, autograd, vmap's form.

An op is a subclass of ``DifferentiableOp`` that says what is computed (``definition.py``);
everything about *how* a call gets a gradient stands here, once. Two ops of ``torch.library`` come
of it: ``name``, and ``name_backward``, which gives the gradients of the inputs from those of the
outputs and from what was saved.

Each has three kernels. CompositeExplicitAutograd computes, by the backend that serves the tensors.
Autograd, in Python, applies an autograd Function around that, or around a second call of the op
below autograd where a compiler, a mode or a transform has to see it. For AutogradCPU the compiled
extension takes the Autograd kernel's place (``kernels/torch/``), and hands over what it can't
serve. The autograd Functions are in ``functions.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforms_active
from torch.compiler import is_compiling

from ..backends import dispatch
from ..backends.cpu import extension
from ..core.modes import exporting
from ..core.storage import check_gradients, check_saved
from ..rng.keys import Fresh
from .definition import Definition
from .functions import (
    BackwardFunction,
    Call,
    ForwardFunction,
    Tensors,
    TransformableBackward,
    TransformableForward,
    filled,
    given,
    remember,
)
from .layout import taking
from .library import (
    LIB,
    Facts,
    all_eager,
    below_autograd,
    define,
    eager_facts,
    facts_of,
    functorch_active,
    needs_grad,
)
from .sharded import any_sharded, refuse_sharded, shared_key


class DifferentiableOp(Definition):
    """An op, made of what its subclass says it computes."""

    def __init__(self) -> None:
        self.inputs_count = self.inputs.count("Tensor")
        self.saved_count = self.saved.count("Tensor")
        result = ", ".join(["Tensor"] * len(self.outputs))
        back = ", ".join(["Tensor"] * len(self.gradients))
        grads = ", ".join(f"Tensor? grad_{name}" for name in self.outputs)
        define(f"{self.name}({self.inputs}, {self.options}) -> ({result})")
        of_backward = f"{self.name}_backward"
        define(f"{of_backward}({grads}, {self.saved}, {self.options}, bool[] needs) -> ({back})")
        namespace = torch.ops.fused_reparam
        self.op = getattr(namespace, self.name).default
        self.bound = extension.Bound(self.op.name(), self._observed)
        self.backward_op = getattr(namespace, of_backward).default
        for name, compute, fake, autograd in (
            (self.name, self._compute, self._fake, self._autograd),
            (of_backward, self._compute_backward, self._fake_backward, self._autograd_backward),
        ):
            LIB.impl(name, compute, "CompositeExplicitAutograd")
            LIB.impl(name, autograd, "Autograd")
            torch.library.register_fake(f"fused_reparam::{name}", fake, lib=LIB)
        extension.serve(self.name, self)
        # By the names that a graph shows: FusedElementwise, whose node is FusedElementwiseBackward.
        title = type(self).__name__
        self._forward, self._transformable_forward, self._backward, self._transformable_backward = (
            type(f"Fused{title}{suffix}", (base,), {})
            for base, suffix in (
                (ForwardFunction, ""),
                (TransformableForward, ""),
                (BackwardFunction, "Backward"),
                (TransformableBackward, "Backward"),
            )
        )
        self.key_at = [part.split()[-1] for part in self.inputs.split(", ")].index("key")
        # From what autograd asks of (call, *inputs) to what it asks of inputs with a gradient, and
        # from (None, *gradients) to those of (call, *inputs).
        order = {i: 1 + at for at, i in enumerate(self.gradients)}
        self.needs = taking([1 + i for i in self.gradients])
        self.to_inputs = taking([0, *(order.get(i, 0) for i in range(self.inputs_count))])
        self.calls: dict[Any, Call] = {}
        self._layouts: dict[Any, Any] = {}
        # Function.apply in Python looks for functorch and for default arguments, neither of which
        # is in eager mode; the C++ apply behind it saves 8 us of a forward pass of 35.
        self._apply = super(torch.autograd.Function, self._forward).apply  # type: ignore[misc]

    def __call__(self, inputs: Tensors, spec: Any) -> Tensors:
        """The outputs, differentiable; None or without elements where they are not wanted.

        On a CPU the dispatcher finds the compiled kernel. Elsewhere it would find ``_autograd``,
        and a detour through it costs as much again as the rest of a small call.
        """
        if inputs[0].is_cpu:
            call = self._observed if is_compiling() else self.bound.call
            return call(*inputs, *spec)  # type: ignore[no-any-return]
        facts = eager_facts(inputs)
        if facts is None:
            return self._observed(*inputs, *spec)
        if not torch._C._autograd._profiler_enabled():
            return self._directly(inputs, spec, facts)
        with torch.autograd.profiler.record_function(f"fused_reparam::{self.name}"):
            return self._directly(inputs, spec, facts)

    def _observed(self, *args: Any) -> Tensors:
        """The same, whoever looks on."""
        key = args[self.key_at]
        if key is None and exporting():
            return self.in_plain_operators(*self._unpack(args))
        if type(key) is Fresh:
            drawn = key.draw(args[0].device)
            if any_sharded(args):
                drawn = key.key = shared_key(drawn, args)
            args = self.with_key(args, drawn)
        # Within the dispatcher no Function of a transform can be applied.
        if transforms_active() and not is_compiling():
            return self._autograd(*args)  # type: ignore[no-any-return]
        try:
            return self.op(*args)  # type: ignore[no-any-return]
        except RuntimeError:
            # In inference mode no Autograd kernel is asked, and DTensor knows no rule for it.
            if not is_compiling() and torch.is_inference_mode_enabled() and any_sharded(args):
                return self.of_shards(*self._unpack(args))
            raise

    def with_key(self, inputs: Tensors, key: Any) -> Tensors:
        return *inputs[: self.key_at], key, *inputs[self.key_at + 1 :]

    def call(self, backend: ModuleType, tensors: Tensors, spec: Any, facts: Facts) -> Call:
        """A call by a backend, of inputs or of what was saved of them, whose layout is known."""
        found = self.calls.get(key := (backend, spec, facts))
        if found is None:
            spec = self.settled(tensors, spec)
            # Whatever its variable options are: a temperature may be another in each step.
            alike = spec._replace(**dict.fromkeys(self.variable_options))
            layout = self._layouts.get((alike, facts))
            if layout is None:
                layout = remember(self._layouts, (alike, facts), self.layout(tensors, alike))
            found = remember(self.calls, key, Call(self, spec, backend, layout))
        return found

    def apply_gradients(
        self,
        call: Call,
        grads: Tensors,
        kept: Tensors,
        needs: tuple[bool, ...],
        eager: bool,
        may_pass: bool = True,
    ) -> Tensors:
        """The gradients that are needed; differentiable when asked to be.

        ``eager``: whether all tensors are in memory and nobody looks on. ``may_pass``: one of the
        gradients may be an incoming one as it is, which no op's result may be.
        """
        spec = call.spec
        grads = self.incoming(grads, spec)
        result: Tensors = (None,) * len(needs)
        if not given(grads):
            return result
        found = self.passed(grads, kept, spec) if may_pass else None
        if found is not None and needs[found[0]]:
            at, gradient = found
            needs = (*needs[:at], False, *needs[at + 1 :])
        else:
            found = None
        if True in needs:
            if not eager:
                call = Call(self, spec)
            transformed = not eager and functorch_active()
            if transformed or needs_grad(*grads, *kept):
                function = self._transformable_backward if transformed else self._backward
                result = function.apply(call.needing(needs), *grads, *kept)  # type: ignore[attr-defined]
            else:
                result = call.gradients(grads, kept, needs)
        return result if found is None else (*result[:at], gradient, *result[at + 1 :])

    def gradients_by(
        self,
        backend: str,
        spec: Any,
        needs: Sequence[bool],
        grads: Tensors,
        kept: Tensors,
        was: Sequence[tuple[torch.Size, torch.dtype] | None] | None = None,
    ) -> Tensors:
        """``apply_gradients`` for a node of the compiled extension, whose spec is a bare tuple.

        ``was`` has the shapes and dtypes of what it had saved; None: it has checked all tensors.
        """
        if was is not None:
            cpu = torch.device("cpu")
            facts = [None if w is None else (torch.Size(w[0]), None, w[1], cpu) for w in was]
            check_gradients(grads)
            kept = check_saved(kept, facts)
        return self.gradients_of(
            dispatch.load(backend), grads, kept, self._spec(spec), tuple(needs)
        )

    def gradients_of(
        self, backend: ModuleType, grads: Tensors, kept: Tensors, spec: Any, needs: tuple[bool, ...]
    ) -> Tensors:
        """``apply_gradients`` where no call is known; the spec is settled."""
        eager = all_eager(*grads, *kept)
        call = self.call(backend, kept, spec, facts_of(kept)) if eager else Call(self, spec)
        return self.apply_gradients(call, grads, kept, needs, eager)

    def _spec(self, options: Sequence[Any]) -> Any:
        """The spec, hashable, of the schema's other arguments."""
        return self.Spec(*[tuple(o) if isinstance(o, list) else o for o in options])

    def _unpack(self, args: Sequence[Any]) -> tuple[Tensors, Any]:
        return tuple(args[: self.inputs_count]), self._spec(args[self.inputs_count :])

    def _unpack_backward(
        self, args: Sequence[Any]
    ) -> tuple[Tensors, Tensors, Any, tuple[bool, ...]]:
        outputs, kept = len(self.outputs), len(self.outputs) + self.saved_count
        needs = args[-1]
        if len(needs) != len(self.gradients):
            raise ValueError(
                f"torch.ops.fused_reparam.{self.name}_backward: needs must have "
                f"{len(self.gradients)} entries, got {len(needs)}"
            )
        spec = self._spec(args[kept:-1])
        return tuple(args[:outputs]), tuple(args[outputs:kept]), spec, tuple(needs)

    def _compute(self, *args: Any) -> Any:
        inputs, spec = self._unpack(args)
        self.check(inputs, spec)
        return filled(self.forward(self._call(inputs, spec), inputs), inputs)

    def _call(self, tensors: Tensors, spec: Any) -> Call:
        device = next(t.device for t in tensors if t is not None)
        return self.call(dispatch.pick(device), tensors, spec, facts_of(tensors))

    def _fake(self, *args: Any) -> Any:
        inputs, spec = self._unpack(args)
        self.check(inputs, spec)
        return filled(self.allocate(inputs, self.settled(inputs, spec)), inputs)

    def _compute_backward(self, *args: Any) -> Any:
        grads, kept, spec, needs = self._unpack_backward(args)
        self.check_backward(grads, kept, spec, needs)
        call = self._call(kept, spec)
        grads = self.incoming(grads, call.spec)
        if not given(grads):
            return _result(self._zeros(kept, call.spec, needs))
        return _result(filled(self.backward(call, grads, kept, needs), kept))

    def _zeros(self, kept: Tensors, spec: Any, needs: Sequence[bool]) -> tuple[Tensor, ...]:
        found = self.allocate_gradients(kept, spec, needs)
        return filled([None if g is None else g.zero_() for g in found], kept)

    def _fake_backward(self, *args: Any) -> Any:
        grads, kept, spec, needs = self._unpack_backward(args)
        self.check_backward(grads, kept, spec, needs)
        found = self.allocate_gradients(kept, self.settled(kept, spec), needs)
        return _result(filled(found, kept))

    def redispatch(self, inputs: Sequence[Any], spec: Any) -> Tensors:
        refuse_sharded(inputs)  # which a transform had wrapped
        return tuple(below_autograd(self.op, *inputs, *spec))

    def redispatch_backward(
        self, grads: Sequence[Any], kept: Sequence[Any], spec: Any, needs: Sequence[bool]
    ) -> Tensors:
        found = below_autograd(self.backward_op, *grads, *kept, *spec, list(needs))
        found = (found,) if isinstance(found, Tensor) else found
        return tuple(g if n else None for g, n in zip(found, needs, strict=True))

    def _autograd(self, *args: Any) -> Any:
        inputs, spec = self._unpack(args)
        facts = eager_facts(inputs)
        if facts is not None:
            self.check(inputs, spec)
            return filled(self._directly(inputs, spec, facts), inputs)
        if any_sharded(inputs):
            return self.of_shards(inputs, spec)
        transformed = functorch_active()  # one further out may want a gradient
        if not transformed and not needs_grad(*inputs):
            return self.redispatch(inputs, spec)
        self.check(inputs, spec)
        call = Call(self, self.spec_with_gradient(self.settled(inputs, spec)))
        function = self._transformable_forward if transformed else self._forward
        return self.visible(function.apply(call, *inputs), spec)  # type: ignore[attr-defined]

    def _directly(self, inputs: Tensors, spec: Any, facts: Facts) -> Tensors:
        """The outputs of tensors in memory, in eager mode with nobody looking on, by a backend."""
        device, key = inputs[0].device, inputs[self.key_at]
        backend = dispatch.pick(device)
        if type(key) is Fresh:
            inputs = self.with_key(inputs, key.draw_for(backend, device))
        if not needs_grad(*inputs):
            return self.forward(self.call(backend, inputs, spec, facts), inputs)
        call = self.call(backend, inputs, self.spec_with_gradient(spec), facts)
        return self.visible(self._apply(call, *inputs), spec)

    def _autograd_backward(self, *args: Any) -> Any:
        grads, kept, spec, needs = self._unpack_backward(args)
        tensors = (*grads, *kept)
        if all_eager(*tensors) and not needs_grad(*tensors):
            return self._compute_backward(*args)
        self.check_backward(grads, kept, spec, needs)
        spec = self.settled(kept, spec)
        if not given(self.incoming(grads, spec)):
            return _result(self._zeros(kept, spec, needs))
        found = self.apply_gradients(Call(self, spec), grads, kept, needs, False, may_pass=False)
        return _result(filled(found, kept))


def _result(found: tuple[Tensor, ...]) -> Any:
    return found[0] if len(found) == 1 else found
