"""From tensors to kernel launches: which tile shape, which variant, on which device and stream.

A launch through Triton's `kernel[grid](...)` re-derives the specialization of every argument in
Python. Here a `Variant` knows it, and launches the compiled kernel directly. `calls` keeps the
variants.
"""

from __future__ import annotations

import ctypes
import functools
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs

from .kernels import approx
from .shapes import SEGMENT, SMALL, Shape, flat_shape

_HIP = torch.version.hip is not None
INTERPRETED = approx.INTERPRETED.value


class LaunchConfiguration(NamedTuple):
    """How a kernel is launched over n elements: in tiles of which shape, by how many programs.

    segment_groups: 0, or the groups that a segment takes. tail: as TAIL in `tiles`.
    """

    shape: Shape
    programs: int
    segment_groups: int
    tail: int


def launch_configuration(
    n: int,
    segments: int,
    vector: int,
    device: torch.device | None = None,
    only: Shape | None = None,
) -> LaunchConfiguration:
    """`segments` > 1: tiles must respect that many segments of equal length (see `tiles`).

    `only`: the shape to take, whatever the size.
    """
    if 1 < segments < n:
        length = n // segments
        aligned = length % vector == 0
        cover = length // vector if aligned else -(-length // vector) + 1
        for shape in (only,) if only else SEGMENT:
            if cover <= shape.groups:
                groups = triton.next_power_of_2(cover)
                each = shape.groups // groups
                full = length == groups * vector and segments % each == 0
                return LaunchConfiguration(
                    shape, -(-segments // each), groups, 0 if full else 1 if aligned else 2
                )
        shape = only or flat_shape(n, vector, False, device)
        if shape.groups * vector > length:  # a segment would begin and end inside a tile
            shape = Shape(only.groups // 2, only.warps // 2) if only else SMALL
    else:
        shape = only or flat_shape(n, vector, segments == 1, device)
    tile = shape.groups * vector
    tail = 0 if n % tile == 0 else 1 if n % vector == 0 else 2
    return LaunchConfiguration(shape, -(-n // tile), 0, tail)


class Layout(NamedTuple):
    """`layout` and `unit` as in `tiles`; strides: (row, column) for each tensor in turn."""

    layout: int
    unit: int
    columns: int
    long_rows: bool
    wide_index: bool
    strides: tuple[int, ...]


def layout_of(
    size: tuple[int, int] | None,
    strides: Sequence[tuple[int, int] | None],
    shape: Shape,
    vector: int,
) -> Layout:
    """Of tensors that are dense (size None), or rows and columns with these strides.

    Bit k of `unit` and strides 2k, 2k + 1 belong to tensor k, which may be absent.
    """
    if size is None:
        return Layout(0, 0, 1, False, False, (0,) * (2 * len(strides)))
    rows, columns = size
    layout = 1 if columns % vector == 0 else 2
    unit = 0
    found: list[int] = []
    for bit, two in enumerate(strides):
        row, column = two or (0, 0)
        row = 0 if rows == 1 else row
        if layout == 1 and column == 1 and row % vector == 0:
            unit |= 1 << bit
        found += (row, column)
    long_rows = columns >= (shape.groups + 2) * vector
    return Layout(layout, unit, columns, long_rows, columns > 1 << 30, tuple(found))


def math_form(device: torch.device, vector: int) -> int:
    """Which elementary functions the kernel uses; a vector of two is float64."""
    if INTERPRETED or device.type != "cuda":
        return approx.PORTABLE.value
    if torch.version.hip:
        return (approx.HIP64 if vector == 2 else approx.AMD).value
    return (approx.CUDA64 if vector == 2 else approx.PTX).value


def _hooked() -> bool:
    """A profiler listens to launches: let Triton's own path tell it."""
    runtime = knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


def _device_guard(device: torch.device) -> Any:
    return nullcontext() if device.type == "cpu" else getattr(torch, device.type).device(device)


@contextmanager
def _loading_allowed() -> Iterator[None]:
    """Let a kernel be loaded while a CUDA graph is captured.

    A captured step takes its key otherwise than the eager step that warmed it up, so its kernels
    may be new. Loading one is among the calls that only the relaxed mode of capture allows (with
    drivers of CUDA 12.3 and later).
    """
    if torch.version.hip or not torch.cuda.is_current_stream_capturing():
        yield
        return
    try:
        exchange = ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode
    except (OSError, AttributeError):  # another system: capture may refuse to load, and says so
        yield
        return
    mode = ctypes.c_int(2)  # CU_STREAM_CAPTURE_MODE_RELAXED; the call puts the former one here
    exchange(ctypes.byref(mode))
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))


class Variant:
    """A kernel with all of a launch that does not depend on the arguments' values.

    Triton specializes on the constants, the pointers' types (which the constants imply, with which
    pointers are None) and their alignment: a compiled kernel is kept for each alignment seen.
    """

    def __init__(
        self, kernel: Any, device: torch.device, programs: int, constexprs: tuple, warps: int
    ) -> None:
        self.kernel, self.device, self.programs = kernel, device, programs
        self.constexprs, self.warps = constexprs, warps
        self.direct = device.type == "cuda" and not INTERPRETED
        self.handles: dict[Any, Any] = {}

    def launch(self, pointers: Sequence[torch.Tensor | None], scalars: tuple) -> None:
        """kernel[(programs,)](*pointers, *scalars, *constants), on the variant's device."""
        if self.direct and torch.cuda.current_device() == self.device.index:
            self._launch(pointers, scalars)
        elif self.direct:
            with torch.cuda.device(self.device):
                self._launch(pointers, scalars)
        else:
            with _device_guard(self.device):
                self._launch_by_triton(pointers, scalars)

    def _launch(self, pointers: Sequence[torch.Tensor | None], scalars: tuple) -> None:
        addresses = [None if p is None else p.data_ptr() for p in pointers]
        low = functools.reduce(operator.or_, filter(None, addresses), 0)
        facts = True if low % 16 == 0 and not _HIP else _facts(pointers, addresses)
        handle = self.handles.get(facts)
        if handle is None:
            with _loading_allowed():
                self.handles[facts] = _handle(self._launch_by_triton(pointers, scalars))
        elif handle is False or _hooked():
            self._launch_by_triton(pointers, scalars)
        else:
            run, function, metadata, _ = handle
            stream = triton.runtime.driver.active.get_current_stream(self.device.index)
            try:
                run(
                    self.programs, 1, 1, stream, function, metadata, None, None, None,
                    *addresses, *scalars, *self.constexprs,
                )  # fmt: skip
            except TypeError:  # raised before anything is launched: another calling convention
                self.handles[facts] = False
                self._launch_by_triton(pointers, scalars)

    def _launch_by_triton(self, pointers: Sequence[torch.Tensor | None], scalars: tuple) -> Any:
        """Triton's own launch, which compiles where it must; returns the compiled kernel."""
        signed = [
            p.view(torch.int64) if p is not None and p.dtype == torch.uint64 else p
            for p in pointers
        ]
        return self.kernel[(self.programs,)](
            *signed, *scalars, *self.constexprs, num_warps=self.warps, enable_fp_fusion=True
        )


def _facts(pointers: Sequence[torch.Tensor | None], addresses: Sequence[int | None]) -> Any:
    """Alignment, where not all is aligned; on ROCm also whether 32 bits address a storage."""
    if _HIP:
        return tuple(
            None if p is None else (p.data_ptr() % 16 == 0, p.untyped_storage().nbytes() < 1 << 31)
            for p in pointers
        )
    return tuple(a is None or a % 16 == 0 for a in addresses)


def _handle(compiled: Any) -> Any:
    """What a direct launch needs; False where this Triton has it otherwise."""
    if all(hasattr(compiled, name) for name in ("run", "function", "packed_metadata")):
        # Read once: each of them is looked up in Python. `run` first, it loads the kernel. The
        # kernel itself is kept, for it unloads its code when it goes.
        return compiled.run, compiled.function, compiled.packed_metadata, compiled
    return False
