"""Keys of the noise: two 64-bit integers, given or drawn from a generator."""

from __future__ import annotations

from types import ModuleType
from typing import TypeVar

import torch
import torch._functorch.config
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.mistakes import described
from ..core.scalars import integer, is_number
from . import cuda
from .cuda import GraphKey, HostKey, as_int64, derived_seed

__all__ = ["GraphKey", "HostKey", "derived_seed", "draw_key", "key"]

Device = TypeVar("Device", bound=torch.device | str | None)

_TWO63 = 1 << 63
_TWO64 = 1 << 64


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
        generator: source of randomness; the default generator of ``device`` when None. One of the
            CPU serves every device: its key is the CPU's, moved.

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
    check_traceable(generator)
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
        source = cuda.eager_generator(torch.device(device), generator)
        if source is not None:
            return cuda.host_key(source).bits()
    return random_bits(device, generator)


def random_bits(device: torch.device | str | None, generator: torch.Generator | None) -> Tensor:
    """The bits of a fresh key, drawn by an op on the device."""
    if generator is not None:
        device = drawn_on(device, generator)
    return torch.randint(_TWO63 - 1, (2,), device=device, generator=generator)


def drawn_on(device: Device, generator: torch.Generator | None) -> Device:
    """Where a generator draws for a device: a CPU's serves them all, and what it draws is moved."""
    source = getattr(generator, "device", None)
    if source is None or source == device or source.type != "cpu":
        return device
    there = source if device is None else torch.device(device)
    if there.type == "cuda" and cuda.capturing(there):
        raise RuntimeError(
            "a CUDA graph would draw the same from a generator of the CPU in each replay: give one "
            f"of {there}, registered with the graph, or draw before the capture"
        )
    return source  # type: ignore[return-value]


class Fresh:
    """A key that is drawn when it is known how its call will be computed; ``key``: from then on."""

    __slots__ = ("generator", "key")

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.key: Tensor | HostKey | GraphKey | None = None

    def draw(self, device: torch.device) -> Tensor:
        """As a tensor, whoever looks on."""
        self.key = draw_key(device, self.generator)
        return self.key

    def draw_for(self, backend: ModuleType, device: torch.device) -> Tensor | HostKey | GraphKey:
        """As a backend takes it at least cost, in eager mode: even in capture no kernel."""
        self.key = cuda.draw(device, self.generator) if backend.DERIVES_KEYS else None
        if self.key is None:
            self.key = draw_bits(device, self.generator)
        return self.key


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


def check_traceable(generator: torch.Generator | None) -> None:
    """Raise RuntimeError where ``torch.jit.trace`` would record the default generator instead."""
    if generator is not None and torch._C._is_tracing():
        raise RuntimeError(
            "torch.jit.trace can't record a generator: trace without one, or with key= as an input"
        )


def check_bits(key: Tensor) -> None:
    """``check_key`` for an op: the bits may also come as int64."""
    check_key(key.view(torch.uint64) if key.dtype == torch.int64 else key)


def advance(key: Tensor, blocks: int) -> Tensor:
    """The key whose first block is block ``blocks`` of ``key`` (modulo 2^64)."""
    step = torch.arange(2, device=key.device) * as_int64(blocks % _TWO64)
    return (key.view(torch.int64) + step).view(torch.uint64)
