"""How a draw becomes one call of a backend: shapes, allocation, layout."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ..noise import readable
from . import draw_formula
from .draw_spec import (
    DrawSpec,
    Gradients,
    Inputs,
    count,
    shape_of,
    stacked,
    stacked_order,
    value_order,
    value_samples,
    value_shape,
)
from .gaussian_call import compute_dtype, unbroadcast
from .layout import arrange, empty_ordered
from .operands import check_size


def allocate(like: Tensor, shape: torch.Size, spec: DrawSpec) -> tuple[Tensor, list[Tensor]]:
    """Uninitialised z (no elements where it is not wanted) and values."""
    if spec.sample:
        order = stacked_order(spec.samples, spec.order)
        z = empty_ordered(stacked(spec.samples, shape), order, like.dtype, like.device)
    else:
        z = like.new_empty(0)
    of_values = value_shape(shape, spec), value_order(spec)
    values = [
        empty_ordered(*of_values, compute_dtype(like.dtype), like.device)
        for _ in range(count(spec))
    ]
    return z, values


def forward(backend: ModuleType, inputs: Inputs, spec: DrawSpec) -> tuple[Tensor, ...]:
    """Compute z and the values with a backend."""
    params, key, _ = inputs
    shape = shape_of(params)
    check_size(shape, spec.samples)
    z, values = allocate(params[0], shape, spec)
    if not shape.numel():
        return z, *(v.fill_(0.0 * spec.weight) for v in values)
    written = values
    if scattered := values and _scattered(shape, spec):
        whole = spec._replace(sample=False, keep=len(shape))
        _, written = allocate(params[0], shape, whole)
    layout = _Layout(inputs, spec, shape, None, ())
    backend.draw_forward(
        spec.family, spec.kind, spec.prior_kind, spec.numbers, layout.params,
        None if key is None else readable(key), layout.eps, max(spec.samples, 1), spec.weight,
        layout.dense, z if spec.sample else None, written,
    )  # fmt: skip
    if scattered:
        for value, elements in zip(values, written, strict=True):
            torch.sum(elements, list(range(value.dim(), elements.dim())), out=value)
    return z, *values


def _scattered(shape: torch.Size, spec: DrawSpec) -> bool:
    """Whether the elements of one value are apart in memory, so that torch must sum them."""
    order = [d for d in spec.order if shape[d] != 1]
    of_values = sum(d < spec.keep for d in order)
    return any(d >= spec.keep for d in order[:of_values])


def backward(
    backend: ModuleType,
    grad_z: Tensor | None,
    grad_values: Sequence[Tensor | None],
    inputs: Inputs,
    spec: DrawSpec,
    needs: Sequence[bool],
) -> Gradients:
    """Compute the gradients that are needed of the parameters and eps with a backend."""
    params, key, eps = inputs
    shape = shape_of(params)
    check_size(shape, spec.samples)
    grads = [
        empty_ordered(shape, spec.order, p.dtype, p.device) if needed else None
        for p, needed in zip(params, needs[:-1], strict=True)
    ]
    if grad_z is None and all(g is None for g in grad_values):
        grads = [g if g is None else g.zero_() for g in grads]
    elif shape.numel() and any(needs[:-1]):
        layout = _Layout(inputs, spec, shape, grad_z, grads)
        backend.draw_backward(
            spec.family, spec.kind, spec.prior_kind, spec.numbers, layout.grad_z,
            [g if g is None else _of_backend(g, shape, spec) for g in grad_values],
            layout.params, None if key is None else readable(key), layout.eps,
            max(spec.samples, 1), spec.weight, layout.dense, layout.grads,
        )  # fmt: skip
    to_eps = None
    if needs[-1]:
        assert eps is not None
        found = draw_formula.eps_gradient(grad_z, grad_values, inputs, spec)
        to_eps = torch.empty_like(eps).copy_(found)
    return *(_fit(g, p) for g, p in zip(grads, params, strict=True)), to_eps


class _Layout:
    """The operands of a call as a backend takes them."""

    def __init__(
        self,
        inputs: Inputs,
        spec: DrawSpec,
        shape: torch.Size,
        grad_z: Tensor | None,
        grads: Sequence[Tensor | None],
    ) -> None:
        params = [p if p.shape == shape else p.expand(shape) for p in inputs.params]
        of_z = inputs.eps, grad_z
        if spec.samples > 1:
            order = stacked_order(spec.samples, spec.order)
            self.eps, self.grad_z = (t if t is None else _consecutive(t, order) for t in of_z)
            self.dense, self.params, self.grads = arrange(spec.order, params, grads)
            return
        if spec.samples:
            of_z = tuple(t if t is None else t.squeeze(0) for t in of_z)  # type: ignore[assignment]
        self.dense, ins, self.grads = arrange(spec.order, (*params, *of_z), grads)
        *self.params, self.eps, self.grad_z = ins


def _consecutive(t: Tensor, order: list[int]) -> Tensor:
    return (t.permute(order) if order else t).contiguous()


def _of_backend(grad: Tensor, shape: torch.Size, spec: DrawSpec) -> Tensor:
    """The gradient of a value, consecutive in index order."""
    if _scattered(shape, spec):
        ones = (1,) * (len(shape) - spec.keep)
        grad = grad.reshape(grad.shape + ones).expand(stacked(value_samples(spec), shape))
        spec = spec._replace(keep=len(shape))
    return _consecutive(grad, value_order(spec))


def _fit(grad: Tensor | None, like: Tensor) -> Tensor | None:
    if grad is None or grad.shape == like.shape:
        return grad
    summed = unbroadcast(grad, like)
    assert summed is not None
    return summed.contiguous()
