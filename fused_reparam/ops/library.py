"""The ``torch.library`` namespace of the package, and what its op families share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..core.modes import eager
from ..core.storage import held
from ..rng.cuda import GraphKey, HostKey

LIB = torch.library.Library("fused_reparam", "DEF")
# A backend reads the memory it is given: a compiler must keep the strides that the op was traced
# with, or the order of the noise would change.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)


def define(schema: str, *tags: torch.Tag) -> None:
    """Define an op of the package."""
    LIB.define(schema, tags=(*_TAGS, *tags))


_PLAIN_TYPES = frozenset((Tensor, torch.nn.Parameter))


def all_plain(*tensors: object) -> bool:
    """Whether nothing but memory and a kernel is between a call and its result: plain eager mode.

    What the dispatcher does for other tensors (negative bits, zero tensors, subclasses, tracers) it
    must go on doing.
    """
    return eager() and all(
        t is None or ordinary(t) or isinstance(t, (HostKey, GraphKey)) for t in tensors
    )


def readable(key: Any) -> Any:
    """A key as backends take it."""
    return key.contiguous() if isinstance(key, Tensor) else key


def as_tensor(t: Any) -> Any:
    """A key that only kernels know as a tensor, once a kernel has made it."""
    if isinstance(t, HostKey):
        return t.bits()
    return t.bits if isinstance(t, GraphKey) else t


def strided(t: object) -> bool:
    """Whether ``t`` is a tensor, of no subclass, that may be asked for its shape and strides."""
    return (
        type(t) in _PLAIN_TYPES
        and not t.is_nested  # type: ignore[attr-defined]
        and t.layout is torch.strided  # type: ignore[attr-defined]
    )


def ordinary(t: object) -> bool:
    """Whether ``t`` is a tensor whose memory holds its values."""
    return (
        strided(t)
        and not t.is_neg()  # type: ignore[attr-defined]
        and not t._is_zerotensor()  # type: ignore[attr-defined]
        and held(t)  # type: ignore[arg-type]
    )


def functorch_active() -> bool:
    """Whether a ``torch.func`` transform is running; never so while a compiler traces."""
    return torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling()


def forward_ad_active() -> bool:
    """Whether forward-mode derivatives are being computed (which no op here implements)."""
    return forward_ad._current_level >= 0


def needs_grad(*tensors: Tensor | None) -> bool:
    if forward_ad_active():  # the Function raises, where the tangent would be dropped in silence
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def below_autograd(op: Any, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def front(t: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The tensor with the batch as its dim 0, expanded where it has none."""
    if t is None:
        return None
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def pad(t: Tensor, dims: int) -> Tensor:
    """Ones after the batch dim, so that an example's dims broadcast as they would alone."""
    return t.reshape(t.shape[0], *[1] * (dims + 1 - t.dim()), *t.shape[1:])
