"""Keys, and the noise stream (version 1) written in plain PyTorch: its definition.

A *key* is a ``uint64`` tensor ``[seed, offset]``; noise is a pure function of it. ``offset`` counts
128-bit blocks. Block ``b`` of a key is Philox4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) with key ``(seed low, seed high)`` and counter ``(c low, c high, 0, 0)``,
``c = offset + b`` modulo 2^64. Its four 32-bit words become four float32 normals, or two float64
normals, by the Box-Muller transform. float16 and bfloat16 noise is float32 noise, rounded; float64
noise of a key is another draw. Nothing depends on device, block size or sharding.

The stream is the one of PyTorch's own stateless generator, ``torch.func._random.normal``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import cuda_keys
from .backends import select
from .cuda_keys import GraphKey, HostKey, as_int64, derived_seed
from .mistakes import described
from .modes import eager
from .scalars import integer, is_number
from .storage import check_given

__all__ = ["GraphKey", "HostKey", "derived_seed", "draw_key", "key", "normal"]

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW32 = 0xFFFFFFFF
_TWO63 = 1 << 63
_TWO64 = 1 << 64
# Normals that one 128-bit block holds, by the dtype in which they are computed.
LANES = {torch.float32: 4, torch.float64: 2}


def key(seed: int, offset: int = 0, *, device: torch.device | str | None = None) -> Tensor:
    """Make a noise key from two integers.

    Args:
        seed: selects the stream, ``0 <= seed < 2**64``.
        offset: first 128-bit block of the stream to use, ``0 <= offset < 2**64``. One block holds
            four float32 (float16, bfloat16) or two float64 normals.
        device: where the key is to live; the CPU when None. A CPU key is also accepted with
            tensors on another device (16 bytes are copied).

    Returns:
        Tensor of dtype uint64 and shape (2,): ``[seed, offset]``.

    Raises:
        TypeError: seed or offset is not an integer.
        ValueError: seed or offset is out of range.

    Example:
        >>> from fused_reparam import noise
        >>> noise.key(2**64 - 1, 7)
        tensor([18446744073709551615,                    7], dtype=torch.uint64)
    """
    values = [_as_uint64("seed", seed), _as_uint64("offset", offset)]
    signed = [as_int64(v) for v in values]
    # Not the default device: a key is for any tensor.
    return torch.tensor(signed, dtype=torch.int64, device=device or "cpu").view(torch.uint64)


def _as_uint64(name: str, value: int) -> int:
    number = integer(f"noise.key: {name}", value)
    if not 0 <= number < _TWO64:
        raise ValueError(f"noise.key: {name} must be in [0, 2**64), got {number}")
    return number


def draw_key(
    device: torch.device | str | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw a fresh key from a generator, on its device and without synchronising.

    It comes from ``generator``, or from the default generator of ``device``: so
    ``torch.manual_seed`` decides the key, each call gets another, and ``fork_rng`` and activation
    checkpointing replay it. On a CUDA device in eager mode it is :func:`derived_seed` of the
    generator's state, of which it takes four offsets. Elsewhere (other devices, CUDA-graph
    capture, ``torch.compile``, ``torch.func``) it is two 63-bit integers of ``torch.randint``.

    Args:
        device: where the key is to live; the generator's device, or the default device, when None.
        generator: source of randomness; the default generator of ``device`` when None.

    Returns:
        Tensor of dtype uint64 and shape (2,).

    Raises:
        RuntimeError, ValueError: generator and device disagree, or ``torch.jit.trace`` looks on,
            which would record the default generator in the given one's place.

    Example:
        >>> import torch
        >>> from fused_reparam import noise
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = noise.draw_key(generator=g), noise.draw_key(generator=g)
        >>> bool((a.view(torch.int64) == b.view(torch.int64)).all())
        False
    """
    check_generator(generator)
    if generator is not None and torch._C._is_tracing():
        raise RuntimeError(
            "torch.jit.trace can't record a generator: trace without one, or with key= as an input"
        )
    if device is None:
        device = torch.get_default_device() if generator is None else generator.device
    if (
        generator is None
        and torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    ):
        return _draw_key_in_graph(device)
    bits = on_device(draw_bits(device, generator), device)
    # PyTorch 2.11's vmap and torch.jit.trace can't view another dtype. The bits are 63: no sign.
    viewed = not torch._C._are_functorch_transforms_active() and not torch._C._is_tracing()
    return bits.view(torch.uint64) if viewed else bits.to(torch.uint64)


