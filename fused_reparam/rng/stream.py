"""The noise stream (version 1) in plain PyTorch: its definition.

A key is a ``uint64`` tensor ``[seed, offset]``; noise is a pure function of it. ``offset`` counts
128-bit blocks. Block ``b`` of a key is Philox4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) with key ``(seed low, seed high)`` and counter ``(c low, c high, 0, 0)``,
``c = offset + b`` modulo 2^64. Its four 32-bit words become four float32 normals, or two float64
normals, by the Box-Muller transform. float16 and bfloat16 noise is float32 noise, rounded; float64
noise of a key is another draw. Nothing depends on device, block size or sharding.

The stream is the one of PyTorch's own stateless generator, ``torch.func._random.normal``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .keys import advance, key

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW32 = 0xFFFFFFFF
_TWO64 = 1 << 64
# Normals that one 128-bit block holds, by the dtype in which they are computed.
LANES = {torch.float32: 4, torch.float64: 2}


def words(key: Tensor, blocks: int) -> Tensor:
    """The Philox words of the first ``blocks`` blocks of a key: int64, shape (blocks, 4)."""
    seed, offset = key.view(torch.int64).unbind()
    # int64 addition wraps as unsigned addition does, so the carry into the high word is exact.
    count = torch.arange(blocks, dtype=torch.int64, device=key.device).add_(offset)
    zero = torch.zeros_like(count)
    counter = (count & _LOW32, (count >> 32).bitwise_and_(_LOW32), zero, zero)
    # Word by word in memory: what follows works on one word of all blocks at a time.
    return torch.stack(philox4x32(counter, (seed & _LOW32, (seed >> 32) & _LOW32))).T


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of unsigned 32-bit words held in int64 tensors.

    A round multiplies c0 and c2. The high half of the one product meets c3 and the second half of
    the key, that of the other c1 and the first half; the low halves are the next c3 and c1. Each
    pair is one tensor of two rows, since to start an operation on a small tensor takes longer than
    to run it, and all work is done in four such tensors, since fresh memory costs more than the
    arithmetic. Bits above the 32 are cut off where they would count: before a multiplication.
    """
    device = counter[0].device
    multipliers = _column(*PHILOX_MULTIPLIERS, device)
    rounds = torch.arange(PHILOX_ROUNDS, device=device).view(-1, 1, 1)
    keys = torch.stack(key[::-1]).view(2, 1) + rounds * _column(*PHILOX_WEYL[::-1], device)
    c02, c31 = torch.stack((counter[0], counter[2])), torch.stack((counter[3], counter[1]))
    product, mixed = torch.empty_like(c02), torch.empty_like(c02)
    (c0, c2), (next_c2, next_c0) = c02.unbind(), mixed.unbind()
    # Tensors, for PyTorch would make one of a Python number each time.
    half, low = (torch.full((), number, device=device) for number in (32, _LOW32))
    for round_key in keys.unbind():
        torch.mul(c02, multipliers, out=product)
        torch.bitwise_right_shift(product, half, out=mixed)
        mixed.bitwise_xor_(c31).bitwise_xor_(round_key)
        torch.bitwise_and(next_c0, low, out=c0)
        torch.bitwise_and(next_c2, low, out=c2)
        c31, product = product, c31
    c3, c1 = c31.bitwise_and_(low).unbind()
    return c0, c1, c2, c3


def _column(first: int, second: int, device: torch.device) -> Tensor:
    """Two numbers as a (2, 1) tensor, made on the device: a copy from the host may wait."""
    return torch.arange(2, device=device).mul_(second - first).add_(first).view(2, 1)


# Blocks made in one go: more would not stay in a processor's caches.
_PART = 1 << 16


def in_parts(
    make: Callable[..., Tensor], key: Tensor, n: int, dtype: torch.dtype, per_block: int, *rest: Any
) -> Tensor:
    """``make(key, n, dtype, *rest)``, a stream of ``per_block`` elements a block, part by part."""
    part = _PART * per_block
    if n <= part or key.device.type == "meta":  # which has no memory that a part could stay in
        return make(key, n, dtype, *rest)
    out = torch.empty(n, dtype=dtype, device=key.device)
    for first in range(0, n, part):
        count = min(part, n - first)
        out[first : first + count] = make(advance(key, first // per_block), count, dtype, *rest)
    return out


def stream(key: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """The first ``n`` normals of the stream, shape (n,), dtype float32 or float64."""
    if _torch_has_the_stream(key.device, dtype):
        out = torch.empty(n, dtype=dtype, device=key.device)
        return torch.ops.aten._philox_normal_(out, key.view(torch.uint64))  # type: ignore[no-any-return]
    return in_parts(box_muller, key, n, dtype, LANES[dtype])


def box_muller(key: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """The first ``n`` normals of the stream by its definition."""
    w = words(key, -(-n // LANES[dtype]))
    if dtype == torch.float64:
        # float(high) * 2^32 is exact, so the sum rounds once, as converting the 64-bit word would.
        uniform = w[:, 0::2].to(dtype).mul_(2.0**32).add_(w[:, 1::2].to(dtype)).mul_(2.0**-64)
        u, v = uniform[:, 0:1].clamp_min(2.0**-64), uniform[:, 1:2]
    else:
        # The product by a power of two is exact: this is the fused multiply-add of the definition.
        uniform = w.to(dtype).mul_(2.0**-32).add_(2.0**-33)
        u, v = uniform[:, 0::2], uniform[:, 1::2]
    radius, angle = torch.log(u).mul_(-2.0).sqrt_(), (2.0 * math.pi) * v
    pairs = torch.empty((*u.shape, 2), dtype=dtype, device=u.device)
    torch.mul(radius, torch.cos(angle), out=pairs[..., 0])
    torch.mul(radius, torch.sin(angle), out=pairs[..., 1])
    return pairs.view(-1)[:n]


_checked: dict[tuple[str, torch.dtype], bool] = {}


def _torch_has_the_stream(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch makes the stream in one op (from 2.14 on), in a tenth of the time.

    That op is not a stable interface of PyTorch, and devices may lack it. So a few of its numbers
    are compared with the definition's, once.
    """
    found = _checked.get((device.type, dtype))
    if found is None:
        if device.type == "meta" or (
            device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        ):
            return False  # no number can be looked at
        found = _checked[device.type, dtype] = _torch_agrees(device, dtype)
    return found


def _torch_agrees(device: torch.device, dtype: torch.dtype) -> bool:
    if not hasattr(torch.ops.aten, "_philox_normal_"):
        return False
    some, tolerance = key(_TWO64 - 5, _TWO64 - 3, device=device), 4e-6
    if dtype == torch.float64:
        tolerance = 1e-13
    want = box_muller(some, 15, dtype)
    try:
        found = torch.ops.aten._philox_normal_(torch.empty_like(want), some)
    except (RuntimeError, TypeError):
        return False
    return bool(((found - want).abs() < tolerance).all())
