"""Ops of DTensors: each rank calls the op on its shard, with the noise that the whole would have.

Noise is a function of a key and of an index in the whole tensor, so nothing of it is ever sent.
Where a shard is one run of the whole's memory order that begins at a block of the stream, its key
is the whole's, moved on by so many blocks. Elsewhere a shard's noise is cut out of runs of the
stream, and made again in the backward pass. An op says where its results may be sharded, and what
of a shard's results is a part of a sum; redistribution, gradients included, is DTensor's own.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import reductions
from ..core.mistakes import described
from ..rng.bases import WORDS
from ..rng.keys import advance, on_device
from ..rng.stream import LANES
from .layout import empty_ordered

Run = Callable[[int, int], Tensor]
"""So many numbers of a stream, from that of an index on."""
# Numbers made in one go of which only a part is in a shard.
_PART = 1 << 20


def is_sharded(t: Any) -> bool:
    """Whether it is a DTensor, of which a program that has none need not know."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def any_sharded(tensors: Sequence[Any]) -> bool:
    return any(is_sharded(t) for t in tensors)


def refuse_sharded(tensors: Sequence[Any]) -> None:
    """Raise NotImplementedError where a transform of ``torch.func`` asks for an op of DTensors."""
    if any_sharded(tensors):
        raise NotImplementedError(
            "DTensors are not served in transforms of torch.func (grad, vjp, jacrev, vmap): call "
            "torch.autograd.grad, which is, also with create_graph=True"
        )


def beside(t: Tensor, like: Any) -> Tensor:
    """A tensor that every rank has made alike; a DTensor where ``like`` is one."""
    if not is_sharded(like):
        return t
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    return DTensor.from_local(t, mesh, [Replicate()] * mesh.ndim, run_check=False)  # type: ignore[no-any-return]


