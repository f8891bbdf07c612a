"""The ``torch.library`` namespace of the package, and what its op families share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..modes import eager

LIB = torch.library.Library("fused_reparam", "DEF")
# A backend reads the memory it is given: a compiler must keep the strides that the op was traced
# with, or the order of the noise would change.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)


def define(schema: str, *tags: torch.Tag) -> None:
    """Define an op of the package."""
    LIB.define(schema, tags=(*_TAGS, *tags))


_PLAIN_TYPES = frozenset((Tensor, torch.nn.Parameter))


def plain(t: object) -> bool:
    """Whether a call on ``t`` may skip the dispatcher: a plain tensor in plain eager mode.

    Worth 3 us a call, which is a sixth of a small latent's forward and backward on the CPU. What
    the dispatcher does for other tensors (negative bits, zero tensors, subclasses, tracers) it
    must go on doing.
    """
    return eager() and ordinary(t)


def ordinary(t: object) -> bool:
    """Whether ``t`` is a tensor whose memory holds its values."""
    return (
        type(t) in _PLAIN_TYPES
        and not t.is_neg()  # type: ignore[attr-defined]
        and not t._is_zerotensor()  # type: ignore[attr-defined]
    )


def functorch_active() -> bool:
    """Whether a ``torch.func`` transform is running; never so while a compiler traces."""
    return torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling()


def forward_ad_active() -> bool:
    """Whether forward-mode derivatives are being computed (which no op here implements)."""
    return forward_ad._current_level >= 0


def front(t: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The tensor with the batch as its dim 0, expanded where it has none."""
    if t is None:
        return None
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def pad(t: Tensor, dims: int) -> Tensor:
    """Ones after the batch dim, so that an example's dims broadcast as they would alone."""
    return t.reshape(t.shape[0], *[1] * (dims + 1 - t.dim()), *t.shape[1:])
