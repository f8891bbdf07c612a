"""``fused_reparam::gumbel_softmax``: relaxed and one-hot categories along one dim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import reductions
from ..core.dtypes import compute_dtype
from ..families.categorical import (
    HARD,
    LARGEST_TAU,
    ONE_HOT,
    SMALLEST_TAU,
    SOFT,
    formula,
    numbers_of,
)
from . import softmax_call, softmax_sharded
from .differentiable import DifferentiableOp
from .functions import Call, Tensors, given
from .layout import UNSETTLED, memory_order
from .softmax_call import Layout, Spec
from .softmax_check import check_backward, check_forward
from .softmax_gradients import control_gradient, double_backward


class GumbelSoftmax(DifferentiableOp):
    """y, shaped and laid out as logits, and the KL of the variables: ``families/categorical.py``.

    noise, Gumbel noise of y's shape, replaces the key; it gets no gradient. control, of the dtype
    of the arithmetic, replaces tau, or ONE_HOT's unimix: one for all variables, or one for each, of
    the logits' shape with 1 for ``dim``, or what expands to it. The backward pass needs
    no noise: SOFT saves y, HARD the soft values that its gradient is of, which therefore are an
    output, and ONE_HOT the logits; with a KL the logits are saved too.
    """

    name = "gumbel_softmax"
    inputs = "Tensor logits, Tensor? key, Tensor? noise, Tensor? control"
    saved = "Tensor? logits, Tensor? soft, Tensor? control"
    outputs = ("y", "soft", "kl")
    gradients = (0, 3)
    options = (
        "int[]? order, int mode, float tau, float unimix, int dim, bool want_y, bool want_soft, "
        "str? reduction"
    )
    Spec = Spec
    variable_options = ("tau", "unimix")

    def settled(self, tensors: Tensors, spec: Any) -> Any:
        if spec.order is not UNSETTLED:
            return spec
        like = next((t for t in tensors if t is not None), None)
        return spec if like is None else spec._replace(order=tuple(memory_order(like)))

    def check(self, inputs: Tensors, spec: Any) -> None:
        logits, key, noise, control = inputs
        check_forward(logits, key, noise, control, spec)

    def check_backward(
        self, grads: Tensors, kept: Tensors, spec: Any, needs: Sequence[bool]
    ) -> None:
        (grad_y, grad_soft, grad_kl), (logits, soft, control) = grads, kept
        check_backward(grad_y, grad_soft, grad_kl, logits, soft, control, spec)
        if needs[1] and control is None:
            raise ValueError(
                "torch.ops.fused_reparam.gumbel_softmax_backward: needs asks for the gradient of "
                "control, but control is None"
            )

    def allocate(self, inputs: Tensors, spec: Any) -> Tensors:
        return softmax_call.allocate(inputs[0], spec)

    def allocate_gradients(self, kept: Tensors, spec: Any, needs: Sequence[bool]) -> Tensors:
        logits, soft, control = kept
        like = soft if logits is None else logits
        of_logits = softmax_call.empty_like(like, spec) if needs[0] else None
        return of_logits, torch.empty_like(control) if needs[1] else None

    def layout(self, tensors: Tensors, spec: Any) -> Layout:
        like = next(t for t in tensors if t is not None)
        noise = tensors[2] if len(tensors) == self.inputs_count else None
        return Layout(like, noise, tensors[-1], spec)

    def forward(self, call: Call, inputs: Tensors) -> Tensors:
        return softmax_call.forward(call, inputs)

    def backward(self, call: Call, grads: Tensors, kept: Tensors, needs: Sequence[bool]) -> Tensors:
        of_logits = of_control = None
        grad_y, _, grad_kl = grads
        of_y_alone = grad_kl is None and grad_y is not None
        if needs[0] or of_y_alone:
            of_logits = softmax_call.backward(call, grad_y, grad_kl, *kept)
        if needs[1]:
            of_y = of_logits if of_y_alone else None
            logits, soft, control = kept
            of_control = control_gradient(call.spec, grad_y, logits, soft, control, of_y)
        return of_logits if needs[0] else None, of_control

    def double_backward(
        self, cotangents: Tensors, grads: Tensors, kept: Tensors, spec: Any
    ) -> Tensors:
        if not given(cotangents):
            return (None,) * (len(grads) + len(kept))
        grad_y, _, grad_kl = grads
        to_y, to_kl, *to_kept = double_backward(cotangents, spec, grad_y, grad_kl, *kept)
        return to_y, None, to_kl, *to_kept

    def in_plain_operators(self, inputs: Tensors, spec: Any) -> Tensors:
        logits, _, *others = inputs
        assert logits is not None
        x, noise, control = (
            t if t is None or not t.dim()
            else t.to(compute_dtype(t.dtype)).unsqueeze(0).movedim(spec.dim + 1, 1)
            for t in (logits, *others)
        )  # fmt: skip
        assert x is not None
        found, soft, kl = formula(
            x, noise, spec.mode, *numbers_of(spec.mode, spec.tau, spec.unimix, control)
        )
        y = found.movedim(1, spec.dim + 1).squeeze(0).to(logits.dtype)
        if spec.reduction is not None:
            kl = reductions.reduced(kl.squeeze(0), spec.reduction)
        return y, soft, kl

    def keep(self, inputs: Tensors, outputs: Tensors, spec: Any) -> Tensors:
        y, soft, _ = outputs
        reads_logits = spec.reduction is not None or spec.mode == ONE_HOT
        of_y = {SOFT: y, HARD: soft, ONE_HOT: None}[spec.mode]
        return inputs[0] if reads_logits else None, of_y if spec.want_y else None, inputs[3]

    def of_shards(self, inputs: Tensors, spec: Any) -> Tensors:
        return softmax_sharded.gumbel_softmax(self, inputs, self.settled(inputs, spec))

    def incoming(self, grads: Tensors, spec: Any) -> Tensors:
        grad_y, grad_soft, grad_kl = grads
        # The gradient of a hard y is soft's, so both come together.
        if spec.want_soft and grad_soft is not None:
            grad_y = grad_soft if grad_y is None else grad_y + grad_soft
        return grad_y if spec.want_y else None, None, None if spec.reduction is None else grad_kl

    def tangents(self, found: Tensors, spec: Any) -> Tensors:
        y, _, kl = found
        return y, y if spec.want_soft else None, kl

    def visible(self, outputs: Tensors, spec: Any) -> Tensors:
        y, soft, kl = outputs
        return y, soft if spec.want_soft or soft is None else soft.new_empty(0), kl

    def spec_with_gradient(self, spec: Any) -> Any:
        return spec._replace(want_soft=spec.want_y and spec.mode == HARD)


_op = GumbelSoftmax()


def gumbel_softmax(
    logits: Tensor,
    key: Tensor | None,
    noise: Tensor | None,
    mode: int,
    tau: float,
    unimix: float,
    dim: int,
    reduction: str | None = None,
    order: Sequence[int] = UNSETTLED,
    control: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y and the KL, differentiable; a KL that is not wanted has no elements.

    A tau beyond 2^-126 or 2^126 is taken as that. ``order``: of y in memory, else the logits'.
    ``control``: see ``GumbelSoftmax``.
    """
    tau = min(max(tau, SMALLEST_TAU), LARGEST_TAU)
    dim %= logits.dim()
    if order is not UNSETTLED:
        order = tuple(order)  # a spec is hashed where a call goes past the dispatcher
    spec = Spec(order, mode, tau, unimix, dim, True, False, reduction)
    y, _, kl = _op((logits, key, noise, control), spec)
    return y, kl  # type: ignore[return-value]


def divergence(logits: Tensor, dim: int, reduction: str) -> Tensor:
    """The KL without a sample."""
    spec = Spec(UNSETTLED, SOFT, 1.0, 0.0, dim, False, False, reduction)
    return _op((logits, None, None, None), spec)[2]  # type: ignore[return-value]
