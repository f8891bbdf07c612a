"""``torch.vmap`` over the Gaussian ops: one call of the op for the whole batch.

An unbatched key means the same noise for each example (a key given by the caller, or
``randomness="same"``), a batched one a stream for each (``randomness="different"``). Either way
each example gets the numbers that it would get alone, so the noise is drawn by example and handed
to the op as ``eps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..noise import on_device
from . import gaussian_call
from .gaussian_call import Inputs, Spec
from .library import LIB, front, pad


def _batched(inputs: Inputs, in_dims: Sequence[Any], size: int, spec: Spec) -> tuple[Inputs, Spec]:
    """The inputs and spec of the element-wise op over the whole batch, with noise in place of keys.

    16-bit inputs become float32, so that the noise is not rounded on its way.
    """
    loc, scale, eps = (
        front(t, d, size)
        for t, d in zip(
            (inputs.loc, inputs.scale, inputs.eps),
            (in_dims[0], in_dims[1], in_dims[3]),
            strict=True,
        )
    )
    assert loc is not None
    dtype = gaussian_call.compute_dtype(loc.dtype)
    if scale is None:
        loc, scale = gaussian_call.halves(loc, spec.dim + 1)
    dims = max(loc.dim(), scale.dim()) - 1
    loc, scale = pad(loc, dims).to(dtype), pad(scale, dims).to(dtype)
    if eps is not None:
        eps = eps.to(dtype)
    elif inputs.key is not None:
        shape = torch.broadcast_shapes(loc.shape, scale.shape)[1:]
        key = on_device(inputs.key, loc.device)
        eps = _noise(key, in_dims[2], size, shape, spec.order, dtype)
    order = [0, *(d + 1 for d in spec.order)] if spec.order else []
    reduction = None if spec.reduction is None else "none"
    return Inputs(loc, scale, None, eps), spec._replace(order=order, reduction=reduction, dim=-1)


def _noise(
    key: Tensor, dim: int | None, size: int, shape: Any, order: list[int], dtype: torch.dtype
) -> Tensor:
    def draw(one: Tensor) -> Tensor:
        return torch.ops.fused_reparam.normal(one, shape, order, dtype)

    if dim is None:
        return draw(key).expand(size, *shape)
    return torch.stack([draw(one) for one in key.movedim(dim, 0).unbind()])


def _forward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    inputs, spec = Inputs(*args[:4]), Spec(*args[4:])
    batched, elementwise = _batched(inputs, in_dims, info.batch_size, spec)
    z, kl = torch.ops.fused_reparam.gaussian_latent(*batched, *elementwise)
    size = info.batch_size
    z = z.to(inputs.loc.dtype) if spec.sample else z.new_empty(size, 0, dtype=inputs.loc.dtype)
    if spec.reduction is None:
        kl = kl.new_empty(size, 0)
    elif spec.reduction != "none":
        shape = kl.shape[1:]
        kept = len(gaussian_call.kl_shape(shape, spec.reduction))
        kl = kl.flatten(1 + kept).sum(-1) if kept < len(shape) else kl
        kl = kl * gaussian_call.kl_weight(shape, spec.reduction)
    return (z, kl), (0, 0)


def _backward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    inputs, spec, needs = Inputs(*args[2:6]), Spec(*args[6:-1]), args[-1]
    size = info.batch_size
    grad_z, grad_kl = (front(t, d, size) for t, d in zip(args[:2], in_dims[:2], strict=True))
    batched, elementwise = _batched(inputs, in_dims[2:6], size, spec)
    assert batched.scale is not None
    shape = torch.broadcast_shapes(batched.loc.shape, batched.scale.shape)
    dtype = batched.loc.dtype
    if grad_z is not None:
        grad_z = grad_z.to(dtype)
    if grad_kl is not None:
        assert spec.reduction is not None
        grad_kl = gaussian_call.spread(grad_kl, shape)
        grad_kl = grad_kl * gaussian_call.kl_weight(shape[1:], spec.reduction)
    moments = inputs.scale is None
    each = [needs[0], needs[0] if moments else needs[1], needs[2] and batched.eps is not None]
    grads = torch.ops.fused_reparam.gaussian_latent_backward(
        grad_z, grad_kl, *batched, *elementwise, each
    )
    if moments:
        grads = (torch.cat(grads[:2], spec.dim + 1) if needs[0] else grads[0], grads[1], grads[2])
    found = []
    for grad, needed, like, d in zip(
        grads, needs, (inputs.loc, inputs.scale, inputs.eps), (in_dims[2], in_dims[3], in_dims[5]),
        strict=True,
    ):  # fmt: skip
        if like is None or not needed:
            found.append(inputs.loc.new_empty(size, 0))
        else:
            example = like.shape if d is None else like.movedim(d, 0).shape[1:]
            found.append(grad.reshape(size, *example).to(like.dtype))
    return tuple(found), (0, 0, 0)


torch.library.register_vmap("fused_reparam::gaussian_latent", _forward, lib=LIB)
torch.library.register_vmap("fused_reparam::gaussian_latent_backward", _backward, lib=LIB)
