"""Tensors that were changed behind our back.

``t.untyped_storage().resize_(0)``, with which sharded models free their parameters, leaves a tensor
that has a shape and no memory: PyTorch's own operators read outside of it. A hook on saved tensors
may return any other tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .mistakes import described

TENSOR_TYPES = frozenset((Tensor, torch.nn.Parameter))


def held(t: Tensor) -> bool:
    """Whether a tensor has its memory; one of a subclass, or without a storage, need not."""
    return type(t) not in TENSOR_TYPES or in_memory(t) is not False


def in_memory(t: Tensor) -> bool | None:
    """Whether a tensor's storage holds all its elements; None for one that has no storage.

    Those are of another layout, or wrapped by a transform: by ``torch.vmap``, or by what
    ``torch.autograd.grad(is_grads_batched=True)`` does, which no transform's state tells of.
    """
    try:
        nbytes = t.untyped_storage().nbytes()
    except NotImplementedError:
        return None
    if t.is_contiguous():
        return nbytes >= t.storage_offset() * t.itemsize + t.nbytes or not t.numel()
    end = t.storage_offset() + 1
    for size, stride in zip(t.shape, t.stride(), strict=True):
        end += (size - 1) * stride
    return nbytes >= end * t.itemsize or not t.numel()


def check_held(name: str, t: Tensor) -> None:
    """Raise ValueError unless a tensor has its memory."""
    if not held(t):
        raise ValueError(
            f"the storage of {name} has {t.untyped_storage().nbytes()} bytes, too few for shape "
            f"{tuple(t.shape)} and strides {t.stride()} of {t.dtype}: it was freed or shrunk"
        )


def check_given(name: str, t: Tensor) -> None:
    """The same, except in what a compiler traces: the op that it calls will ask."""
    if not torch.compiler.is_compiling():
        check_held(name, t)


def check_gradients(grads: Sequence[Tensor | None]) -> None:
    """Raise ValueError unless the gradients that came to a node have their memory."""
    for i, grad in enumerate(grads):
        if grad is not None:
            check_held(f"gradient {i}", grad)


def check_saved(
    found: Sequence[Tensor | None], kept: Sequence[tuple[Any, ...] | None]
) -> tuple[Tensor | None, ...]:
    """What was saved, of the dtypes it had; RuntimeError where a hook has returned anything else.

    ``kept`` has the shape, strides, dtype and device of each tensor that was saved. A hook may
    change its strides, and the dtype of a floating tensor.
    """
    restored = list(found)
    for i, (t, was) in enumerate(zip(found, kept, strict=True)):
        if t is None or was is None:
            continue
        shape, _, dtype, device = was
        same = not t.is_nested and t.layout is torch.strided and t.device == device
        same = same and t.shape == shape and not t.is_quantized and held(t)
        if same and not dtype.is_floating_point:
            same = t.dtype in (torch.int64, torch.uint64)
        if not same:
            raise RuntimeError(
                f"a hook on saved tensors returned {described(t)} on {t.device} where a tensor of "
                f"shape {tuple(shape)} and {dtype} on {device} had been saved"
            )
        if dtype.is_floating_point:
            restored[i] = t.to(dtype)
    return tuple(restored)
