"""The short way through relaxed categories: contiguous logits, in plain eager mode.

As ``draw_short.py`` it does what is left of a small call where nothing has to be laid out, and
declines everything else, bad input included, to the general way. So does the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import noise
from ..backends import native_host, select
from ..backends.reference.rows import HARD, ONE_HOT, SOFT
from ..modes import eager
from . import gaussian_call, rows_call
from .library import at_hand, forward_ad_active, ordinary, strided
from .operands import check_size, save, saved
from .rows import categories_backward, summed, temperature_within
from .rows_call import Spec

_KL_DTYPES = {
    dtype: gaussian_call.compute_dtype(dtype)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}
Key = Tensor | noise.HostKey | noise.GraphKey
# y, what its gradient is of (HARD, with a gradient), the KL
Found = tuple[Tensor, Tensor | None, Tensor | None]


class Geometry(NamedTuple):
    """What depends on the shape alone."""

    size: tuple[int, int, int]  # outside the classes, classes, inside
    variables: torch.Size  # the shape without the classes


@functools.lru_cache(maxsize=4096)
def _geometry(shape: torch.Size, dim: int) -> Geometry | None:
    check_size(shape)
    if not shape.numel():
        return None
    outside, inside = shape[:dim], shape[dim + 1 :]
    size = (outside.numel(), shape[dim], inside.numel())
    return Geometry(size, torch.Size((*outside, *inside)))


class HostCall(NamedTuple):
    """What a call computes: a RowsPlan of kernels/host_rows.h, which reads the fields by place."""

    mode: int
    tau: float
    unimix: float
    dim: int
    kl: int  # 0: none; 1: of each variable; 2: their sum, weighted
    weight: float

    def general_backward(
        self,
        backend: ModuleType,
        _: Sequence[bool],
        grads: Sequence[Tensor | None],
        __: None,
        saved: Sequence[Tensor | None],
    ) -> tuple[Tensor | None]:
        """The backward pass where it is not of the usual kind."""
        mode, tau, unimix, dim, kl, weight = self
        logits, soft = saved
        spec = Spec([], mode, tau, unimix, dim, True, mode == HARD, kl > 0)
        grad_y = summed(grads[0], grads[1]) if mode == HARD else grads[0]
        compute = functools.partial(rows_call.backward, backend)
        of_kl: Tensor | None = grads[-1] if kl else None
        if of_kl is not None and kl == 2:
            assert logits is not None
            shape = rows_call.without_class_dim(logits.shape, spec)[0]
            of_kl = (of_kl * weight).expand(shape)
        return (categories_backward(compute, grad_y, of_kl, logits, soft, spec),)


class Call(NamedTuple):
    """What a call computes, and by which backend."""

    backend: ModuleType
    spec: Spec
    geometry: Geometry


def draw(
    logits: Tensor,
    mode: int,
    tau: float,
    unimix: float,
    dim: int,
    reduction: str | None,
    key: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor | None] | None:
    """y and the KL, or None when the call has to go the general way.

    A key has been checked, and ``dim`` counts from the front.
    """
    tau = temperature_within(tau)
    found = _by_host(logits, mode, tau, unimix, dim, reduction, key, generator)
    if found is not None:
        return found
    if not eager() or not ordinary(logits) or forward_ad_active():
        return None
    if logits.dtype not in _KL_DTYPES or not logits.is_contiguous():
        return None
    device = logits.device
    if key is not None and not at_hand(key, logits):
        return None
    geometry = _geometry(logits.shape, dim)
    if geometry is None:
        return None
    backend = select.pick(device)
    drawn: Key | None = key
    if drawn is None:
        drawn = noise.draw_for(backend, device, generator)
    needs_grad = logits.requires_grad and torch.is_grad_enabled()
    want_soft = needs_grad and mode == HARD
    spec = Spec([], mode, tau, unimix, dim, True, want_soft, reduction is not None)
    call = Call(backend, spec, geometry)
    y, _, each = (_apply if needs_grad else _forward)(call, drawn, logits)
    return y, rows_call.reduced(each, reduction)


def _by_host(
    logits: Tensor,
    mode: int,
    tau: float,
    unimix: float,
    dim: int,
    reduction: str | None,
    key: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor | None] | None:
    """The same by the native backend's host path; None where it declines or there is none."""
    host = None if torch.compiler.is_compiling() else native_host.module
    if host is None or not strided(logits) or not logits.is_cpu:
        return None
    geometry = _geometry(logits.shape, dim)
    if geometry is None:
        return None
    summed_up = reduction in gaussian_call.SUMMED
    kl = 0 if reduction is None else 2 if summed_up else 1
    weight = gaussian_call.kl_weight(geometry.variables, reduction) if summed_up else 1.0
    call = HostCall(mode, tau, unimix, dim, kl, weight)
    found = host.rows(logits, call, key, generator)
    if found is None or kl != 1:
        return found  # type: ignore[no-any-return]
    return found[0], rows_call.reduced(found[1], reduction)


