"""How a call of the Gumbel-softmax becomes one call of a backend: shapes, allocation, layout.

In memory order a tensor is (O, C, I): what lies outside the class dim, the classes, what lies
inside. That is how backends see it, whichever dim the classes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import reductions
from ..core.dtypes import compute_dtype
from .layout import empty_ordered, run_stride
from .library import readable


class Spec(NamedTuple):
    """What a call computes: the op's arguments that are not tensors, in the schema's order."""

    order: list[int]  # memory order of the outputs, see layout.py; UNSETTLED: the logits'
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


def rows(t: Tensor, spec: Spec) -> Tensor:
    """A tensor of the logits' shape as (O, C, I), a view wherever strides can show it."""
    if spec.order:
        t = t.permute(spec.order)
    at = spec.order.index(spec.dim) if spec.order else spec.dim
    shape, strides = t.shape, t.stride()
    size = (shape[:at].numel(), shape[at], shape[at + 1 :].numel())
    outer = run_stride(shape[:at], strides[:at])
    inner = run_stride(shape[at + 1 :], strides[at + 1 :])
    if outer is None or inner is None:
        return t.contiguous().view(size)
    return t.as_strided(size, (outer, strides[at], inner))


def _flat_kl(kl: Tensor, logits: Tensor, spec: Spec) -> Tensor:
    """The KL of each variable or its gradient as contiguous (O, I); logits are (O, C, I)."""
    _, order = without_class_dim(range(kl.dim() + 1), spec)
    return (kl.permute(order) if order else kl).contiguous().view(logits.shape[0], logits.shape[2])


def reduced(kl: Tensor, reduction: str, batch_dims: int = 0) -> Tensor:
    """The KLs of the variables, reduced; behind batch dims, of each example."""
    shape = kl.shape[batch_dims:]
    keep = batch_dims + reductions.kept_dims(len(shape), reduction)
    found = kl.sum(list(range(keep, kl.dim()))) if keep < kl.dim() else kl
    weight = reductions.weight(shape, reduction)
    return reductions.weighed(found, weight)


def spread(grad_kl: Tensor, shape: torch.Size, spec: Spec, batch: Sequence[int] = ()) -> Tensor:
    """The gradient of the reduced KL as that of each variable's.

    ``shape`` and ``spec`` are of one example where a batch is in front.
    """
    variables = _variables(shape, spec)
    weight = reductions.weight(variables, spec.reduction)
    grad_kl = reductions.weighed(grad_kl, weight)
    full = *batch, *variables
    return grad_kl.reshape((*grad_kl.shape, *(1,) * (len(full) - grad_kl.dim()))).expand(full)


def forward(
    backend: ModuleType, logits: Tensor, key: Any, noise: Tensor | None, spec: Spec
) -> Found:
    """y, what its gradient is of, and the KL by a backend."""
    y, soft = (
        empty_like(logits, spec) if wanted else None for wanted in (spec.want_y, spec.want_soft)
    )
    each = None if spec.reduction is None else _allocate_each(logits, spec)
    if logits.numel():
        x = rows(logits, spec)
        backend.softmax_forward(
            spec.mode, spec.tau, spec.unimix, x,
            readable(key),
            None if noise is None else rows(noise, spec).contiguous(),
            None if y is None else rows(y, spec),
            None if soft is None else rows(soft, spec),
            None if each is None else _flat_kl(each, x, spec),
        )  # fmt: skip
    return y, soft, None if each is None else reduced(each, spec.reduction)  # type: ignore[arg-type]


def backward(
    backend: ModuleType,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor | None,
    soft: Tensor | None,
    spec: Spec,
) -> Tensor:
    """The logits' gradient by a backend. logits are None where they are not read."""
    like = soft if logits is None else logits
    assert like is not None
    grad = empty_like(like, spec)
    if grad.numel():
        x = rows(like, spec)
        backend.softmax_backward(
            spec.mode, spec.tau, spec.unimix,
            None if grad_y is None else rows(grad_y, spec),
            None if grad_kl is None else _flat_kl(spread(grad_kl, like.shape, spec), x, spec),
            x,
            None if soft is None else rows(soft, spec).contiguous(),
            rows(grad, spec),
        )  # fmt: skip
    return grad