def on_device(key: Tensor, device: torch.device | str) -> Tensor:
    """The key on a device. Its 16 bytes are copied without waiting for the device."""
    if key.is_meta and torch.device(device).type != "meta":
        raise ValueError(f"a key on meta holds no numbers for {device}")
    return key.to(device, non_blocking=True)


def draw_bits(device: torch.device | str | None, generator: torch.Generator | None) -> Tensor:
    """The bits of a fresh key as int64, which backends take as well: the view costs 2 us.

    The key of a CUDA device stays on the host where it can: a kernel takes it by value.
    """
    if device is not None:
        source = cuda_keys.plain_generator(torch.device(device), generator)
        if source is not None:
            return cuda_keys.host_key(source).bits()
    return random_bits(device, generator)


def random_bits(device: torch.device | str | None, generator: torch.Generator | None) -> Tensor:
    """The bits of a fresh key, drawn by an op on the device."""
    return torch.randint(_TWO63 - 1, (2,), device=device, generator=generator)


def draw_for(
    backend: ModuleType, device: torch.device, generator: torch.Generator | None
) -> Tensor | HostKey | GraphKey:
    """A fresh key as a backend takes it at least cost."""
    return (draw_for_kernel if backend.DERIVES_KEYS else draw_bits)(device, generator)


def draw_for_kernel(
    device: torch.device, generator: torch.Generator | None
) -> Tensor | HostKey | GraphKey:
    """A fresh key for a backend that takes all three: even in capture it costs no kernel."""
    drawn = cuda_keys.draw(device, generator)
    return draw_bits(device, generator) if drawn is None else drawn


def _draw_key_in_graph(device: torch.device | str | None) -> Tensor:
    """Draw a key by an op of the compiled graph."""
    witness = torch.empty(0, device=device)
    op = torch.ops.fused_reparam.draw_key.default
    if _may_be_recomputed():
        # A memory budget below 1 may make the backward graph draw anew, as it does for PyTorch's
        # own random ops. In a checkpointed region the generator's state is kept, the draw replayed.
        return checkpoint(op, witness, use_reentrant=False)
    return op(witness)


def _may_be_recomputed() -> bool:
    return torch._functorch.config.activation_memory_budget < 1


# What torch.compiler.assume_constant_result does, without importing the compiler (1 s) for it.
_may_be_recomputed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_key(key: Tensor) -> None:
    """Raise TypeError or ValueError unless ``key`` is a uint64 tensor of shape (2,)."""
    if not isinstance(key, Tensor):
        raise TypeError(
            f"key must be a uint64 tensor of shape (2,) as noise.key(seed, offset) makes, got "
            f"{described(key)}"
        )
    if key.dtype != torch.uint64:
        raise TypeError(f"key must have dtype torch.uint64, got {key.dtype}; see noise.key")
    if key.is_nested or key.layout != torch.strided:
        raise TypeError(f"key must be a dense (strided) tensor, got {described(key)}")
    if key.shape != (2,):
        raise ValueError(
            f"key must have shape (2,), that is [seed, offset], got shape {tuple(key.shape)}"
        )


def check_generator(generator: torch.Generator | None) -> None:
    """Raise TypeError unless it is one generator or None."""
    # By what is asked of one: other libraries wrap generators.
    if generator is not None and not hasattr(generator, "initial_seed"):
        raise TypeError(
            f"generator must be one torch.Generator or None, got {described(generator)}"
            + ("; torch.Generator().manual_seed(seed) makes one" if is_number(generator) else "")
        )


def check_bits(key: Tensor) -> None:
    """``check_key`` for an op: the bits may also come as int64."""
    check_key(key.view(torch.uint64) if key.dtype == torch.int64 else key)


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
        select.pick(key.device).normal(key.contiguous(), out)
    return out


def advance(key: Tensor, blocks: int) -> Tensor:
    """The key whose first block is block ``blocks`` of ``key`` (modulo 2^64)."""
    step = torch.arange(2, device=key.device) * as_int64(blocks % _TWO64)
    return (key.view(torch.int64) + step).view(torch.uint64)


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
    if n <= part:
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