def _forward(call: Call, key: Key, logits: Tensor) -> Found:
    backend, spec, (size, variables) = call
    y = torch.empty_like(logits)
    soft = torch.empty_like(logits) if spec.want_soft else None
    kl = logits.new_empty(variables, dtype=_KL_DTYPES[logits.dtype]) if spec.want_kl else None
    backend.softmax_forward(
        spec.mode, spec.tau, spec.unimix, logits.view(size), key, None, y.view(size),
        None if soft is None else soft.view(size),
        None if kl is None else kl.view(size[0], size[2]),
    )  # fmt: skip
    return y, soft, kl


class ShortCategories(torch.autograd.Function):
    """The short way with its gradient; saves what ``rows.Categories`` does."""

    @staticmethod
    def forward(ctx: Any, call: Call, key: Key, logits: Tensor) -> Found:
        y, soft, kl = _forward(call, key, logits)
        spec = call.spec
        saved_soft = {SOFT: y, HARD: soft, ONE_HOT: None}[spec.mode]
        save(ctx, logits if spec.want_kl or spec.mode == ONE_HOT else None, saved_soft)
        ctx.set_materialize_grads(False)
        ctx.call, ctx.dtype = call, logits.dtype
        return y, soft, kl

    @staticmethod
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_soft: Tensor | None, grad_kl: Tensor | None
    ) -> Any:
        kept = saved(ctx, grad_y, grad_soft, grad_kl)
        backend, spec, (size, _) = ctx.call
        grad_y = summed(grad_y, grad_soft)
        if (
            torch.is_grad_enabled()
            or not eager()
            or (grad_y is None and grad_kl is None)
            # A hook on saved tensors may have changed them.
            or not all(t is None or (t.dtype is ctx.dtype and t.is_contiguous()) for t in kept)
            or not (grad_y is None or (ordinary(grad_y) and grad_y.is_contiguous()))
            or not (grad_kl is None or ordinary(grad_kl))
        ):
            # Unpacked once: a checkpoint allows no more.
            logits, soft = (t if t is None else t.to(ctx.dtype) for t in kept)
            compute = functools.partial(rows_call.backward, backend)
            return None, None, categories_backward(compute, grad_y, grad_kl, logits, soft, spec)
        logits, soft = kept
        like = soft if logits is None else logits
        grad = torch.empty_like(like)
        backend.softmax_backward(
            spec.mode, spec.tau, spec.unimix,
            None if grad_y is None else grad_y.view(size),
            None if grad_kl is None else grad_kl.contiguous().view(size[0], size[2]),
            like.view(size),
            None if soft is None else soft.view(size),
            grad.view(size),
        )  # fmt: skip
        return None, None, grad


# As in draw_short.py.
_apply = super(torch.autograd.Function, ShortCategories).apply
