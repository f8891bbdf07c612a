"""Where the noise of a call comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import noise
from ..arguments import given_noise
from ..ops.layout import empty_ordered, memory_order
from ..ops.library import plain
from ..storage import check_given


class Sources(NamedTuple):
    """What the user said of it; see ``gaussian_latent``."""

    key: Tensor | None = None
    generator: torch.Generator | None = None
    rng: str = "philox"
    eps: Tensor | None = None


def find(
    sources: Sources, loc: Tensor, shape: torch.Size, order: list[int]
) -> tuple[Tensor | None, Tensor | None]:
    """The key, or the noise itself, of a sample of a shape and memory order."""
    key, generator, rng, eps = sources
    if eps is not None:
        return None, given_noise(eps, loc, shape)
    if rng == "torch":
        return None, _torch_noise(loc, shape, order, generator)
    if key is None:
        return _drawn_key(loc, generator), None
    noise.check_key(key)
    check_given("key", key)
    if not (key.is_cpu and plain(loc)):
        key = noise.on_device(key, loc.device)
    return key, None


def made_of(key: Tensor, loc: Tensor, shape: torch.Size, order: list[int]) -> Tensor:
    """The normals that an op made of a key."""
    key = noise.on_device(key, loc.device)
    return torch.ops.fused_reparam.normal(key, shape, order, loc.dtype)


def order_of(tensors: Sequence[Tensor], shape: torch.Size) -> list[int]:
    """Memory order of a sample: that of the first parameter which is not broadcast."""
    for t in tensors:
        if t.dim() == len(shape) and t.shape == shape:
            return memory_order(t)
    return []


def _drawn_key(loc: Tensor, generator: torch.Generator | None) -> Tensor:
    """A fresh key: where kernels take it by value, on the host."""
    if plain(loc):
        return noise.draw_bits(loc.device, generator)
    return noise.draw_key(loc.device, generator)


def _torch_noise(
    loc: Tensor, shape: torch.Size, order: list[int], generator: torch.Generator | None
) -> Tensor:
    same = loc.dim() == len(shape) and loc.shape == shape
    like = loc if same else empty_ordered(shape, order, loc.dtype, loc.device)
    if generator is None:
        return torch.randn_like(like)
    return torch.empty_like(like).normal_(generator=generator)
