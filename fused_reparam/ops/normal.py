"""``fused_reparam::normal``: the noise stream as a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backends import select
from .layout import empty_ordered
from .library import LIB, define

define("normal(Tensor key, SymInt[] shape, int[] order, ScalarType dtype) -> Tensor")


def normal(key: Tensor, shape: Sequence[int], order: list[int], dtype: torch.dtype) -> Tensor:
    """Noise of a shape and dtype, dense in the given memory order."""
    out = fake(key, shape, order, dtype)
    if out.numel():
        select.pick(key.device).normal(key, out)
    return out


def fake(key: Tensor, shape: Sequence[int], order: list[int], dtype: torch.dtype) -> Tensor:
    return empty_ordered(shape, list(order), dtype, key.device)


LIB.impl("normal", normal, "CompositeExplicitAutograd")
torch.library.register_fake("fused_reparam::normal", fake, lib=LIB)


def _vmap(info, in_dims, key, shape, order, dtype):  # type: ignore[no-untyped-def]
    """One stream per key."""
    keys = key.movedim(in_dims[0], 0).unbind()
    return torch.stack([torch.ops.fused_reparam.normal(k, shape, order, dtype) for k in keys]), 0


torch.library.register_vmap("fused_reparam::normal", _vmap, lib=LIB)
