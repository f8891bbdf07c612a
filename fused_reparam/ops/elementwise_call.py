"""How a call of the element-wise op becomes one call of a backend: allocation and layout.

What is said here in Python for every device, ``kernels/torch/elementwise.h`` says in C++ for the
CPU, where a small call's cost is this and not the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import reductions
from ..core.dtypes import compute_dtype
from . import elementwise_formula as formula
from .elementwise_spec import (
    PARAMETERS,
    TERMS,
    Inputs,
    Spec,
    count,
    halves,
    kept,
    parameters,
    shape_of,
    stacked,
    stacked_order,
    term_order,
    term_shape,
)
from .functions import Call, remember
from .layout import (
    Place,
    Take,
    arrange,
    consecutive,
    empty_ordered,
    form,
    operand,
    operands,
    stand_in,
)
from .library import readable

Found = tuple[Tensor | None, ...]
KEY, EPS = PARAMETERS, PARAMETERS + 1


def allocate(inputs: Inputs, spec: Spec) -> Found:
    """Uninitialised z and terms, None where not wanted, of tensors that may be fake."""
    shape, like = shape_of(parameters(inputs, spec)), inputs[0]
    z = None
    if spec.sample:
        order = stacked_order(spec.samples, spec.order)
        z = empty_ordered(stacked(spec.samples, shape), order, like.dtype, like.device)
    terms = _allocate_terms(like, shape, spec)
    return z, *terms, *(None,) * (TERMS - len(terms))


def _allocate_terms(like: Tensor, shape: torch.Size, spec: Spec) -> list[Tensor]:
    dtype = compute_dtype(like.dtype)
    found, order = term_shape(shape, spec), term_order(shape, spec)
    return [empty_ordered(found, order, dtype, like.device) for _ in range(count(spec))]


def allocate_gradients(
    inputs: Inputs, spec: Spec, needs: Sequence[bool]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Uninitialised gradients of the op's four parameter tensors at the sample's shape, and of each
    parameter: with a split, those of the first two are views of the first.
    """
    like = inputs[0]
    shapes = [shape_of(parameters(inputs, spec))] * PARAMETERS
    if spec.split >= 0:
        shapes[0] = like.shape
    whole = [
        empty_ordered(shape, spec.order, like.dtype, like.device) if n and p is not None else None
        for shape, n, p in zip(shapes, needs, inputs, strict=False)
    ]
    each = [g for g, p in zip(whole, inputs, strict=False) if p is not None]
    if spec.split >= 0:
        each[:1] = [None, None] if whole[0] is None else halves(whole[0], spec.split)
    return whole, each


def unbroadcast(grad: Tensor | None, like: Tensor | None) -> Tensor | None:
    """A gradient summed to the shape of what was broadcast."""
    # The number of dims first: of symbolic sizes a comparison becomes a condition of the graph.
    if grad is None or like is None or (grad.dim() == like.dim() and grad.shape == like.shape):
        return grad
    return grad.sum_to_size(like.shape).contiguous()


def forward(call: Call, inputs: Sequence[Any]) -> Found:
    """z and the terms by a backend."""
    spec, at = call.spec, call.layout
    like, key = inputs[0], inputs[KEY]
    z = None if at.z is None else like.new_empty_strided(*at.z)
    terms = [like.new_empty_strided(*size, dtype=at.dtype) for size in at.terms]
    if not at.n:
        for term in terms:
            term.fill_(0.0 * at.factor)
        return z, *terms, *at.absent
    written = terms
    if at.summed:
        written = [like.new_empty_strided(*size, dtype=at.dtype) for size in at.written]
    call.backend.elementwise_forward(
        spec.family, spec.kind, spec.prior_kind, spec.constants, at.params(inputs),
        readable(key), operand(inputs[EPS], at.eps), at.samples, at.factor, at.dense, z, written,
        call.memo(at),
    )  # fmt: skip
    if at.summed:
        for term, elements in zip(terms, written, strict=True):
            torch.sum(elements, at.summed, out=term)
    return z, *terms, *at.absent


def backward(
    call: Call, grads: Sequence[Tensor | None], kept: Sequence[Any], needs: Sequence[bool]
) -> Found:
    """The gradients that are needed of the parameters and eps by a backend."""
    spec, layout = call.spec, call.layout
    at = layout.of_backward(grads, needs)
    like, eps = kept[0], kept[EPS]
    found = [None if size is None else like.new_empty_strided(*size) for size in at.grads]
    if at.any:
        call.backend.elementwise_backward(
            spec.family, spec.kind, spec.prior_kind, spec.constants, operand(grads[0], at.grad_z),
            at.grad_terms(grads), at.params(kept),
            readable(kept[KEY]), operand(eps, at.eps), layout.samples, layout.factor,
            at.dense, at.to(found), call.memo(at),
        )  # fmt: skip
    for i in at.broadcast:
        found[i] = unbroadcast(found[i], kept[i])
    to_eps = None
    if needs[-1] and eps is not None:
        to_eps = torch.empty_like(eps).copy_(formula.eps_gradient(grads, Inputs(*kept), spec))
    return *found, to_eps


