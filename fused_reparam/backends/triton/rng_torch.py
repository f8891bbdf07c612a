"""Calls of the `torch_stream` kernels, and the test that their numbers are PyTorch's."""

from __future__ import annotations

import collections
import functools
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ...rng.cuda import as_int64
from .kernels import finish, torch_stream
from .launch import Variant, math_form

_INF = float("inf")
_THREADS = 256  # in a block of PyTorch's distribution kernels
_SINGLE = 4096  # up to here one program does everything, the KL's sum too
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Draw(NamedTuple):
    """Where in a generator's stream the noise of n elements lies."""

    seed: int
    offset: int
    threads: int

    def scalars(self, n: int) -> tuple[int, int, int, int]:
        """n, threads, seed and first block, as kernels take them."""
        return n, self.threads, as_int64(self.seed), self.offset // 4


def threads_and_offsets(n: int, blocks: int) -> tuple[int, int]:
    """How many threads PyTorch draws n elements with, and by how much its offset then moves.

    `blocks`: the most that it launches.
    """
    threads = _THREADS * min(blocks, -(-n // _THREADS))
    return threads, -(-n // (threads * 4)) * 4


@functools.cache
def most_blocks(device: torch.device) -> int:
    """As many blocks of 256 threads as the GPU holds at once."""
    found = torch.cuda.get_device_properties(device)
    return int(found.multi_processor_count * (found.max_threads_per_multi_processor // _THREADS))


class TorchGrid(NamedTuple):
    """How a launch covers the threads that PyTorch draws with, Q of them in each program."""

    q: int
    slices: int
    programs: int
    warps: int


def _torch_grid(n: int, threads: int, dtype: torch.dtype) -> TorchGrid:
    if threads <= _SINGLE:
        q = max(triton.next_power_of_2(threads), _THREADS)
        warps = min(max(q // 256, 4), 16)
    else:
        q, warps = (512 if dtype == torch.float32 else 1024), 4
    calls = -(-n // (threads * 4))
    return TorchGrid(q, min(4, -(-n // threads)), calls * -(-threads // q), warps)


@functools.lru_cache(maxsize=256)
def _variant(
    name: str, device: torch.device, dtype: torch.dtype, n: int, threads: int, options: tuple
) -> Variant:
    """`options`: the kernel's other constants, and whatever else a variant differs in, last."""
    kernel = getattr(torch_stream, name)
    grid = _torch_grid(n, threads, dtype)
    constexprs = (*options[:2], grid.slices, grid.q, math_form(device, 4))
    return Variant(kernel, device, grid.programs, constexprs, grid.warps)


@functools.lru_cache(maxsize=256)
def _finish(device: torch.device, programs: int) -> Variant:
    block = 4096 if programs > 64 else 256
    constexprs = (1, True, 1, block)
    return Variant(finish.finish_kernel, device, 1, constexprs, 8 if block > 256 else 4)


def normal(draw: Draw, out: Tensor) -> None:
    """Fill `out` (dense) with the noise of a draw."""
    n = out.numel()
    variant = _variant("fill_kernel", out.device, out.dtype, n, draw.threads, ())
    variant.launch((out,), draw.scalars(n))


def forward(
    draw: Draw, loc: Tensor, scale: Tensor, kind: int, low: float, high: float, factor: float,
    z: Tensor, kl: Tensor,
) -> None:  # fmt: skip
    """z = loc + sigma * noise, and kl = factor * the sum of the element KLs; all contiguous."""
    n, device = loc.numel(), loc.device
    options = (kind, low != -_INF or high != _INF)
    variant = _variant("gaussian_forward_kernel", device, loc.dtype, n, draw.threads, options)
    programs = variant.programs
    target = kl if programs == 1 else torch.empty(programs, dtype=kl.dtype, device=device)
    at_once = factor if programs == 1 else 1.0
    variant.launch((loc, scale, z, target), (*draw.scalars(n), low, high, at_once))
    if programs > 1:
        _finish(device, programs).launch((target, kl), (programs, n, 1, factor))


def backward(
    draw: Draw, grad_z: Tensor, grad_kl: Tensor | None, loc: Tensor, scale: Tensor, kind: int,
    low: float, high: float, factor: float, grad_loc: Tensor, grad_scale: Tensor,
) -> None:  # fmt: skip
    """The gradients of `forward`."""
    n = loc.numel()
    options = (kind, low != -_INF or high != _INF, grad_kl is None)
    variant = _variant("gaussian_backward_kernel", loc.device, loc.dtype, n, draw.threads, options)
    variant.launch(
        (grad_z, grad_kl, loc, scale, grad_loc, grad_scale), (*draw.scalars(n), low, high, factor)
    )


# Why the noise of a device and dtype has to be drawn as a tensor; None where the kernels make it.
_why_not: dict[tuple[torch.device, torch.dtype], str | None] = {}
# An exception may pass (no memory, a capture in another thread): it is believed the third time.
_died: collections.Counter[tuple[torch.device, torch.dtype]] = collections.Counter()
_TRIES = 3


def holds(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `normal` gives `torch.randn`'s bits, and moves a generator as it does, here and now.

    Found out at the first use of a device and dtype, on a generator of its own.
    """
    return why_not(device, dtype) is None


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """None where `holds`, else the reason."""
    if device.type != "cuda" or torch.version.hip:
        return "only for CUDA"
    case = device, dtype
    if case in _why_not:
        return _why_not[case]
    try:
        found = None if _compared(device, dtype) else "its bits are not PyTorch's here"
    except Exception as error:  # whatever this PyTorch or Triton has otherwise
        found = f"{type(error).__name__}: {error}"
        _died[case] += 1
        if _died[case] < _TRIES:
            return found
    _why_not[case] = found
    return found


def _compared(device: torch.device, dtype: torch.dtype) -> bool:
    """It waits for the device, which is no fault of the caller's: the debug mode is off for it."""
    mode = torch.cuda.get_sync_debug_mode()
    if mode:  # setting it warns
        torch.cuda.set_sync_debug_mode(0)
    try:
        with torch.no_grad(), torch.cuda.device(device):
            return same_as_torch(torch.Generator(device), device, dtype, most_blocks(device))
    finally:
        if mode:
            torch.cuda.set_sync_debug_mode(mode)


def same_as_torch(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, blocks: int
) -> bool:
    """Compare with `torch.randn`: one element, odd sizes, several slices, several calls."""
    seed = 0x9E3779B97F4A7C15
    generator.manual_seed(seed)
    most = blocks * _THREADS
    for n in (1, 77, 2560, most + 33, 4 * most + 1234, 9 * most + 5):
        offset = generator.get_offset()
        want = torch.randn(n, dtype=dtype, device=device, generator=generator)
        threads, moved = threads_and_offsets(n, blocks)
        got = torch.empty_like(want)
        normal(Draw(seed, offset, threads), got)
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        if generator.get_offset() != offset + moved or not torch.equal(
            got.view(bits), want.view(bits)
        ):
            return False
    return True
