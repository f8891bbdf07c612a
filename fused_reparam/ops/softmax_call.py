"""How a call of the Gumbel-softmax becomes one call of a backend: shapes, allocation, layout.

In memory order a tensor is (O, C, I): what lies outside the class dim, the classes, what lies
inside. That is how backends see it, whichever dim the classes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import reductions
from ..core.dtypes import compute_dtype
from .functions import Call, remember
from .layout import Place, empty_ordered, form, operand, place_of, run_stride, stand_in
from .library import readable


class Spec(NamedTuple):
    """What a call computes: the op's arguments that are not tensors, in the schema's order."""

    order: Sequence[int]  # memory order of the outputs, see layout.py; UNSETTLED: the logits'
    mode: int
    tau: float
    unimix: float
    dim: int  # of the classes, from the front
    want_y: bool
    want_soft: bool  # HARD: also what the gradient is of
    reduction: str | None  # of the KLs of the variables; None: no KL is wanted


Found = tuple[Tensor | None, Tensor | None, Tensor | None]  # y, soft, kl


def without_class_dim(shape: Sequence[int], spec: Spec) -> tuple[torch.Size, list[int]]:
    """The variables' shape and memory order."""
    order = [d - (d > spec.dim) for d in spec.order if d != spec.dim]
    return _variables(shape, spec), order


def _variables(shape: Sequence[int], spec: Spec) -> torch.Size:
    return torch.Size((*shape[: spec.dim], *shape[spec.dim + 1 :]))


def kl_shape(shape: torch.Size, spec: Spec) -> torch.Size:
    """The KL's shape; there is a reduction."""
    assert spec.reduction is not None
    variables = _variables(shape, spec)
    return variables[: reductions.kept_dims(len(variables), spec.reduction)]


def _allocate_each(logits: Tensor, spec: Spec) -> Tensor:
    shape, order = without_class_dim(logits.shape, spec)
    return empty_ordered(shape, order, compute_dtype(logits.dtype), logits.device)


def allocate(logits: Tensor, spec: Spec) -> Found:
    """Uninitialised outputs, None where not wanted."""
    y, soft = (
        empty_like(logits, spec) if wanted else None for wanted in (spec.want_y, spec.want_soft)
    )
    if spec.reduction is None or spec.reduction == "none":
        return y, soft, None if spec.reduction is None else _allocate_each(logits, spec)
    dtype = compute_dtype(logits.dtype)
    return y, soft, logits.new_empty(kl_shape(logits.shape, spec), dtype=dtype)


def empty_like(t: Tensor, spec: Spec) -> Tensor:
    """An uninitialised tensor like the logits, dense in the outputs' memory order."""
    return empty_ordered(t.shape, spec.order, t.dtype, t.device)


def spread(grad_kl: Tensor, shape: torch.Size, spec: Spec, batch: Sequence[int] = ()) -> Tensor:
    """The gradient of the reduced KL as that of each variable's.

    ``shape`` and ``spec`` are of one example where a batch is in front.
    """
    variables = _variables(shape, spec)
    factor = reductions.factor(variables, spec.reduction)
    return _spread(reductions.scaled(grad_kl, factor), torch.Size((*batch, *variables)))


def _spread(grad: Tensor, shape: torch.Size) -> Tensor:
    return grad.reshape((*grad.shape, *(1,) * (len(shape) - grad.dim()))).expand(shape)


def forward(call: Call, inputs: Sequence[Any]) -> Found:
    """y, what its gradient is of, and the KL by a backend."""
    (logits, key, noise, control), spec, at = inputs, call.spec, call.layout
    y = logits.new_empty_strided(*at.y) if spec.want_y else None
    soft = logits.new_empty_strided(*at.y) if spec.want_soft else None
    each = None
    if spec.reduction is not None:
        each = logits.new_empty_strided(*at.each, dtype=at.dtype)
    if at.n:
        call.backend.softmax_forward(
            spec.mode, spec.tau, spec.unimix, operand(logits, at.logits), readable(key),
            operand(noise, at.noise), operand(y, at.rows), operand(soft, at.rows),
            operand(each, at.variables), operand(control, at.control),
        )  # fmt: skip
    return y, soft, None if each is None else reductions.reduced(each, spec.reduction)  # type: ignore[arg-type]