class Layout:
    """What shapes, strides and options decide of a forward pass: found once for all like it."""

    def __init__(self, inputs: Inputs, spec: Spec) -> None:
        self.spec = spec
        params, eps = inputs[:PARAMETERS], inputs.eps
        self.inputs = inputs = Inputs(*[stand_in(t) for t in (*params, None, eps)])
        self.shape = shape_of(parameters(inputs, spec))
        self.n = self.shape.numel()
        self.samples = spec.samples or 1
        self.factor = reductions.factor(self.shape, spec.reduction)
        self.dtype = compute_dtype(inputs[0].dtype)
        z, *terms = allocate(inputs, spec)
        self.z = form(z)
        self.terms: list[Any] = [form(v) for v in terms if v is not None]
        self.absent = (None,) * (TERMS - len(self.terms))
        # The dims that torch must sum, where a term's elements are apart in memory.
        self.summed: list[int] = []
        keep = kept(self.shape, spec)
        wide = [d for d in spec.order if self.shape[d] != 1]
        if self.terms and any(d >= keep for d in wide[: sum(d < keep for d in wide)]):
            each: Any = allocate(inputs, spec._replace(reduction="none"))[1]
            self.summed = list(range(len(self.terms[0][0]), each.dim()))
            self.written = [form(each)] * len(self.terms)
        self.dense, self.params, self.eps, _, _ = self.places(None, [], [])
        self.backwards: dict[Any, BackwardLayout] = {}

    def of_backward(self, grads: Sequence[Tensor | None], needs: Sequence[bool]) -> BackwardLayout:
        key = (*needs, *[None if g is None else g.stride() for g in grads])
        found = self.backwards.get(key)
        if found is None:
            found = remember(self.backwards, key, BackwardLayout(self, grads, needs))
        return found

    def places(
        self, grad_z: Tensor | None, whole: Sequence[Tensor | None], grads: Sequence[Tensor | None]
    ) -> tuple[bool, Take, Place | None, Place | None, Take]:
        """Where a pass finds parameters, eps, the gradient of z and those of the parameters.

        ``whole``, ``grads``: as ``allocate_gradients`` gives them.
        """
        spec, inputs, shape = self.spec, self.inputs, self.shape
        at = [i for i, p in enumerate(inputs[:PARAMETERS]) if p is not None]
        if spec.split >= 0:
            at.insert(0, 0)
        params: list[Any] = [
            (p if p.shape == shape else p.expand(shape), inputs[i])
            for i, p in zip(at, parameters(inputs, spec), strict=True)
        ]
        outs: list[Any] = [
            g if g is None else (g, whole[i]) for i, g in zip(at, grads, strict=False)
        ]
        of_z = [
            t if t is None else (t.squeeze(0) if spec.samples == 1 else t, t)
            for t in (inputs.eps, grad_z)
        ]
        if spec.samples > 1:
            dense, ins, to = arrange(spec.order, params, outs)
            order = stacked_order(spec.samples, spec.order)
            ins += [o if o is None else consecutive(*o, order) for o in of_z]
        else:
            dense, ins, to = arrange(spec.order, [*params, *of_z], outs)
        *of_params, of_eps, of_grad_z = ins
        targets = [
            None if out is None else (i, place) for i, out, place in zip(at, outs, to, strict=False)
        ]
        located = list(zip(at, of_params, strict=True))
        return dense, operands(located), of_eps, of_grad_z, operands(targets)


class BackwardLayout:
    """The same of a backward pass."""

    def __init__(
        self, forward: Layout, grads: Sequence[Tensor | None], needs: Sequence[bool]
    ) -> None:
        inputs, spec, shape = forward.inputs, forward.spec, forward.shape
        grad_z, *terms = [stand_in(g) for g in grads]
        whole, each = allocate_gradients(inputs, spec, needs)
        self.any = forward.n > 0 and any(g is not None for g in each)
        self.grads = [form(g) for g in whole]
        self.broadcast = [
            i for i, (g, p) in enumerate(zip(whole, inputs, strict=False))
            if g is not None and p is not None and g.shape != p.shape
        ]  # fmt: skip
        found = forward.places(grad_z, whole, each)
        self.dense, self.params, self.eps, self.grad_z, self.to = found
        # The gradients of terms are consecutive in index order, one for each element where those
        # of a term are apart.
        if forward.summed:
            spec = spec._replace(reduction="none")
        full, order = term_shape(shape, spec), term_order(shape, spec)
        ones = (1,) * len(forward.summed)
        self.grad_terms = operands([
            None if g is None
            else (i, consecutive(g.reshape([*g.shape, *ones]).expand(full), g, order))
            for i, g in enumerate(terms[: len(forward.terms)], 1)
        ])  # fmt: skip
