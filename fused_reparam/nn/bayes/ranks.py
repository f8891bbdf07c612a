"""Bayesian layers on many ranks: whose noise their weights have, and the KL of sharded ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...core.mistakes import suggestion
from ...core.tracers import fx, node_of
from ...noise import draw_key, fold_in, for_rank
from ...ops.sharded import is_sharded

__all__ = ["checked_noise", "is_sharded", "key_of_rank", "kl_of_shards", "total", "whole"]

_NOISE = ("shared", "rank")


def checked_noise(noise: Any) -> str:
    """``"shared"`` or ``"rank"``."""
    if noise not in _NOISE:
        raise ValueError(
            f'noise must be "shared" or "rank", got {noise!r}{suggestion(noise, _NOISE)}'
        )
    return noise  # type: ignore[no-any-return]


def key_of_rank(like: Tensor) -> Tensor:
    """A fresh key of the generator, with this process's rank in it."""
    if not isinstance(like, Tensor) or fx._is_fx_tracing_flag:
        node = node_of(key_of_rank, locals())
        if node is not None:
            return node  # type: ignore[no-any-return]
    return for_rank(draw_key(like.device))


def whole(value: Any) -> Any:
    """A tensor as each rank has it: a sharded one gathered, a partial sum added up."""
    if not is_sharded(value):
        return value
    found = value.full_tensor()
    if found.requires_grad:  # beside a loss that is a DTensor, its gradient is one
        found.register_hook(whole)
    return found


def total(kls: Sequence[Tensor]) -> Tensor:
    """A new tensor, which the caller may change in place, and which each rank has whole."""
    found, *others = [whole(kl) for kl in kls]
    for kl in others:
        found = found + kl.to(found.device)
    return found if others else found.clone()  # type: ignore[no-any-return]


def kl_of_shards(
    kl: Callable[..., Tensor], mu: Any, rho: Any, numbers: tuple[Any, ...], draws: bool
) -> Tensor:
    """The sum of ``kl(mu, rho, *numbers)`` over all shards, the same number on every rank.

    Each rank computes the KL of its own shard, with no word from the others; one number is then
    added up. Its gradient stays on the shard, whole, so that nobody is to reduce it again. Where
    ``draws``, the KL takes a key besides, another one for each shard.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh = mu.device_mesh
    everywhere = [Replicate()] * mesh.ndim
    # A partial sum has no KL before it is added up.
    placements = [Replicate() if p.is_partial() else p for p in mu.placements]

    def local(value: Any, like: Any = None) -> Any:
        """This rank's part of a parameter, or of a prior's number for each of its elements."""
        if not isinstance(value, Tensor):
            return value
        if not isinstance(value, DTensor):
            value = DTensor.from_local(value, mesh, everywhere, run_check=False)
        if like is not None:
            value = value.redistribute(placements=everywhere).expand(like.shape)
        return value.redistribute(placements=placements).to_local()

    given: dict[str, Any] = {}
    if draws:
        key = draw_key(mu.device)
        # Not the rank: copies of a shard have one noise, or they would drift apart.
        for at, placement in zip(mesh.get_coordinate() or (), placements, strict=True):
            key = key if placement.is_replicate() else fold_in(key, at)
        given["key"] = key
    part = kl(local(mu), local(rho), *(local(number, mu) for number in numbers), **given)
    sums = [Replicate() if p.is_replicate() else Partial() for p in placements]
    return whole(DTensor.from_local(part, mesh, sums, run_check=False))  # type: ignore[no-any-return]
