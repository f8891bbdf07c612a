"""How a call of the Gaussian latent becomes one call of a backend: shapes, allocation, layout.

``scale=None`` means that ``loc`` holds both parameters, its two halves along ``dim``; the gradient
is then one tensor in its layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ..backends import reference
from ..noise import readable
from .layout import arrange, empty_ordered, outermost_is_dim0
from .operands import check_size

REDUCTIONS = ("none", "sample", "sum", "mean", "batchmean")
SUMMED = frozenset(("sum", "mean", "batchmean"))  # one number for everything


class Spec(NamedTuple):
    """What a call computes: the op's arguments that are not tensors, in the schema's order."""

    order: list[int]  # memory order of the sample, see layout.py
    kind: int  # position in reference.SCALE_KINDS
    low: float  # bounds on the scale parameter
    high: float
    reduction: str | None  # None: no KL
    sample: bool  # whether z is wanted
    dim: int  # along which loc holds both parameters, where scale is None


class Inputs(NamedTuple):
    """What is saved for the backward pass."""

    loc: Tensor
    scale: Tensor | None
    key: Tensor | None
    eps: Tensor | None


Grads = tuple[Tensor | None, Tensor | None, Tensor | None]  # of loc, scale, eps
_NOTHING = torch.Size((0,))  # the shape of an output that is not wanted


def halves(moments: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The two halves of a tensor along a dim, as views."""
    half = moments.shape[dim] // 2
    return moments.narrow(dim, 0, half), moments.narrow(dim, half, half)


def operands(loc: Tensor, scale: Tensor | None, dim: int) -> tuple[Tensor, Tensor]:
    """Location and scale parameter broadcast to one shape, as views."""
    if scale is None:
        return halves(loc, dim)
    if loc.dim() == scale.dim() and loc.shape == scale.shape:
        return loc, scale
    shape = torch.broadcast_shapes(loc.shape, scale.shape)
    return loc.expand(shape), scale.expand(shape)


def kl_shape(shape: torch.Size, reduction: str) -> torch.Size:
    if reduction == "none":
        return shape
    return shape[:1] if reduction == "sample" else shape[:0]


def kl_weight(shape: torch.Size, reduction: str | None) -> float:
    """The factor of a sum of element KLs; nan for a mean over nothing, as torch.mean has it."""
    if reduction == "mean":
        count = shape.numel()
    elif reduction == "batchmean" and shape:
        count = shape[0]
    else:
        return 1.0
    return 1.0 / count if count else float("nan")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic, and of the KL."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def allocate(loc: Tensor, shape: torch.Size, spec: Spec) -> tuple[Tensor, Tensor]:
    """Uninitialised z and KL; an output that is not wanted is a tensor without elements."""
    order, reduction, device = spec.order, spec.reduction, loc.device
    if spec.sample:
        z = empty_ordered(shape, order, loc.dtype, device)
    else:
        z = torch.empty(_NOTHING, dtype=loc.dtype, device=device)
    return z, empty_ordered(
        _NOTHING if reduction is None else kl_shape(shape, reduction),
        order if reduction == "none" else [],
        compute_dtype(loc.dtype),
        device,
    )


