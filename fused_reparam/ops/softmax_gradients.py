"""Gradients of the Gumbel-softmax in plain PyTorch: of control, and of the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vjp

from ..core.dtypes import compute_dtype
from ..core.reductions import reduced
from ..families.categorical import ONE_HOT, bounded, numbers_of
from .softmax_call import Spec, spread

Found = tuple[Tensor | None, ...]


def _centred(p: Tensor, x: Tensor, dim: int) -> Tensor:
    """``p (x - sum p x)``: the gradient of the softmax that gave p, for the gradient x."""
    return p * (x - (p * x).sum(dim, keepdim=True))


def control_gradient(
    spec: Spec,
    grad_y: Tensor | None,
    logits: Tensor | None,
    soft: Tensor | None,
    control: Tensor,
    of_logits: Tensor | None = None,
) -> Tensor:
    """That of tau, which moves the logarithms of soft by ``-log soft / tau`` and what sums to
    nothing; or that of unimix, which moves m by ``1 / C - p``. ``of_logits``: the logits' gradient
    where it is of y alone.
    """
    dim, dtype = spec.dim, control.dtype
    if grad_y is None:
        return torch.zeros_like(control)
    g = grad_y.to(dtype)
    if spec.mode == ONE_HOT:
        assert logits is not None
        p = torch.softmax(logits.to(dtype), dim)
        each = g.mean(dim, keepdim=True) - (p * g).sum(dim, keepdim=True)
    else:
        assert soft is not None
        s = soft.to(dtype)
        if of_logits is None:
            of_logits = _centred(s, g, dim) / bounded(control)
        # A share of 0 has a gradient of 0, which is to meet no infinite logarithm.
        each = torch.log(s.clamp_min(torch.finfo(dtype).tiny)) * of_logits.to(dtype)
        if control.numel() == 1:
            return -each.sum().reshape(control.shape)
        each = -each.sum(dim, keepdim=True)
    return each.sum_to_size(control.shape)


def double_backward(
    cotangents: Sequence[Tensor | None],
    spec: Spec,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor | None,
    soft: Tensor | None,
    control: Tensor | None,
) -> Found:
    """Gradients of the backward pass for grad_y, grad_kl, logits, soft and control.

    Plain PyTorch, so that it can be differentiated again. ``cotangents`` are of the gradients of
    the logits and of control.
    """
    of_logits, of_control = cotangents
    tensors = grad_y, grad_kl, logits, soft, control
    found: Found = (None,) * len(tensors)
    if of_logits is not None:
        found = _through_logits(of_logits, spec, *tensors)
    if of_control is None or grad_y is None or control is None:
        return found
    at = (0, 2, 4) if spec.mode == ONE_HOT else (0, 3, 4)

    def gradient(*given: Tensor) -> Tensor:
        all_of = dict(zip(at, given, strict=True))
        return control_gradient(spec, all_of[0], all_of.get(2), all_of.get(3), all_of[4])

    more = vjp(gradient, *(tensors[i] for i in at))[1](of_control)
    total = list(found)
    for i, m in zip(at, more, strict=True):
        before = total[i]
        total[i] = m if before is None else before + m
    return tuple(total)


def _through_logits(
    cotangent: Tensor,
    spec: Spec,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor | None,
    soft: Tensor | None,
    control: Tensor | None,
) -> Found:
    """The same for the gradient of the logits alone.

    With the cotangent ``a``, s = soft (or p), p = softmax(logits), c_p(x) = p (x - sum p x) and f =
    1 / tau (or 1 - unimix) that gradient is::

        f c_s(grad_y) + grad_kl c_p(log p)
    """
    like = soft if logits is None else logits
    assert like is not None
    dim, dtype = spec.dim, compute_dtype(like.dtype)
    a = cotangent.to(dtype)
    p = q = to_gy = to_gk = to_logits = to_soft = to_control = None
    if logits is not None:
        q = torch.log_softmax(logits.to(dtype), dim)
        p = torch.exp(q)
        q = torch.where(p == 0, 0.0, q)
    if grad_y is not None:
        s = p if spec.mode == ONE_HOT else soft
        assert s is not None
        s = s.to(dtype)
        tau, unimix = numbers_of(spec.mode, spec.tau, spec.unimix, control)
        factor = 1.0 - unimix if spec.mode == ONE_HOT else 1.0 / bounded(tau)
        g = grad_y.to(dtype)
        to_gy = (factor * _centred(s, a, dim)).to(grad_y.dtype)
        sums = [(s * x).sum(dim, keepdim=True) for x in (g, a)]
        if control is not None:
            each = (g * _centred(s, a, dim)).sum(dim, keepdim=True)
            slope = -1.0 if spec.mode == ONE_HOT else -factor * factor
            to_control = (each * slope).sum_to_size(control.shape)
        to_s = factor * (a * (g - sums[0]) - g * sums[1])
        if spec.mode == ONE_HOT:
            to_logits = _centred(s, to_s, dim)
        else:
            to_soft = to_s.to(like.dtype)
    if grad_kl is not None:
        assert p is not None
        assert q is not None
        assert spec.reduction is not None
        assert logits is not None
        to_gk = reduced((a * _centred(p, q, dim)).sum(dim), spec.reduction)
        h = a * (1.0 + q) - (p * a).sum(dim, keepdim=True) * q - a * (p * q).sum(dim, keepdim=True)
        from_kl = spread(grad_kl, logits.shape, spec).unsqueeze(dim) * _centred(p, h, dim)
        to_logits = from_kl if to_logits is None else to_logits + from_kl
    if logits is not None:
        to_logits = torch.zeros_like(logits) if to_logits is None else to_logits.to(logits.dtype)
    return to_gy, to_gk, to_logits, to_soft, to_control
