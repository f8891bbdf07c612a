"""How a call of the relaxed categories becomes one call of a backend: shapes, allocation, layout.

In memory order a tensor is (O, C, I): what lies outside the class dim, the classes, what lies
inside. That is how backends see it, whichever dim the classes are.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..noise import readable
from .gaussian_call import compute_dtype, kl_weight
from .layout import empty_ordered, run_stride
from .operands import check_size


class Spec(NamedTuple):
    """What a call computes: the op's arguments that are not tensors, in the schema's order."""

    order: list[int]  # memory order of the outputs, see layout.py
    mode: int
    tau: float
    unimix: float
    dim: int  # of the classes, from the front
    want_y: bool
    want_soft: bool  # HARD: also what the gradient is of
    want_kl: bool


# y, soft, kl; one that is not wanted has no elements.
Outputs = tuple[Tensor, Tensor, Tensor]


def without_class_dim(shape: torch.Size, spec: Spec) -> tuple[list[int], list[int]]:
    """The KL's shape and memory order."""
    order = [d - (d > spec.dim) for d in spec.order if d != spec.dim]
    return [*shape[: spec.dim], *shape[spec.dim + 1 :]], order


def allocate(logits: Tensor, spec: Spec) -> Outputs:
    """Uninitialised outputs."""
    y, soft = (
        empty_like(logits, spec) if wanted else logits.new_empty((0,))
        for wanted in (spec.want_y, spec.want_soft)
    )
    shape, order = without_class_dim(logits.shape, spec) if spec.want_kl else ([0], [])
    kl = empty_ordered(shape, order, compute_dtype(logits.dtype), logits.device)
    return y, soft, kl


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
    """The KL or its gradient as contiguous (O, I); logits are already (O, C, I)."""
    _, order = without_class_dim(kl.shape, spec)
    return (kl.permute(order) if order else kl).contiguous().view(logits.shape[0], logits.shape[2])


def reduced(kl: Any, reduction: str | None) -> Any:
    """The KL of each variable, if there is one, reduced."""
    if reduction is None or reduction == "none":
        return kl
    if reduction == "sample":
        return kl.flatten(1).sum(1) if kl.dim() > 1 else kl
    weight = kl_weight(kl.shape, reduction)
    return kl.sum() if weight == 1.0 else kl.sum() * weight


def forward(
    backend: ModuleType, logits: Tensor, key: Tensor | None, noise: Tensor | None, spec: Spec
) -> Outputs:
    """Compute y, what its gradient is of, and the KL with a backend."""
    check_size(logits.shape)
    y, soft, kl = allocate(logits, spec)
    if logits.numel():
        x = rows(logits, spec)
        given = None if noise is None else rows(noise, spec).contiguous()
        backend.softmax_forward(
            spec.mode, spec.tau, spec.unimix, x,
            None if key is None else readable(key), given,
            rows(y, spec) if spec.want_y else None,
            rows(soft, spec) if spec.want_soft else None,
            _flat_kl(kl, x, spec) if spec.want_kl else None,
        )  # fmt: skip
    return y, soft, kl


def backward(
    backend: ModuleType,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor | None,
    soft: Tensor | None,
    spec: Spec,
) -> Tensor:
    """Compute the logits' gradient with a backend. logits are None where they are not read."""
    like = soft if logits is None else logits
    assert like is not None
    check_size(like.shape)
    grad = empty_like(like, spec)
    if grad.numel():
        x = rows(like, spec)
        backend.softmax_backward(
            spec.mode, spec.tau, spec.unimix,
            None if grad_y is None else rows(grad_y, spec),
            None if grad_kl is None else _flat_kl(grad_kl, x, spec),
            x,
            None if soft is None else rows(soft, spec).contiguous(),
            rows(grad, spec),
        )  # fmt: skip
    return grad
