"""``torch.vmap`` over the relaxed categories: one call of the op for the whole batch.

As in ``gaussian_vmap.py``, each example gets the noise that it would get alone, so it is drawn by
example and handed to the op; 16-bit logits become float32, so that it is not rounded on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..noise import on_device
from .gaussian_call import compute_dtype
from .library import LIB, front
from .rows_call import Spec


def _shifted(spec: Spec) -> Spec:
    """The spec for a batch in front."""
    order = [0, *(d + 1 for d in spec.order)] if spec.order else []
    return spec._replace(order=order, dim=spec.dim + 1)


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
    logits, key, noise = args[:3]
    spec, dtype = Spec(*args[3:]), logits.dtype
    batch = front(logits, in_dims[0], info.batch_size)
    assert batch is not None
    batch = batch.to(compute_dtype(dtype))
    noise = front(noise, in_dims[2], info.batch_size)
    if noise is not None:
        noise = noise.to(batch.dtype)
    elif key is not None and spec.want_y:
        noise = _noise(on_device(key, logits.device), in_dims[1], batch, spec)
    y, soft, kl = torch.ops.fused_reparam.relaxed_categories(batch, None, noise, *_shifted(spec))
    return (
        _or_empty(y.to(dtype), spec.want_y, info.batch_size),
        _or_empty(soft.to(dtype), spec.want_soft, info.batch_size),
        _or_empty(kl, spec.want_kl, info.batch_size),
    ), (0, 0, 0)


def _or_empty(t: Tensor, wanted: bool, size: int) -> Tensor:
    return t if wanted else t.new_empty((size, 0))


def _backward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    tensors = [front(t, d, info.batch_size) for t, d in zip(args[:4], in_dims[:4], strict=True)]
    spec = _shifted(Spec(*args[4:]))
    return torch.ops.fused_reparam.relaxed_categories_backward(*tensors, *spec), 0


torch.library.register_vmap("fused_reparam::relaxed_categories", _forward, lib=LIB)
torch.library.register_vmap("fused_reparam::relaxed_categories_backward", _backward, lib=LIB)