def allocate_grads(
    inputs: Inputs, shape: torch.Size, spec: Spec, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Uninitialised gradients of loc and scale at the sample's shape, and of the moments.

    The first two are views of the third where there are moments.
    """
    loc, order = inputs.loc, spec.order
    if inputs.scale is None:
        moments = empty_ordered(loc.shape, order, loc.dtype, loc.device)
        return *halves(moments, spec.dim), moments
    to_loc, to_scale = (
        empty_ordered(shape, order, loc.dtype, loc.device) if needed else None
        for needed in needs[:2]
    )
    return to_loc, to_scale, None


def forward(backend: ModuleType, inputs: Inputs, spec: Spec) -> tuple[Tensor, Tensor]:
    """Compute z and the KL with a backend."""
    loc, scale, key, eps = inputs
    order, kind, low, high, reduction, sample, dim = spec
    mu, x = operands(loc, scale, dim)
    shape = mu.shape
    check_size(shape)
    key = None if key is None else readable(key)
    z, kl = allocate(loc, shape, spec)
    weight = kl_weight(shape, reduction)
    if not mu.numel():
        return z, kl.fill_(0.0 * weight)
    kl_out, elementwise = (kl, False) if reduction is not None else (None, False)
    if reduction is not None:
        elementwise = kl.numel() == mu.numel() or _scattered(shape, spec)
        if kl.numel() == mu.numel():
            kl_out = kl.view(shape)
        elif elementwise:
            kl_out = empty_ordered(shape, order, kl.dtype, kl.device)
    dense, ins, outs = arrange(
        order, (mu, x, eps), (z if sample else None, kl_out if elementwise else None)
    )
    backend.gaussian_forward(
        *ins[:2], key, ins[2], kind, low, high, weight, dense,
        outs[0], outs[1] if elementwise else kl_out,
    )  # fmt: skip
    if kl_out is not None and kl.numel() < kl_out.numel():
        torch.sum(kl_out.flatten(1), 1, out=kl)
    return z, kl


def _scattered(shape: torch.Size, spec: Spec) -> bool:
    """Whether the elements of a sample are apart in memory, so that torch must sum their KLs."""
    return spec.reduction == "sample" and not outermost_is_dim0(shape, spec.order)


def backward(
    backend: ModuleType,
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    inputs: Inputs,
    spec: Spec,
    needs: Sequence[bool],
) -> Grads:
    """Compute the gradients that are needed of loc (or moments), scale and eps with a backend."""
    loc, scale, key, eps = inputs
    order, kind, low, high, reduction, _, dim = spec
    mu, x = operands(loc, scale, dim)
    shape = mu.shape
    check_size(shape)
    if grad_z is None and grad_kl is None:
        grad_z = torch.zeros(shape, dtype=loc.dtype, device=loc.device)
    to_loc, to_scale, moments = allocate_grads(inputs, shape, spec, needs)
    to_eps = None
    if needs[2]:
        assert eps is not None
        to_eps = torch.empty_like(eps)
        to_eps.copy_(torch.zeros_like(eps) if grad_z is None else _eps_grad(grad_z, x, spec))
    if (to_loc is not None or to_scale is not None) and mu.numel():
        weight, elementwise = 1.0, False
        if grad_kl is not None:
            assert reduction is not None
            weight = kl_weight(shape, reduction)
            elementwise = grad_kl.numel() == mu.numel() or _scattered(shape, spec)
            grad_kl = spread(grad_kl, shape) if elementwise else grad_kl.contiguous()
        dense, ins, outs = arrange(
            order,
            (grad_z, grad_kl if elementwise else None, mu, x, None if grad_z is None else eps),
            (to_loc, to_scale),
        )
        key = None if grad_z is None or key is None else readable(key)
        backend.gaussian_backward(
            ins[0], ins[1] if elementwise else grad_kl, ins[2], ins[3], key, ins[4],
            kind, low, high, weight, dense, *outs,
        )  # fmt: skip
    if moments is not None:
        return moments, None, to_eps
    return unbroadcast(to_loc, loc), unbroadcast(to_scale, scale), to_eps


def spread(grad_kl: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of a KL of any reduction, expanded to the elements' shape; a view."""
    ones = (1,) * (len(shape) - grad_kl.dim())
    return grad_kl.reshape(grad_kl.shape + ones).expand(shape)


def _eps_grad(grad_z: Tensor, x: Tensor, spec: Spec) -> Tensor:
    compute = compute_dtype(grad_z.dtype)
    sigma = reference.sigma_of(reference.clamp(x.to(compute), spec.low, spec.high), spec.kind)
    return (grad_z * sigma).to(grad_z.dtype)


def unbroadcast(grad: Tensor | None, like: Tensor | None) -> Tensor | None:
    """A gradient summed to the shape of what was broadcast."""
    if grad is None or like is None or grad.shape == like.shape:
        return grad
    return grad.sum_to_size(like.shape)
