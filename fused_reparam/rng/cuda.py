"""Keys from a CUDA generator's state, its seed and offset: the host knows it, no kernel draws.

The generator moves on by four offsets for each key, the least that it gives.
"""

from __future__ import annotations

import array
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.modes import eager

_TWO64 = 1 << 64
# An odd number, 2^64 divided by the golden ratio: its multiples pass through every 64-bit number.
GOLDEN = 0x9E3779B97F4A7C15
_RESERVED = 4
_reserving = threading.Lock()


def as_int64(value: int) -> int:
    """The signed number of the same 64 bits as ``value`` modulo 2^64."""
    return (value + _TWO64 // 2) % _TWO64 - _TWO64 // 2


def derived_seed(seed: int, offset: int) -> int:
    """The seed of a key that is drawn from a generator with this seed, at this offset.

    ``(seed + GOLDEN * (offset + 1)) mod 2^64``; the key is ``[derived_seed(seed, offset), 0]``.
    GOLDEN is odd, so the keys of one generator differ as long as its offsets do. ``offset + 1`` is
    never 0 here (offsets are multiples of 4), so no key of a generator has its own seed, whose
    blocks ``torch.randn`` uses.
    """
    return (seed + GOLDEN * (offset + 1)) % _TWO64


def eager_generator(
    device: torch.device, generator: torch.Generator | None
) -> torch.Generator | None:
    """The CUDA generator whose state the host may read and move on; None where it may not."""
    source = _cuda_generator(device, generator) if eager() else None
    return None if source is None or capturing(source.device) else source


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is captured on the device's current stream."""
    if torch.cuda.current_device() == device.index:
        return torch.cuda.is_current_stream_capturing()
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _cuda_generator(
    device: torch.device, generator: torch.Generator | None
) -> torch.Generator | None:
    """The CUDA generator to draw from; None where ``torch.randint`` draws."""
    if device.type != "cuda":
        return None
    if generator is None:
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    if generator.device.type != "cuda":
        return None  # PyTorch says what is wrong
    if device.index is not None and generator.device.index != device.index:
        raise ValueError(f"generator must be on {device}, got one on {generator.device}")
    return generator


class HostKey(NamedTuple):
    """A key as two numbers, in int64: cheaper than a tensor where a kernel takes it by value."""

    seed: int
    offset: int

    def bits(self) -> Tensor:
        """The key as an int64 tensor on the CPU. (``torch.tensor`` takes three times as long.)"""
        return torch.frombuffer(array.array("q", self), dtype=torch.int64)


def host_key(generator: torch.Generator) -> HostKey:
    return HostKey(as_int64(derived_seed(*reserve(generator, _RESERVED))), 0)


def reserve(generator: torch.Generator, offsets: int) -> tuple[int, int]:
    """The seed and the offset of a CUDA generator that is not being captured; it moves on.

    Both are in [0, 2^64); ``offsets`` is a multiple of 4.
    """
    if hasattr(generator, "philox_state"):  # from PyTorch 2.14 on
        seed, offset, _ = generator.philox_state(offsets)
        return seed.item() % _TWO64, offset.item() % _TWO64
    # The lock keeps our own threads apart. An op of PyTorch that draws from the same generator in
    # another thread between these two lines draws at this offset (which a key shares with no op,
    # but rng="torch" does), and its move of the offset is lost: a later op draws its numbers again.
    with _reserving:
        at = generator.get_offset()
        # Through an object that shares the state: set on the generator itself, the offset would
        # also make cuDNN draw its dropout state anew, and wait for it, at the next RNN.
        generator.graphsafe_get_state().set_offset(at + offsets)
    return generator.initial_seed(), at


class GraphKey(NamedTuple):
    """A key that a kernel derives when a CUDA graph is replayed.

    ``seed`` and ``offset`` are int64 tensors of shape (1,) on the device, which each replay fills
    with the generator's state; ``intragraph`` is to be added to the offset. The kernel that uses
    the key writes it to ``bits`` (int64, shape (2,)), for the kernels after it.
    """

    seed: Tensor
    offset: Tensor
    intragraph: int
    bits: Tensor


def draw(device: torch.device, generator: torch.Generator | None) -> HostKey | GraphKey | None:
    """A fresh key that costs no kernel, in capture either; None where there is no such key.

    For eager mode, which the caller has made sure of.
    """
    source = _cuda_generator(device, generator)
    if source is None:
        return None
    if not capturing(source.device):
        return host_key(source)
    reserved = _capturing_reservation(source)
    if reserved is None:
        return None
    seed, offset, intragraph = reserved
    bits = torch.empty(2, dtype=torch.int64, device=device)
    return GraphKey(seed, offset, int(intragraph.item()), bits)


def _capturing_reservation(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
    """(seed, offset, intragraph offset) of a generator under capture; None where PyTorch can't."""
    if hasattr(generator, "philox_state"):  # from PyTorch 2.14 on
        return generator.philox_state(_RESERVED)  # type: ignore[no-any-return]
    # PyTorch 2.13 has the same for its compiler. In eager mode it would launch two kernels.
    name = "inductor_reserve_rng_state"
    if hasattr(torch.ops.inductor_prims, name) and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"inductor_prims::{name}", "BackendSelect"
    ):
        op = torch.ops.inductor_prims.inductor_reserve_rng_state.default
        return op(generator, _RESERVED)  # type: ignore[no-any-return]
    return None