def backward(
    call: Call,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor | None,
    soft: Tensor | None,
    control: Tensor | None,
) -> Tensor:
    """The logits' gradient by a backend. logits are None where they are not read."""
    like: Any = soft if logits is None else logits
    spec, layout = call.spec, call.layout
    at = layout.of_backward(grad_y, grad_kl, like, soft)
    grad: Tensor = like.new_empty_strided(*layout.y)
    if layout.n:
        if grad_kl is not None:
            grad_kl = operand(reductions.scaled(grad_kl, layout.factor), at.grad_kl)
        call.backend.softmax_backward(
            spec.mode, spec.tau, spec.unimix, operand(grad_y, at.grad_y), grad_kl,
            operand(like, at.like), operand(soft, at.soft), operand(grad, layout.rows),
            operand(control, layout.control),
        )  # fmt: skip
    return grad


class Layout:
    """What shapes, strides and options decide of a call: found once for all like it."""

    def __init__(
        self, logits: Tensor, noise: Tensor | None, control: Tensor | None, spec: Spec
    ) -> None:
        self.spec = spec
        self.shape = shape = logits.shape
        self.n = shape.numel()
        self.dtype = compute_dtype(logits.dtype)
        self.factor = reductions.factor(_variables(shape, spec), spec.reduction)
        like = stand_in(logits)
        assert like is not None
        y, each = empty_like(like, spec), _allocate_each(like, spec)
        self.y, self.each = form(y), form(each)
        self.logits = _rows(like, spec, repeats=True)
        self.noise = _rows(stand_in(noise), spec, dense=True)
        self.rows, self.variables = _rows(y, spec), _flat(each, each, shape, spec)
        self.control = _each(stand_in(control), shape, spec)
        self.backwards: dict[Any, BackwardLayout] = {}

    def of_backward(self, *tensors: Tensor | None) -> BackwardLayout:
        key = tuple([None if t is None else t.stride() for t in tensors])
        found = self.backwards.get(key)
        if found is None:
            found = remember(self.backwards, key, BackwardLayout(self, *tensors))
        return found


class BackwardLayout:
    """The same of a backward pass."""

    def __init__(self, forward: Layout, *tensors: Tensor | None) -> None:
        grad_y, grad_kl, like, soft = [stand_in(t) for t in tensors]
        spec = forward.spec
        self.grad_y, self.like = _rows(grad_y, spec), _rows(like, spec, repeats=True)
        self.soft, self.grad_kl = _rows(soft, spec, dense=True), None
        if grad_kl is not None:
            each = _spread(grad_kl, _variables(forward.shape, spec))
            self.grad_kl = _flat(each, grad_kl, forward.shape, spec)


def _rows(t: Tensor | None, spec: Spec, dense: bool = False, repeats: bool = False) -> Place | None:
    """Where a tensor of the logits' shape is (O, C, I): a view wherever strides can show it.

    ``repeats``: samples of the same number, whose stride is 0, are left away.
    """
    if t is None:
        return None
    view = t.permute(*spec.order) if spec.order else t
    shape, strides = view.shape, view.stride()
    at = list(spec.order).index(spec.dim) if spec.order else spec.dim
    size = torch.Size((shape[:at].numel(), shape[at], shape[at + 1 :].numel()))
    first = 0
    while repeats and first < at and (strides[first] == 0 or shape[first] == 1):
        first += 1
    outer = run_stride(shape[first:at], strides[first:at])
    inner = run_stride(shape[at + 1 :], strides[at + 1 :])
    if outer is None or inner is None or (dense and not view.is_contiguous()):
        return place_of(view, t, size)
    size = torch.Size((shape[first:at].numel(), *size[1:]))
    return place_of(t.as_strided(size, (outer, strides[at], inner)), t)


def _each(control: Tensor | None, shape: torch.Size, spec: Spec) -> Place | None:
    """Where the number of each variable is contiguous (O, I); one for all is taken as it is."""
    if control is None or control.numel() == 1:
        return None
    return _flat(control.squeeze(spec.dim).expand(_variables(shape, spec)), control, shape, spec)


def _flat(view: Tensor, of: Tensor, shape: torch.Size, spec: Spec) -> Place | None:
    """Where the KL of each variable, or its gradient, is contiguous (O, I)."""
    _, order = without_class_dim(shape, spec)
    view = view.permute(*order) if order else view
    outers = view.shape[: (list(spec.order).index(spec.dim) if spec.order else spec.dim)].numel()
    size = torch.Size((outers, view.shape.numel() // max(outers, 1)))
    if not view.is_contiguous():
        return place_of(view, of, size)
    return place_of(view.view(size), of)
