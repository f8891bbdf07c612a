"""The gradient of the Gumbel-softmax' backward pass, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..families.categorical import ONE_HOT
from .softmax_call import Spec, reduced, spread

Found = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _centred(p: Tensor, x: Tensor, dim: int) -> Tensor:
    """``p (x - sum p x)``: the gradient of the softmax that gave p, for the gradient x."""
    return p * (x - (p * x).sum(dim, keepdim=True))


def double_backward(
    cotangent: Tensor,
    spec: Spec,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor | None,
    soft: Tensor | None,
) -> Found:
    """Gradients of the backward pass for grad_y, grad_kl, logits and soft.

    Plain PyTorch, so that it can be differentiated again. The backward pass, of which the
    cotangent ``a`` is a gradient, is with s = soft (or p), p = softmax(logits), c_p(x) = p (x -
    sum p x) and f = 1 / tau (or 1 - unimix)::

        f c_s(grad_y) + grad_kl c_p(log p)
    """
    like = soft if logits is None else logits
    assert like is not None
    dim, dtype = spec.dim, compute_dtype(like.dtype)
    a = cotangent.to(dtype)
    p = q = to_gy = to_gk = to_logits = to_soft = None
    if logits is not None:
        q = torch.log_softmax(logits.to(dtype), dim)
        p = torch.exp(q)
        q = torch.where(p == 0, 0.0, q)
    if grad_y is not None:
        s = p if spec.mode == ONE_HOT else soft
        assert s is not None
        s = s.to(dtype)
        factor = 1.0 - spec.unimix if spec.mode == ONE_HOT else 1.0 / spec.tau
        g = grad_y.to(dtype)
        to_gy = (factor * _centred(s, a, dim)).to(grad_y.dtype)
        sums = [(s * x).sum(dim, keepdim=True) for x in (g, a)]
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
    return to_gy, to_gk, to_logits, to_soft
