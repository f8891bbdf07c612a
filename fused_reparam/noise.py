"""Keys, and noise of a key as a tensor.

The noise stream is defined in ``rng/stream.py``: a pure function of a key, a ``uint64`` tensor
``[seed, offset]``, whatever the device, block size or sharding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import dispatch
from .core.mistakes import described
from .core.modes import eager
from .core.scalars import integer
from .core.storage import check_given
from .rng.derived import fold_in, for_rank, shard, split
from .rng.keys import (
    GraphKey,
    HostKey,
    advance,
    check_key,
    derived_seed,
    draw_key,
    key,
    on_device,
)

__all__ = [
    "GraphKey",
    "HostKey",
    "derived_seed",
    "draw_key",
    "fold_in",
    "for_rank",
    "key",
    "normal",
    "shard",
    "split",
]

_TWO63 = 1 << 63


def normal(
    key: Tensor,
    shape: int | Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    index_offset: int = 0,
) -> Tensor:
    """Standard normals as a pure function of a key: what every op of this package draws.

    Element ``i`` (in memory order) of float32 noise is lane ``i % 4`` of block ``i // 4``::

        u = fma(float(w0), 2^-32, 2^-33)    v = fma(float(w1), 2^-32, 2^-33)
        r = sqrt(-2 ln u)                   lanes 0, 1 = r cos(2 pi v), r sin(2 pi v)

    and words ``w2, w3`` give lanes 2, 3. float16 and bfloat16 are float32 noise, rounded. float64
    uses ``(w0 << 32 | w1) * 2^-64`` and ``(w2 << 32 | w3) * 2^-64``, two lanes per block, and so is
    another draw: float64 noise of a key is not its float32 noise with more digits.

    Args:
        key: uint64 tensor of shape (2,).
        shape: shape of the result.
        dtype: float32, float64, float16 or bfloat16.
        device: device of the result; the key's when None.
        index_offset: index of the first element, for a shard of a longer stream.

    Returns:
        A contiguous tensor of the given shape and dtype.

    Raises:
        TypeError: key is not a uint64 tensor, or dtype is not one of the four.
        ValueError: key has another shape, or index_offset is negative.

    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.

    Example:
        >>> import torch
        >>> from fused_reparam import noise
        >>> whole = noise.normal(noise.key(0), 10)
        >>> tail = noise.normal(noise.key(0), 4, index_offset=6)
        >>> torch.equal(whole[6:], tail)
        True
    """
    check_key(key)
    check_given("key", key)
    sizes = [
        integer("noise.normal: shape", size)
        for size in (shape if isinstance(shape, (tuple, list)) else [shape])
    ]
    if any(size < 0 for size in sizes):
        raise ValueError(f"noise.normal: shape must not be negative, got {tuple(sizes)}")
    if any(size >= _TWO63 for size in sizes):
        raise ValueError(f"noise.normal: shape must be of sizes below 2^63, got {tuple(sizes)}")
    if dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(
            "noise.normal: dtype must be float32, float64, float16 or bfloat16, got "
            f"{dtype if isinstance(dtype, torch.dtype) else described(dtype)}"
        )
    index_offset = integer("noise.normal: index_offset", index_offset)
    if index_offset < 0:
        raise ValueError(f"noise.normal: index_offset must be >= 0, got {index_offset}")
    if device is not None:
        key = on_device(key, device)
    if index_offset == 0:
        return _stream(key, sizes, dtype)
    lanes = 2 if dtype == torch.float64 else 4
    blocks, lead = divmod(index_offset, lanes)
    count = math.prod(sizes)
    if lead + count >= _TWO63:
        raise ValueError(f"noise.normal: shape must be of fewer elements, got {tuple(sizes)}")
    drawn = _stream(advance(key, blocks), [lead + count], dtype)
    return drawn[lead:].clone().view(sizes)


def _stream(key: Tensor, sizes: list[int], dtype: torch.dtype) -> Tensor:
    if type(key) is not Tensor or not eager():
        return torch.ops.fused_reparam.normal(key, sizes, [], dtype)  # type: ignore[no-any-return]
    # Straight to a backend, which takes a third off 128x20.
    out = torch.empty(sizes, dtype=dtype, device=key.device)
    if out.numel():
        dispatch.pick(key.device).normal(key.contiguous(), out)
    return out
