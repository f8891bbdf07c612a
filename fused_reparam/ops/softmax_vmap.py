"""``torch.vmap`` over the Gumbel-softmax: one call of the op for the whole batch.

As in ``elementwise_vmap.py``, each example gets the noise that it would get alone, so it is drawn
by example and handed to the op; 16-bit logits become float32, so that it is not rounded on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.reductions import reduced
from ..rng.keys import on_device
from .layout import UNSETTLED, memory_order, shifted_order
from .library import front, pad, register_vmap
from .softmax_call import Spec, spread


def _shifted(spec: Spec) -> Spec:
    """The spec for a batch in front; what is to be reduced is so by example, here."""
    order = shifted_order(spec.order, 1)
    reduction = None if spec.reduction is None else "none"
    return spec._replace(order=order, dim=spec.dim + 1, reduction=reduction)


def _noise(key: Tensor, dim: int | None, logits: Tensor, spec: Spec) -> Tensor:
    shape = logits.shape[1:]

    def draw(one: Tensor) -> Tensor:
        return torch.ops.fused_reparam.base_noise(
            one, shape, spec.order, logits.dtype, "gumbel", 0.0
        )

    if dim is None:
        return draw(key).expand(logits.shape)
    return torch.stack([draw(one) for one in key.movedim(dim, 0).unbind()])


def _forward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    logits, key, noise, control = args[:4]
    spec, dtype = Spec(*args[4:]), logits.dtype
    batch = front(logits, in_dims[0], info.batch_size)
    assert batch is not None
    if spec.order is UNSETTLED:
        spec = spec._replace(order=memory_order(batch[0]))
    batch = batch.to(compute_dtype(dtype))
    noise = front(noise, in_dims[2], info.batch_size)
    if noise is not None:
        noise = noise.to(batch.dtype)
    elif key is not None and spec.want_y:
        noise = _noise(on_device(key, logits.device), in_dims[1], batch, spec)
    y, soft, kl = torch.ops.fused_reparam.gumbel_softmax(
        batch, None, noise, _control(control, in_dims[3], batch), *_shifted(spec)
    )
    if spec.reduction is not None:
        kl = reduced(kl, spec.reduction, 1)
    return (
        _or_empty(y.to(dtype), spec.want_y, info.batch_size),
        _or_empty(soft.to(dtype), spec.want_soft, info.batch_size),
        _or_empty(kl, spec.reduction is not None, info.batch_size),
    ), (0, 0, 0)


def _control(control: Tensor | None, dim: int | None, batch: Tensor) -> Tensor | None:
    """One number for each example, or one for each of its variables."""
    found = front(control, dim, batch.shape[0])
    return None if found is None else pad(found, batch.dim() - 1)


def _or_empty(t: Tensor, wanted: bool, size: int) -> Tensor:
    return t if wanted else t.new_empty((size, 0))


def _backward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    tensors = [front(t, d, info.batch_size) for t, d in zip(args[:5], in_dims[:5], strict=True)]
    grad_y, grad_soft, grad_kl, logits, soft = tensors
    control, spec, needs = args[5], Spec(*args[6:-1]), args[-1]
    like = soft if logits is None else logits
    assert like is not None
    if grad_kl is not None:
        grad_kl = spread(grad_kl, like.shape[1:], spec, like.shape[:1])
    whole = _control(control, in_dims[5], like)
    of_logits, of_control = torch.ops.fused_reparam.gumbel_softmax_backward(
        grad_y, grad_soft, grad_kl, logits, soft, whole, *_shifted(spec), needs
    )
    if control is None or not needs[1]:
        of_control = like.new_empty(info.batch_size, 0)
    else:
        example = control.shape if in_dims[5] is None else control.movedim(in_dims[5], 0).shape[1:]
        of_control = of_control.reshape(info.batch_size, *example)
    if not needs[0]:
        of_logits = like.new_empty(info.batch_size, 0)
    return (of_logits, of_control), (0, 0)


register_vmap("gumbel_softmax", _forward)
register_vmap("gumbel_softmax_backward", _backward)
