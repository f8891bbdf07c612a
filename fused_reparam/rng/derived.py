"""Keys made of keys: a pure function of a key and a number, and other ones for other purposes.

A block of the noise is Philox4x32-10 of the counter ``(c low, c high, 0, 0)``. The upper half of
the counter is free: there stand ``n``, below 2^62, and in the top two bits what the key is for.
The four words are the new key's seed and offset::

    w = philox4x32((offset low, offset high, n low, n high | purpose << 30), (seed low, seed high))
    fold_in, split, for_rank: purpose 1, 2, 3      key = [w1 << 32 | w0, w3 << 32 | w2]

So no derived key is made of words that are noise, and none is made of the words of another purpose.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..core.mistakes import described
from ..core.modes import eager
from ..core.scalars import integer
from .cuda import as_int64
from .keys import advance, check_key
from .keys import key as new_key
from .stream import LANES, PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL, philox4x32

__all__ = ["fold_in", "for_rank", "shard", "split"]

_LOW32 = 0xFFFFFFFF
_FOLD_IN, _SPLIT, _FOR_RANK = 1, 2, 3
_TWO62 = 1 << 62


def fold_in(key: Tensor, n: int | Tensor) -> Tensor:
    """The key of a key and a number: a stream of its own for each step, layer or example.

    ``docs/noise.md`` defines it. Nothing is drawn from a generator, and nothing waits for the
    key's device.

    Args:
        key: uint64 tensor of shape (2,).
        n: ``0 <= n < 2**62``, or an integer tensor of no dims, of which the lower 62 bits count.

    Returns:
        Tensor of dtype uint64 and shape (2,), on the key's device.

    Raises:
        TypeError: key is not a uint64 tensor, or n no integer.
        ValueError: key has another shape, or n is out of range.

    Source: the name is JAX's (``jax.random.fold_in``); Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", 2011.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_latent, noise
        >>> run = noise.key(0)
        >>> mu, logvar = torch.zeros(2, 8, 4)
        >>> of_step = [gaussian_latent(mu, logvar, key=noise.fold_in(run, n))[0] for n in range(3)]
        >>> torch.equal(of_step[2], gaussian_latent(mu, logvar, key=noise.fold_in(run, 2))[0])
        True
    """
    check_key(key)
    return _of_number("noise.fold_in: n", key, n, _FOLD_IN)


def split(key: Tensor, n: int = 2) -> Tensor:
    """``n`` keys of one, none of which is a key that :func:`fold_in` gives.

    Args:
        key: uint64 tensor of shape (2,). After a split use the parts, and no longer the key.
        n: how many, ``0 <= n < 2**62``. The first keys are the same for every n.

    Returns:
        Tensor of dtype uint64 and shape (n, 2), on the key's device.

    Raises:
        TypeError: key is not a uint64 tensor, or n no integer.
        ValueError: key has another shape, or n is out of range.

    Source: the name is JAX's (``jax.random.split``).

    Example:
        >>> from fused_reparam import noise
        >>> of_weights, of_latents = noise.split(noise.key(0))
        >>> of_weights
        tensor([9469612089136107554, 4475466718417794926], dtype=torch.uint64)
    """
    check_key(key)
    count = _checked("noise.split: n", n)
    return _derived(key, torch.arange(count, device=key.device), _SPLIT)


def for_rank(
    key: Tensor, rank: int | None = None, *, group: dist.ProcessGroup | None = None
) -> Tensor:
    """The key of one rank: where all ranks have the same key, each makes another one of it.

    For what each rank is to draw for itself. For shards of one tensor that all ranks draw
    together, see :func:`shard`.

    Args:
        key: uint64 tensor of shape (2,), the same on all ranks.
        rank: ``0 <= rank < 2**62``; when None this process's in ``group``, and 0 where
            ``torch.distributed`` has no process group.
        group: of processes, the default one when None.

    Returns:
        Tensor of dtype uint64 and shape (2,), on the key's device. Nothing is sent.

    Raises:
        TypeError: key is not a uint64 tensor, or rank no integer.
        ValueError: key has another shape, rank is out of range, or this process is not in group.

    Example:
        >>> import torch
        >>> from fused_reparam import noise
        >>> mine = noise.for_rank(noise.key(0))
        >>> torch.equal(mine, noise.for_rank(noise.key(0), 0))
        True
    """
    check_key(key)
    if rank is None:
        rank = dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0
        if rank < 0:
            raise ValueError("noise.for_rank: this process is not in the group")
    return _of_number("noise.for_rank: rank", key, rank, _FOR_RANK)


def shard(key: Tensor, index_offset: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The key whose first element of noise is element ``index_offset`` of a key's.

    Ranks that hold contiguous parts of one tensor draw with it what one device would draw for the
    whole: part ``[first, last)`` takes ``shard(key, first)``.

    Args:
        key: uint64 tensor of shape (2,), the same on all ranks.
        index_offset: how many elements are in front of the part; a multiple of the elements of a
            block, 4 or, for float64, 2. (``noise.normal`` takes any, for ``eps=``.)
        dtype: of the tensor that is drawn.

    Returns:
        Tensor of dtype uint64 and shape (2,), on the key's device. Nothing is sent.

    Raises:
        TypeError: key is not a uint64 tensor, index_offset no integer, or dtype none of the four.
        ValueError: key has another shape, or index_offset is negative or within a block.

    Example:
        >>> import torch
        >>> from fused_reparam import gaussian_latent, noise
        >>> mu, logvar, key = torch.zeros(6, 4), torch.zeros(6, 4), noise.key(0)
        >>> whole, _ = gaussian_latent(mu, logvar, key=key)
        >>> of_rank_1, _ = gaussian_latent(mu[3:], logvar[3:], key=noise.shard(key, 3 * 4))
        >>> torch.equal(whole[3:], of_rank_1)
        True
    """
    check_key(key)
    if dtype not in (*LANES, torch.float16, torch.bfloat16):
        raise TypeError(
            "noise.shard: dtype must be float32, float64, float16 or bfloat16, got "
            f"{dtype if isinstance(dtype, torch.dtype) else described(dtype)}"
        )
    lanes = LANES.get(dtype, LANES[torch.float32])
    index_offset = integer("noise.shard: index_offset", index_offset)
    if index_offset < 0 or index_offset % lanes:
        raise ValueError(
            f"noise.shard: index_offset must be a multiple of {lanes} for {dtype}, at least 0, got "
            f"{index_offset}; noise.normal(key, shape, index_offset=) serves others, as eps="
        )
    return advance(key, index_offset // lanes)


def _checked(name: str, n: int) -> int:
    n = integer(name, n)
    if not 0 <= n < _TWO62:
        raise ValueError(f"{name} must be in [0, 2**62), got {n}")
    return n


def _of_number(name: str, key: Tensor, n: int | Tensor, purpose: int) -> Tensor:
    """The key of a key and one number. A number that is a tensor is not looked at."""
    if not isinstance(n, Tensor):
        n = _checked(name, n)
        if key.is_cpu and type(key) is Tensor and eager():  # a tenth of the time
            seed, offset = key.tolist()
            return _of_integers(seed, offset, n, purpose)
        return _derived(key, torch.full((), n, dtype=torch.int64, device=key.device), purpose)
    if n.dim() or n.is_floating_point() or n.is_complex() or n.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer or an integer tensor of no dims, got {n}")
    return _derived(key, n.to(key.device, torch.int64, non_blocking=True), purpose)


def _of_integers(seed: int, offset: int, n: int, purpose: int) -> Tensor:
    """The same in Python's integers."""
    c0, c1, c2, c3 = *_words(offset), *_words(n | purpose << 62)
    k0, k1 = _words(seed)
    for _ in range(PHILOX_ROUNDS):
        product0, product2 = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]
        c0, c1 = (product2 >> 32) ^ c1 ^ k0, product2 & _LOW32
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & _LOW32
        k0, k1 = (k0 + PHILOX_WEYL[0]) & _LOW32, (k1 + PHILOX_WEYL[1]) & _LOW32
    return new_key(c1 << 32 | c0, c3 << 32 | c2)


def _derived(key: Tensor, n: Tensor, purpose: int) -> Tensor:
    """The keys of a key and of each number, shape (*n.shape, 2)."""
    seed, offset = key.view(torch.int64).unbind()
    upper = (n & (_TWO62 - 1)) | as_int64(purpose << 62)
    zero = torch.zeros_like(n).view(-1)
    counter = _words(offset + zero) + _words(upper.view(-1))
    w0, w1, w2, w3 = philox4x32(counter, _words(seed))
    made = torch.stack((w1 << 32 | w0, w3 << 32 | w2), -1)
    return made.view(*n.shape, 2).view(torch.uint64)


def _words(number: Any) -> tuple[Any, Any]:
    """The low and the high word of 64 bits."""
    return number & _LOW32, (number >> 32) & _LOW32
