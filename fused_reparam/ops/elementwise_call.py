"""How a call of the element-wise op becomes one call of a backend: allocation and layout.

What is said here in Python for every device, ``kernels/torch/elementwise.h`` says in C++ for the
CPU, where a small call's cost is this and not the arithmetic.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import reductions
from ..core.dtypes import compute_dtype
from . import elementwise_formula as formula
from .elementwise_spec import (
    PARAMETERS,
    VALUES,
    Inputs,
    Spec,
    count,
    halves,
    kept,
    parameters,
    shape_of,
    stacked,
    stacked_order,
    value_order,
    value_shape,
)
from .layout import arrange, empty_ordered
from .library import readable

Found = tuple[Tensor | None, ...]


class Geometry(NamedTuple):
    """What follows from shapes and options alone."""

    shape: torch.Size  # of one sample
    n: int
    z: torch.Size
    z_order: list[int]
    values: int  # how many there are
    value: torch.Size
    value_order: list[int]
    scattered: bool  # whether one value's elements are apart in memory: torch must sum them
    weight: float


def _geometry(
    shapes: tuple[torch.Size, ...],
    order: tuple[int, ...],
    family: str,
    samples: int,
    reduction: str | None,
) -> Geometry:
    spec = Spec(list(order), family, 0, 0, [], samples, True, reduction)
    shape = shapes[0]
    if any(len(s) != len(shape) or s != shape for s in shapes):
        shape = torch.broadcast_shapes(*shapes)
    keep = kept(shape, spec)
    wide = [d for d in order if shape[d] != 1]
    return Geometry(
        shape,
        math.prod(shape),  # not numel: see reductions.weight
        stacked(samples, shape),
        stacked_order(samples, spec.order),
        count(spec),
        value_shape(shape, spec),
        value_order(shape, spec),
        any(d >= keep for d in wide[: sum(d < keep for d in wide)]),
        reductions.weight(shape, reduction),
    )


# Found once for each kind of call: it would cost as much as the rest of a small one.
_cached_geometry = functools.lru_cache(maxsize=4096)(_geometry)


def geometry_of(
    params: Sequence[Tensor], spec: Spec, find: Callable[..., Geometry] = _cached_geometry
) -> Geometry:
    """The geometry of a call; by ``_geometry`` itself where sizes may be symbols."""
    shapes = tuple([p.shape for p in params])
    return find(shapes, tuple(spec.order), spec.family, spec.samples, spec.reduction)


def allocate(inputs: Inputs, spec: Spec) -> Found:
    """Uninitialised z and values, None where not wanted, of tensors that may be fake."""
    return _allocate(inputs.p0, spec, geometry_of(parameters(inputs, spec), spec, _geometry))


def _allocate(like: Tensor, spec: Spec, geometry: Geometry) -> Found:
    z = None
    if spec.sample:
        z = empty_ordered(geometry.z, geometry.z_order, like.dtype, like.device)
    values = _allocate_values(like, geometry)
    return z, *values, *(None,) * (VALUES - len(values))


def _allocate_values(like: Tensor, geometry: Geometry) -> list[Tensor]:
    dtype = compute_dtype(like.dtype)
    return [
        empty_ordered(geometry.value, geometry.value_order, dtype, like.device)
        for _ in range(geometry.values)
    ]


def _each(params: Sequence[Tensor], spec: Spec) -> Geometry:
    """The same where values are not reduced."""
    return geometry_of(params, spec._replace(reduction="none"))


def forward(backend: ModuleType, inputs: Inputs, spec: Spec) -> Found:
    """z and the values by a backend."""
    params, key = parameters(inputs, spec), inputs.key
    geometry = geometry_of(params, spec)
    found = _allocate(inputs.p0, spec, geometry)
    z, values = found[0], found[1 : 1 + geometry.values]
    if not geometry.n:
        for value in values:
            value.fill_(0.0 * geometry.weight)  # type: ignore[union-attr]
        return found
    written: Sequence[Any] = values
    if geometry.scattered and values:
        written = _allocate_values(inputs.p0, _each(params, spec))
    layout = _Layout(params, inputs.eps, spec, geometry.shape, None, ())
    backend.elementwise_forward(
        spec.family, spec.kind, spec.prior_kind, spec.numbers, layout.params,
        readable(key), layout.eps, spec.samples or 1, geometry.weight, layout.dense, z, written,
    )  # fmt: skip
    if geometry.scattered:
        for value, elements in zip(values, written, strict=True):
            torch.sum(elements, list(range(value.dim(), elements.dim())), out=value)  # type: ignore[union-attr]
    return found


def allocate_gradients(
    inputs: Inputs, spec: Spec, needs: Sequence[bool]
) -> tuple[list[Tensor | None], Tensor | None]:
    """Uninitialised gradients of the parameters at the sample's shape; with a split also that of
    p0, of which the first two are views.
    """
    params = parameters(inputs, spec)
    shape, like = shape_of(params), inputs[0]
    device = like.device
    joined = None
    if spec.split < 0:
        wanted = [n for n, p in zip(needs, inputs[:PARAMETERS], strict=False) if p is not None]
        first: list[Tensor | None] = []
    else:
        wanted = [n for n, p in zip(needs[2:], inputs[2:PARAMETERS], strict=False) if p is not None]
        first = [None, None]
        if needs[0]:
            joined = empty_ordered(like.shape, spec.order, like.dtype, device)
            first = list(halves(joined, spec.split))
    rest = [empty_ordered(shape, spec.order, like.dtype, device) if n else None for n in wanted]
    return [*first, *rest], joined


def backward(
    backend: ModuleType,
    grads: Sequence[Tensor | None],
    inputs: Inputs,
    spec: Spec,
    needs: Sequence[bool],
) -> Found:
    """The gradients that are needed of the parameters and eps by a backend."""
    params, key, eps = parameters(inputs, spec), inputs.key, inputs.eps
    geometry = geometry_of(params, spec)
    grad_z, *grad_values = grads[: 1 + geometry.values]
    found, joined = allocate_gradients(inputs, spec, needs)
    if geometry.n and any(g is not None for g in found):
        layout = _Layout(params, eps, spec, geometry.shape, grad_z, found)
        backend.elementwise_backward(
            spec.family, spec.kind, spec.prior_kind, spec.numbers, layout.grad_z,
            [g if g is None else _of_backend(g, params, spec, geometry) for g in grad_values],
            layout.params, readable(key), layout.eps, spec.samples or 1, geometry.weight,
            layout.dense, layout.grads,
        )  # fmt: skip
    to_eps = None
    if needs[-1] and eps is not None:
        to_eps = torch.empty_like(eps).copy_(formula.eps_gradient(grads, inputs, spec))
    return *placed(found, joined, inputs), to_eps


def placed(
    found: Sequence[Tensor | None], joined: Tensor | None, inputs: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of the op's four parameter tensors, each of its parameter's shape."""
    aligned = [joined, None, *found[2:]] if inputs[1] is None and len(found) > 1 else [*found]
    aligned += [None] * (PARAMETERS - len(aligned))
    return [unbroadcast(g, p) for g, p in zip(aligned, inputs, strict=False)]


class _Layout:
    """The operands of a call as a backend takes them."""

    def __init__(
        self,
        params: Sequence[Tensor],
        eps: Tensor | None,
        spec: Spec,
        shape: torch.Size,
        grad_z: Tensor | None,
        grads: Sequence[Tensor | None],
    ) -> None:
        params = [p if p.shape == shape else p.expand(shape) for p in params]
        of_z = eps, grad_z
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


def _of_backend(grad: Tensor, params: Sequence[Tensor], spec: Spec, geometry: Geometry) -> Tensor:
    """The gradient of a value, consecutive in index order."""
    if geometry.scattered:
        each = _each(params, spec)
        ones = (1,) * (len(each.value) - grad.dim())
        grad, geometry = grad.reshape(grad.shape + ones).expand(each.value), each
    return _consecutive(grad, geometry.value_order)


def unbroadcast(grad: Tensor | None, like: Tensor | None) -> Tensor | None:
    """A gradient summed to the shape of what was broadcast."""
    # The number of dims first: of symbolic sizes a comparison becomes a condition of the graph.
    if grad is None or like is None or (grad.dim() == like.dim() and grad.shape == like.shape):
        return grad
    return grad.sum_to_size(like.shape).contiguous()
