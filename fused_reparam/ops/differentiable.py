"""What makes a differentiable op of the package: schema, fake kernels, autograd, vmap's form.

An op is a subclass of ``DifferentiableOp`` that says what is computed; everything about *how* a
call gets a gradient stands here, once. Two ops of ``torch.library`` come of it: ``name``, and
``name_backward``, which gives the gradients of the inputs from those of the outputs and from what
was saved.

Each has three kernels. CompositeExplicitAutograd computes, by the backend that serves the tensors.
Autograd, in Python, applies an autograd Function around that, or around a second call of the op
below autograd where a compiler, a mode or a transform has to see it. For AutogradCPU the compiled
extension takes the Autograd kernel's place (``kernels/torch/``), and hands over what it can't
serve.

The autograd Functions are in ``functions.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..backends import dispatch
from ..backends.cpu import extension
from ..core.storage import check_gradients, check_saved
from .functions import (
    Backward,
    BackwardFunction,
    Call,
    ForwardFunction,
    Tensors,
    TransformableBackward,
    TransformableForward,
    filled,
)
from .library import LIB, all_plain, below_autograd, define, functorch_active, needs_grad


class DifferentiableOp(ABC):
    """An op: pure functions of its tensors and its spec, the schema's other arguments.

    Tensors come as tuples of fixed length, None where one is absent; a spec is a NamedTuple.
    """

    name: ClassVar[str]
    inputs: ClassVar[str]
    """The tensors of the schema."""
    saved: ClassVar[str]
    """What the backward pass gets of them and of the outputs, as a schema."""
    outputs: ClassVar[tuple[str, ...]]
    gradients: ClassVar[tuple[int, ...]]
    """Which inputs have a gradient."""
    options: ClassVar[str]
    """The spec as a schema."""
    Spec: ClassVar[type]

    @abstractmethod
    def settled(self, tensors: Tensors, spec: Any) -> Any:
        """The spec with all that it leaves to the inputs, or to what was saved of them.

        Gradients are of the spec that a forward pass had: a hook on saved tensors may change their
        strides.
        """

    @abstractmethod
    def check(self, inputs: Tensors, spec: Any) -> None:
        """Raise TypeError or ValueError unless the op can compute this."""

    @abstractmethod
    def check_backward(
        self, grads: Tensors, kept: Tensors, spec: Any, needs: Sequence[bool]
    ) -> None:
        """The same of the backward op."""

    @abstractmethod
    def allocate(self, inputs: Tensors, spec: Any) -> Tensors:
        """Uninitialised outputs."""

    @abstractmethod
    def allocate_gradients(self, kept: Tensors, spec: Any, needs: Sequence[bool]) -> Tensors:
        """Uninitialised gradients, None where not needed."""

    @abstractmethod
    def forward(self, backend: ModuleType, inputs: Tensors, spec: Any) -> Tensors:
        """The outputs."""

    @abstractmethod
    def backward(
        self, backend: ModuleType, grads: Tensors, kept: Tensors, spec: Any, needs: Sequence[bool]
    ) -> Tensors:
        """The gradients that are needed, of those inputs that have one; None for the others."""

    @abstractmethod
    def double_backward(
        self, cotangents: Tensors, grads: Tensors, kept: Tensors, spec: Any
    ) -> Tensors:
        """The gradients of ``backward`` for its tensors, as differentiable PyTorch code."""

    @abstractmethod
    def keep(self, inputs: Tensors, outputs: Tensors, spec: Any) -> Tensors:
        """What is saved for the backward pass."""

    def incoming(self, grads: Tensors, spec: Any) -> Tensors:
        """The gradients of the outputs that count."""
        return grads

    def spec_with_gradient(self, spec: Any) -> Any:
        """The spec of a forward pass that a backward pass may follow."""
        return spec

    def visible(self, outputs: Tensors, spec: Any) -> Tensors:
        """The outputs that a caller sees."""
        return outputs

    def passed(self, grads: Tensors, kept: Tensors, spec: Any) -> tuple[int, Tensor] | None:
        """A gradient that is an incoming one as it is: which one, and that."""
        return None

    # What follows is the same for every op.

    def __init__(self) -> None:
        self.inputs_count = self.inputs.count("Tensor")
        self.saved_count = self.saved.count("Tensor")
        result = ", ".join(["Tensor"] * len(self.outputs))
        back = ", ".join(["Tensor"] * len(self.gradients))
        grads = ", ".join(f"Tensor? grad_{name}" for name in self.outputs)
        define(f"{self.name}({self.inputs}, {self.options}) -> ({result})")
        define(
            f"{self.name}_backward({grads}, {self.saved}, {self.options}, bool[] needs) -> ({back})"
        )
        namespace = torch.ops.fused_reparam
        self.op = getattr(namespace, self.name).default
        self.backward_op = getattr(namespace, f"{self.name}_backward").default
        for name, compute, fake, autograd in (
            (self.name, self._compute, self._fake, self._autograd),
            (
                f"{self.name}_backward",
                self._compute_backward,
                self._fake_backward,
                self._autograd_backward,
            ),
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
        # Function.apply in Python looks for functorch and for default arguments, neither of which
        # is in plain eager mode; the C++ apply behind it saves 8 us of a forward pass of 35.
        self._apply = super(torch.autograd.Function, self._forward).apply  # type: ignore[misc]

    def __call__(self, inputs: Tensors, spec: Any) -> Tensors:
        """The outputs, differentiable.

        On a CPU the dispatcher finds the compiled kernel. Elsewhere it would find ``_autograd``,
        and a detour through it costs as much again as the rest of a small call.
        """
        if functorch_active():  # within the dispatcher no Function of a transform can be applied
            return self._autograd(*inputs, *spec)  # type: ignore[no-any-return]
        first = inputs[0]
        if first.is_cpu:
            # The first call loads the extension, or finds none; a compiler would trace that.
            if not torch.compiler.is_compiling() and not extension.asked:
                extension.asked = True
                dispatch.pick(first.device)
        elif all_plain(*inputs):
            if not torch._C._autograd._profiler_enabled():
                return self._directly(inputs, spec)
            with torch.autograd.profiler.record_function(f"fused_reparam::{self.name}"):
                return self._directly(inputs, spec)
        return self.op(*inputs, *spec)  # type: ignore[no-any-return]

    def apply_gradients(
        self,
        compute: Backward,
        grads: Tensors,
        kept: Tensors,
        spec: Any,
        needs: Sequence[bool],
        may_pass: bool = True,
    ) -> Tensors:
        """The gradients that are needed; differentiable when asked to be.

        ``may_pass``: one of them may be an incoming gradient as it is, which no op's result may be.
        """
        grads = self.incoming(grads, spec)
        none: Tensors = (None,) * len(needs)
        if not any(needs) or all(g is None for g in grads):
            return none
        found = self.passed(grads, kept, spec) if may_pass else None
        if found is not None and needs[found[0]]:
            at, gradient = found
            others = [n and i != at for i, n in enumerate(needs)]
            rest = self.apply_gradients(compute, grads, kept, spec, others)
            return (*rest[:at], gradient, *rest[at + 1 :])
        tensors = (*grads, *kept)
        if not all_plain(*tensors):
            compute = self._redispatch_backward
        transformed = functorch_active()
        if transformed or needs_grad(*tensors):
            function = self._transformable_backward if transformed else self._backward
            call = Call(self, None, compute, spec, tuple(needs))
            return function.apply(call, *tensors)  # type: ignore[no-any-return, attr-defined]
        return compute(grads, kept, spec, needs)

    def gradients_by(
        self,
        backend: str,
        spec: Any,
        needs: Sequence[bool],
        grads: Tensors,
        kept: Tensors,
        was: Sequence[tuple[torch.Size, torch.dtype] | None] | None = None,
    ) -> Tensors:
        """``apply_gradients`` for a node of the compiled extension, whose spec is a plain tuple.

        ``was`` has the shapes and dtypes of what it had saved; None: it has checked all tensors.
        """
        if was is not None:
            check_gradients(grads)
            cpu = torch.device("cpu")
            check_saved(kept, [None if w is None else (torch.Size(w[0]), w[1], cpu) for w in was])
            kept = tuple(
                t if t is None or w is None or not t.is_floating_point() else t.to(w[1])
                for t, w in zip(kept, was, strict=True)
            )
        compute = partial(self.backward, dispatch.load(backend))
        return self.apply_gradients(compute, grads, kept, self.Spec(*spec), needs)

    def _unpack(self, args: Sequence[Any]) -> tuple[Tensors, Any]:
        return tuple(args[: self.inputs_count]), self.Spec(*args[self.inputs_count :])

    def _unpack_backward(self, args: Sequence[Any]) -> tuple[Tensors, Tensors, Any, list[bool]]:
        outputs, kept = len(self.outputs), len(self.outputs) + self.saved_count
        needs = args[-1]
        if len(needs) != len(self.gradients):
            raise ValueError(
                f"torch.ops.fused_reparam.{self.name}_backward: needs must have "
                f"{len(self.gradients)} entries, got {len(needs)}"
            )
        return tuple(args[:outputs]), tuple(args[outputs:kept]), self.Spec(*args[kept:-1]), needs

    def _compute(self, *args: Any) -> Any:
        inputs, spec = self._unpack(args)
        self.check(inputs, spec)
        spec = self.settled(inputs, spec)
        return filled(self.forward(dispatch.pick(_device(inputs)), inputs, spec), inputs)

    def _fake(self, *args: Any) -> Any:
        inputs, spec = self._unpack(args)
        self.check(inputs, spec)
        return filled(self.allocate(inputs, self.settled(inputs, spec)), inputs)

    def _compute_backward(self, *args: Any) -> Any:
        grads, kept, spec, needs = self._unpack_backward(args)
        self.check_backward(grads, kept, spec, needs)
        spec = self.settled(kept, spec)
        if self._nothing(grads, spec):
            return _result(self._zeros(kept, spec, needs))
        grads = self.incoming(grads, spec)
        found = self.backward(dispatch.pick(_device(kept)), grads, kept, spec, needs)
        return _result(filled(found, kept))

    def _nothing(self, grads: Tensors, spec: Any) -> bool:
        """Whether no gradient came that counts."""
        return all(g is None for g in self.incoming(grads, spec))

    def _zeros(self, kept: Tensors, spec: Any, needs: Sequence[bool]) -> tuple[Tensor, ...]:
        found = self.allocate_gradients(kept, spec, needs)
        return filled([None if g is None else g.zero_() for g in found], kept)

    def _fake_backward(self, *args: Any) -> Any:
        grads, kept, spec, needs = self._unpack_backward(args)
        self.check_backward(grads, kept, spec, needs)
        found = self.allocate_gradients(kept, self.settled(kept, spec), needs)
        return _result(filled(found, kept))

    def _redispatch(self, inputs: Sequence[Any], spec: Any) -> Tensors:
        return tuple(below_autograd(self.op, *inputs, *spec))

    def _redispatch_backward(
        self, grads: Sequence[Any], kept: Sequence[Any], spec: Any, needs: Sequence[bool]
    ) -> Tensors:
        found = below_autograd(self.backward_op, *grads, *kept, *spec, list(needs))
        found = (found,) if isinstance(found, Tensor) else found
        return tuple(g if n else None for g, n in zip(found, needs, strict=True))

    def _autograd(self, *args: Any) -> Any:
        inputs, spec = self._unpack(args)
        if all_plain(*inputs):
            self.check(inputs, spec)
            return self._directly(inputs, spec)
        transformed = functorch_active()  # one further out may want a gradient
        if not transformed and not needs_grad(*inputs):
            return self._redispatch(inputs, spec)
        self.check(inputs, spec)
        with_gradient = self.spec_with_gradient(self.settled(inputs, spec))
        call = Call(self, self._redispatch, self._redispatch_backward, with_gradient)
        function = self._transformable_forward if transformed else self._forward
        return self.visible(function.apply(call, *inputs), spec)  # type: ignore[attr-defined]

    def _directly(self, inputs: Tensors, spec: Any) -> Tensors:
        """The outputs of plain tensors in plain eager mode, by a backend."""
        backend = dispatch.pick(_device(inputs))
        spec = self.settled(inputs, spec)
        if not needs_grad(*inputs):
            return filled(self.forward(backend, inputs, spec), inputs)
        ways = partial(self.forward, backend), partial(self.backward, backend)
        call = Call(self, *ways, self.spec_with_gradient(spec))
        return self.visible(self._apply(call, *inputs), spec)

    def _autograd_backward(self, *args: Any) -> Any:
        grads, kept, spec, needs = self._unpack_backward(args)
        tensors = (*grads, *kept)
        if all_plain(*tensors) and not needs_grad(*tensors):
            return self._compute_backward(*args)
        self.check_backward(grads, kept, spec, needs)
        spec = self.settled(kept, spec)
        if self._nothing(grads, spec):
            return _result(self._zeros(kept, spec, needs))
        compute = self._redispatch_backward
        found = self.apply_gradients(compute, grads, kept, spec, needs, may_pass=False)
        return _result(filled(found, kept))


def _device(tensors: Sequence[Tensor | None]) -> torch.device:
    return next(t for t in tensors if t is not None).device


def _result(found: tuple[Tensor, ...]) -> Any:
    return found[0] if len(found) == 1 else found
