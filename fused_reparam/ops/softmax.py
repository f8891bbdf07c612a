"""``fused_reparam::gumbel_softmax``: relaxed and one-hot categories along one dim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.modes import exporting
from ..families.categorical import HARD, ONE_HOT, SOFT, formula
from . import softmax_call
from .differentiable import DifferentiableOp
from .functions import Call, Tensors
from .layout import UNSETTLED, memory_order
from .softmax_call import Layout, Spec
from .softmax_check import LARGEST_TAU, SMALLEST_TAU, check_backward, check_forward
from .softmax_double_backward import double_backward


class GumbelSoftmax(DifferentiableOp):
    """y, shaped and laid out as logits, and the KL of the variables: ``families/categorical.py``.

    noise, Gumbel noise of y's shape, replaces the key; it gets no gradient. The backward pass needs
    no noise: SOFT saves y, HARD the soft values that its gradient is of, which therefore are an
    output, and ONE_HOT the logits; with a KL the logits are saved too.
    """

    name = "gumbel_softmax"
    inputs = "Tensor logits, Tensor? key, Tensor? noise"
    saved = "Tensor? logits, Tensor? soft"
    outputs = ("y", "soft", "kl")
    gradients = (0,)
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
        logits, key, noise = inputs
        check_forward(logits, key, noise, spec)

    def check_backward(
        self, grads: Tensors, kept: Tensors, spec: Any, needs: Sequence[bool]
    ) -> None:
        (grad_y, grad_soft, grad_kl), (logits, soft) = grads, kept
        check_backward(grad_y, grad_soft, grad_kl, logits, soft, spec)

    def allocate(self, inputs: Tensors, spec: Any) -> Tensors:
        return softmax_call.allocate(inputs[0], spec)

    def allocate_gradients(self, kept: Tensors, spec: Any, needs: Sequence[bool]) -> Tensors:
        logits, soft = kept
        like = soft if logits is None else logits
        return (softmax_call.empty_like(like, spec) if needs[0] else None,)

    def layout(self, tensors: Tensors, spec: Any) -> Layout:
        like = next(t for t in tensors if t is not None)
        return Layout(like, tensors[2] if len(tensors) == 3 else None, spec)

    def forward(self, call: Call, inputs: Tensors) -> Tensors:
        return softmax_call.forward(call, inputs)

    def backward(self, call: Call, grads: Tensors, kept: Tensors, needs: Sequence[bool]) -> Tensors:
        if not needs[0]:
            return (None,)
        (grad_y, _, grad_kl), (logits, soft) = grads, kept
        return (softmax_call.backward(call, grad_y, grad_kl, logits, soft),)

    def double_backward(
        self, cotangents: Tensors, grads: Tensors, kept: Tensors, spec: Any
    ) -> Tensors:
        if cotangents[0] is None:
            return (None,) * (len(grads) + len(kept))
        grad_y, _, grad_kl = grads
        to_y, to_kl, *to_kept = double_backward(cotangents[0], spec, grad_y, grad_kl, *kept)
        return to_y, None, to_kl, *to_kept

    def keep(self, inputs: Tensors, outputs: Tensors, spec: Any) -> Tensors:
        y, soft, _ = outputs
        reads_logits = spec.reduction is not None or spec.mode == ONE_HOT
        of_y = {SOFT: y, HARD: soft, ONE_HOT: None}[spec.mode]
        return inputs[0] if reads_logits else None, of_y if spec.want_y else None

    def incoming(self, grads: Tensors, spec: Any) -> Tensors:
        grad_y, grad_soft, grad_kl = grads
        # The gradient of a hard y is soft's, so both come together.
        if spec.want_soft and grad_soft is not None:
            grad_y = grad_soft if grad_y is None else grad_y + grad_soft
        return grad_y if spec.want_y else None, None, None if spec.reduction is None else grad_kl

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
) -> tuple[Tensor, Tensor]:
    """y and the KL, differentiable in the logits; a KL that is not wanted has no elements.

    A tau beyond 2^-126 or 2^126 is taken as that. ``order``: of y in memory, else the logits'.
    """
    tau = min(max(tau, SMALLEST_TAU), LARGEST_TAU)
    dim %= logits.dim()
    spec = Spec(order, mode, tau, unimix, dim, True, False, reduction)
    if key is None and exporting():
        return _in_plain_operators(logits, noise, spec)
    y, _, kl = _op((logits, key, noise), spec)
    return y, kl  # type: ignore[return-value]


def divergence(logits: Tensor, dim: int, reduction: str) -> Tensor:
    """The KL without a sample."""
    spec = Spec(UNSETTLED, SOFT, 1.0, 0.0, dim, False, False, reduction)
    if exporting():
        return _in_plain_operators(logits, None, spec)[1]
    return _op((logits, None, None), spec)[2]  # type: ignore[return-value]


def _in_plain_operators(logits: Tensor, noise: Tensor | None, spec: Spec) -> tuple[Tensor, Tensor]:
    """Nothing is to be drawn: an exported model needs no op of this package."""
    x, given = (
        t if t is None else t.to(compute_dtype(t.dtype)).unsqueeze(0).movedim(spec.dim + 1, 1)
        for t in (logits, noise)
    )
    assert x is not None
    found, _, kl = formula(x, given, spec.mode, spec.tau, spec.unimix)
    y = found.movedim(1, spec.dim + 1).squeeze(0).to(logits.dtype)
    if spec.reduction is None:
        return y, torch.empty(0)
    return y, softmax_call.reduced(kl.squeeze(0), spec.reduction)
