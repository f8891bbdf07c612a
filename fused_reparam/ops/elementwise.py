"""``fused_reparam::elementwise``: sample and terms of every element-wise family."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import elementwise_call, elementwise_sharded
from . import elementwise_formula as formula
from .differentiable import DifferentiableOp
from .elementwise_call import EPS, Layout, unbroadcast
from .elementwise_check import check
from .elementwise_spec import PARAMETERS, TERMS, Inputs, Spec, count, member, settled
from .functions import Call, Tensors
from .library import facts_of

__all__ = ["Spec", "elementwise"]


class Elementwise(DifferentiableOp):
    """z and terms of parameters and base noise: the key's, or that which is given as eps.

    Parameters are of one dtype and device and broadcast against each other. z has their shape, with
    the samples in front; eps is shaped as z. Without a key it is the caller's: of float32 and
    float64, loc + sigma eps is then rounded as PyTorch's two operators round it. Beside a key it is
    noise that the op could have made itself, as `vmap` makes it: rounded as ever. What a family
    does not have is None, or a tensor without elements in a result. Saved are the parameters, the
    key and eps, nothing of z's size.
    """

    name = "elementwise"
    inputs = "Tensor p0, Tensor? p1, Tensor? p2, Tensor? p3, Tensor? key, Tensor? eps"
    saved = inputs
    outputs = ("z", "term0", "term1")
    gradients = (0, 1, 2, 3, 5)
    options = (
        "int[]? order, str family, int kind, int prior_kind, float[] constants, SymInt samples, "
        "bool sample, str? reduction, int split"
    )
    Spec = Spec
    variable_options = ("kind", "prior_kind", "constants")

    def settled(self, tensors: Tensors, spec: Any) -> Any:
        return settled(tensors, spec)

    def check(self, inputs: Tensors, spec: Any) -> None:
        check(Inputs(*inputs), spec)

    def check_backward(
        self, grads: Tensors, kept: Tensors, spec: Any, needs: Sequence[bool]
    ) -> None:
        inputs = Inputs(*kept)
        check(inputs, spec, grads[0], grads[1:])
        if needs[-1] and inputs.eps is None:
            raise ValueError(
                "torch.ops.fused_reparam.elementwise_backward: needs asks for the gradient of eps, "
                "but eps is None"
            )

    def allocate(self, inputs: Tensors, spec: Any) -> Tensors:
        return elementwise_call.allocate(Inputs(*inputs), spec)

    def allocate_gradients(self, kept: Tensors, spec: Any, needs: Sequence[bool]) -> Tensors:
        inputs = Inputs(*kept)
        whole, _ = elementwise_call.allocate_gradients(inputs, spec, needs)
        found = [unbroadcast(g, p) for g, p in zip(whole, inputs, strict=False)]
        # Gradients that were summed are contiguous, whatever the order.
        of_eps = torch.empty_like(inputs.eps) if needs[-1] and inputs.eps is not None else None
        return *found, of_eps

    def layout(self, tensors: Tensors, spec: Any) -> Layout:
        return Layout(Inputs(*tensors), spec)

    forward = staticmethod(elementwise_call.forward)  # type: ignore[assignment]
    backward = staticmethod(elementwise_call.backward)  # type: ignore[assignment]

    def double_backward(
        self, cotangents: Tensors, grads: Tensors, kept: Tensors, spec: Any
    ) -> Tensors:
        grads = grads[: 1 + count(spec)]
        found = formula.double_backward(cotangents, grads, Inputs(*kept), spec)
        return *found[: len(grads)], *(None,) * (1 + TERMS - len(grads)), *found[len(grads) :]

    def keep(self, inputs: Tensors, outputs: Tensors, spec: Any) -> Tensors:
        return inputs

    def of_shards(self, inputs: Tensors, spec: Any) -> Tensors:
        return elementwise_sharded.elementwise(self, check, Inputs(*inputs), spec)

    def incoming(self, grads: Tensors, spec: Any) -> Tensors:
        terms = count(spec)
        z = grads[0] if spec.sample else None
        return z, *grads[1 : 1 + terms], *(None,) * (TERMS - terms)

    def in_plain_operators(self, inputs: Tensors, spec: Any) -> Tensors:
        return tuple(formula.evaluate(inputs, inputs[EPS], spec))

    def passed(self, grads: Tensors, kept: Tensors, spec: Any) -> tuple[int, Tensor] | None:
        """The gradient of z for p0, where z is p0 and something that does not depend on p0.

        It is the tensor that came, and no view of it. Autograd adds other gradients into memory
        that nobody else seems to hold, and of a view it does not see that others hold its memory.
        """
        z, term0, term1 = grads
        if z is None or term0 is not None or term1 is not None:
            return None
        if spec.samples or spec.split >= 0 or not member(spec).linear:
            return None
        return 0, unbroadcast(z, kept[0])  # type: ignore[return-value]


_op = Elementwise()
forget = _op.calls.clear  # as after a change of what a backend finds for a call
# By the number of parameters, those that a call does not have.
_ABSENT = [(None,) * (PARAMETERS - have) for have in range(PARAMETERS + 1)]


def elementwise(
    params: Sequence[Tensor], key: Tensor | None, eps: Tensor | None, spec: Spec
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z and the terms, differentiable; an unwanted z has no elements.

    A term has shape ``((samples,) if sampled and samples > 0) + shape[:kept]``, as the reduction
    keeps dims of the parameters' shape.
    """
    if spec.split < 0:
        inputs = *params, *_ABSENT[len(params)], key, eps
    else:
        inputs = params[0], None, *params[1:], *_ABSENT[1 + len(params)], key, eps
    found = _op(inputs, spec)
    return found[0], found[1 : 1 + count(spec)]  # type: ignore[return-value]


def call_of(backend: ModuleType, inputs: Tensors, spec: Spec) -> Call:
    """A call of the op by a backend, for another op that makes it a part of its own."""
    return _op.call(backend, inputs, spec, facts_of(inputs))


def gradients_of(
    backend: ModuleType,
    grads: Sequence[Tensor | None],
    inputs: Inputs,
    spec: Spec,
    needs: Sequence[bool],
) -> Tensors:
    """The gradients that are needed, differentiable, for a kernel that draws in another way."""
    padded = *grads, *(None,) * (1 + TERMS - len(grads))
    return _op.gradients_of(backend, padded, tuple(inputs), spec, tuple(needs))