class Sharding:
    """Where the shards of a result are, by dims of one shape: for each dim of the mesh a dim that
    is sharded, or None where all have the same.
    """

    def __init__(self, shape: Sequence[int], tensors: Sequence[tuple[Any, int]]) -> None:
        """As the first of some tensors that is sharded along a dim of the mesh.

        With each tensor comes how many dims it has in front of the shape's. What does not have a
        dim's whole size, or is missing from ``shape`` (-1 there), decides nothing.
        """
        meshes = [t.device_mesh for t, _ in tensors if is_sharded(t)]
        self.mesh, self.shape = meshes[0], tuple(shape)
        if any(mesh != self.mesh for mesh in meshes):
            raise ValueError(f"DTensors of one call must have one device mesh, got {meshes}")
        self.dims = [self._first(at, tensors) for at in range(self.mesh.ndim)]

    def _first(self, at: int, tensors: Sequence[tuple[Any, int]]) -> int | None:
        for t, front in tensors:
            if not is_sharded(t):
                continue
            placement = t.placements[at]
            if type(placement).__name__ != "Shard":  # also what has strides: DTensor restores it
                continue
            dim = placement.dim - front
            if dim >= 0 and t.shape[placement.dim] == self.shape[dim] > 1:
                return dim  # type: ignore[no-any-return]
        return None

    def placements(self, to: Callable[[int], int | None], other: Any = None) -> list[Any]:
        """Those of a tensor whose dim ``to(dim)`` is a sharded one; ``other`` where it has none."""
        from torch.distributed.tensor import Replicate, Shard

        found: list[Any] = []
        for dim in self.dims:
            own = None if dim is None else to(dim)
            if own is not None:
                found.append(Shard(own))
            else:
                found.append(Replicate() if dim is None or other is None else other)
        return found

    def local(self, name: str, t: Any, front: int) -> Tensor | None:
        """This rank's shard of a tensor with so many dims in front of the shape's (or fewer).

        Where it is the same for several shards its gradient is a sum over them.
        """
        from torch.distributed.tensor import Partial

        if t is None:
            return None
        if not is_sharded(t):
            if not t.dim() and not t.requires_grad:
                return t  # type: ignore[no-any-return]
            raise TypeError(
                f"{name} is {described(t)} beside DTensors: distribute it over their device mesh, "
                "as torch.distributed.tensor.distribute_tensor(t, mesh, [Replicate()]) does"
            )

        def own(dim: int) -> int | None:
            at = dim + front
            return at if at >= 0 and t.shape[at] == self.shape[dim] else None

        if any(p.is_partial() for p in t.placements):
            # On its way back a gradient is a sum first: DTensor makes no mean, say, of a sum.
            t = t.redistribute(self.mesh, self.placements(own))
        there = t.redistribute(self.mesh, self.placements(own))
        return there.to_local(grad_placements=self.placements(own, Partial()))  # type: ignore[no-any-return]

    def whole(
        self,
        local: Tensor,
        shape: Sequence[int],
        order: Sequence[int],
        to: Callable[[int], int | None],
    ) -> Tensor:
        """A result of this rank as its shard of the whole, a part of a sum where ``to`` is None."""
        from torch.distributed.tensor import DTensor, Partial

        like = empty_ordered(shape, list(order), local.dtype, torch.device("meta"))
        return DTensor.from_local(  # type: ignore[no-any-return]
            local, self.mesh, self.placements(to, Partial()), run_check=False,
            shape=like.shape, stride=like.stride(),
        )  # fmt: skip

    def window(self, coordinate: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """Where a rank's shard begins along each dim of the shape, and its size."""
        coordinate = self.mesh.get_coordinate() if coordinate is None else coordinate
        if coordinate is None:
            raise RuntimeError(f"this rank is not part of the device mesh {self.mesh}")
        found = [(0, size) for size in self.shape]
        for at, dim in enumerate(self.dims):
            if dim is None:
                continue
            first, size = found[dim]
            step = -(-size // self.mesh.size(at))  # as torch.chunk cuts
            ahead = min(step * coordinate[at], size)
            found[dim] = first + ahead, min(step, size - ahead)
        return found

    def everywhere(self, holds: Callable[[list[tuple[int, int]]], bool]) -> bool:
        """Whether something holds of the shards of all ranks."""
        sizes = [range(self.mesh.size(at)) for at in range(self.mesh.ndim)]
        return all(holds(self.window(one)) for one in itertools.product(*sizes))


class Stream(NamedTuple):
    """The noise of a whole tensor: of which kind, and in which order of its dims."""

    base: str
    number: float
    words: int  # of a block, that an element takes
    shape: tuple[int, ...]
    order: Sequence[int]
    dtype: torch.dtype  # of the arithmetic

    @classmethod
    def of(
        cls, base: str, number: float, each: int, shape: Any, order: Any, dtype: torch.dtype
    ) -> Stream:
        return cls(base, number, each * WORDS[base], tuple(shape), order, dtype)

    def _ordered(self, values: Sequence[Any]) -> list[Any]:
        return [values[d] for d in self.order] if self.order else list(values)

    def begins_at(self, window: Sequence[tuple[int, int]]) -> int | None:
        """The block at which a shard's noise begins, where it is one run of whole blocks."""
        if any(size == 0 for _, size in window):
            return 0
        full, inner, one, first = True, 1, True, 0
        pairs = zip(self._ordered(window), self._ordered(self.shape), strict=True)
        for (start, size), extent in reversed(list(pairs)):
            if not full and size != 1:
                one = False
            full = full and size == extent
            first, inner = first + start * inner, inner * extent
        per_block = LANES[self.dtype] // self.words
        return first // per_block if one and first % per_block == 0 else None

    def cut(self, key: Tensor, window: Sequence[tuple[int, int]]) -> Tensor:
        """The noise of a shard, in the whole's memory order."""
        per_block = LANES[self.dtype] // self.words

        def run(first: int, count: int) -> Tensor:
            ahead = first % per_block
            found = torch.ops.fused_reparam.base_noise(
                advance(key, first // per_block), [ahead + count], [], self.dtype,
                self.base, self.number,
            )  # fmt: skip
            return found[ahead:]  # type: ignore[no-any-return]

        found = _cut(run, self._ordered(self.shape), self._ordered(window), 0)
        if not self.order:
            return found
        return found.permute([list(self.order).index(d) for d in range(len(self.order))])


def _cut(run: Run, shape: list[int], window: list[tuple[int, int]], first: int) -> Tensor:
    """A window of numbers that lie in a shape; the shape's first is of index ``first``."""
    sizes = [size for _, size in window]
    if not shape or not math.prod(sizes):
        return run(first, math.prod(sizes)).view(sizes)
    inner, rows = math.prod(shape[1:]), sizes[0]
    first += window[0][0] * inner
    if sizes[1:] == shape[1:]:
        return run(first, rows * inner).view(sizes)
    if inner > _PART:
        each = [_cut(run, shape[1:], window[1:], first + i * inner) for i in range(rows)]
        return torch.stack(each)
    step, parts = _PART // inner, []
    for i in range(0, rows, step):
        count = min(step, rows - i)
        part = run(first + i * inner, count * inner).view(count, *shape[1:])
        for dim, (start, size) in enumerate(window[1:], 1):
            part = part.narrow(dim, start, size)
        parts.append(part.contiguous())
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def made_again(noise: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """What is saved of a call here keeps no noise: a backward pass makes it once more."""
    # What is saved holds the hooks, and these must not hold the noise. A tensor without memory, as
    # tracers have, has a storage too.
    at, shape = noise.untyped_storage()._cdata, noise.shape

    def pack(t: Tensor) -> Any:
        return make if t.untyped_storage()._cdata == at and t.shape == shape else t

    def unpack(packed: Any) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def key_of_all(key: Any, device: torch.device) -> Any:
    """A key that was given, as a tensor of this rank."""
    if is_sharded(key):
        key = key.full_tensor()
    return key if key is None or key.device == device else on_device(key, device)


def shared_key(key: Tensor, tensors: Sequence[Any]) -> Tensor:
    """The key that the first rank of the DTensors' mesh has drawn, on all of its ranks.

    Every rank has drawn one, so that their generators go on alike.
    """
    mesh = next(t.device_mesh for t in tensors if is_sharded(t))
    bits = key.view(torch.int64).clone()
    for at in range(mesh.ndim):
        if mesh.get_local_rank(at) > 0:
            bits.zero_()
        # A sum that has one term: unlike a broadcast, torch.compile takes it into its graph.
        torch.distributed.all_reduce(bits, group=mesh.get_group(at))
    return bits.view(key.dtype)


def local_reduction(reduction: str | None) -> str | None:
    """What of a reduction a shard can do: sizes of the whole are not its own."""
    return "sum" if reduction in ("mean", "batchmean") else reduction


def finished(term: Tensor, shape: Sequence[int], reduction: str | None) -> Tensor:
    """And the rest of it, for the shape of the whole."""
    if reduction not in ("mean", "batchmean"):
        return term
    return reductions.scaled(term, reductions.factor(shape, reduction))
