"""The ``torch.library`` namespace of the package, and what its op families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..core.modes import eager
from ..core.storage import TENSOR_TYPES, in_memory
from ..rng.cuda import GraphKey, HostKey
from ..rng.keys import Fresh
from .sharded import refuse_sharded

LIB = torch.library.Library("fused_reparam", "DEF")
# A backend reads the memory it is given: a compiler must keep the strides that the op was traced
# with, or the order of the noise would change.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)


def define(schema: str, *tags: torch.Tag) -> None:
    """Define an op of the package."""
    LIB.define(schema, tags=(*_TAGS, *tags))


_NO_TENSORS = frozenset((Fresh, HostKey, GraphKey))
_STRIDED = torch.strided
Facts = tuple[Any, ...]


def facts_of(tensors: Sequence[Any]) -> Facts:
    """Shape, strides, dtype and device of tensors: what a layout follows from.

    Of a key that is not a tensor yet, its type.
    """
    return tuple([
        None if t is None
        else (t.shape, t.stride(), t.dtype, t.device) if isinstance(t, Tensor)
        else type(t)
        for t in tensors
    ])  # fmt: skip


def eager_facts(tensors: Sequence[Any]) -> Facts | None:
    """The same, where nothing but memory and a kernel is between the tensors and a result.

    None where the dispatcher has more to do (negative bits, zero tensors, subclasses, tracers), or
    somebody looks on. All checks are in one loop: they are a large part of a small call.
    """
    if not eager():
        return None
    found: list[Any] = []
    for t in tensors:
        if t is None:
            found.append(None)
        elif type(t) in TENSOR_TYPES:
            if t.is_nested or t.layout is not _STRIDED or t.is_neg() or t._is_zerotensor():
                return None
            if not in_memory(t):
                return None
            found.append((t.shape, t.stride(), t.dtype, t.device))
        elif type(t) in _NO_TENSORS:
            found.append(type(t))
        else:
            return None
    return tuple(found)


def all_eager(*tensors: Any) -> bool:
    """Whether ``eager_facts`` has found any."""
    return eager_facts(tensors) is not None


def readable(key: Any) -> Any:
    """A key as backends take it."""
    return key.contiguous() if isinstance(key, Tensor) else key


def as_tensor(t: Any) -> Any:
    """A key that only kernels know as a tensor, once a kernel has made it."""
    if type(t) is Fresh:
        t = t.key
    if isinstance(t, HostKey):
        return t.bits()
    return t.bits if isinstance(t, GraphKey) else t


def functorch_active() -> bool:
    """Whether a ``torch.func`` transform is running; never so while a compiler traces."""
    return torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling()


def forward_ad_active() -> bool:
    """Whether forward-mode derivatives are being computed."""
    return forward_ad._current_level >= 0


def needs_grad(*tensors: Tensor | None) -> bool:
    if forward_ad._current_level >= 0:  # a tangent, which only the Function hands on
        return True
    if torch.is_grad_enabled():
        for t in tensors:
            if isinstance(t, Tensor) and t.requires_grad:
                return True
    return False


def below_autograd(op: Any, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def register_vmap(name: str, rule: Callable[..., Any]) -> None:
    """``torch.vmap`` over an op: ``rule`` of a batch that has an example.

    An empty batch has none to take shapes and noise from: it is computed of zeros, and left out.
    """

    def of_any_size(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
        refuse_sharded(args)
        if info.batch_size:
            return rule(info, in_dims, *args)
        one = [
            a.new_zeros([*a.shape[:d], 1, *a.shape[d + 1 :]]) if isinstance(d, int) else a
            for a, d in zip(args, in_dims, strict=True)
        ]
        found, dims = rule(info._replace(batch_size=1), in_dims, *one)
        if isinstance(found, Tensor):
            return found.narrow(dims, 0, 0), dims
        return tuple([f.narrow(d, 0, 0) for f, d in zip(found, dims, strict=True)]), dims

    torch.library.register_vmap(f"fused_reparam::{name}", of_any_size, lib=LIB)


def front(t: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The tensor with the batch as its dim 0, expanded where it has none."""
    if t is None:
        return None
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def pad(t: Tensor, dims: int) -> Tensor:
    """Ones after the batch dim, so that an example's dims broadcast as they would alone."""
    return t.reshape(t.shape[0], *[1] * (dims + 1 - t.dim()), *t.shape[1:])
