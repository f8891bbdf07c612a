"""From tensors to kernel launches: which tile shape, which variant, on which device and stream.

A launch through Triton's `kernel[grid](...)` re-derives the specialization of every argument in
Python. Here the same facts are one dictionary key, and the compiled kernel found under it is
launched directly.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs

from . import approx, backward, fill, finish, forward
from .shapes import SEGMENT, SMALL, Shape, flat_shape

INTERPRETED = approx.INTERPRETED.value
_COMPILED: dict[tuple, Any] = {}


class Plan(NamedTuple):
    """How n elements are cut into tiles. segment_groups: 0, or the groups that a segment takes."""

    shape: Shape
    programs: int
    segment_groups: int
    tail: int


def plan(n: int, segments: int, vector: int, device: torch.device | None = None) -> Plan:
    """`segments` > 1: tiles must respect that many segments of equal length (see `tiles`)."""
    if 1 < segments < n:
        length = n // segments
        aligned = length % vector == 0
        cover = length // vector if aligned else -(-length // vector) + 1
        for shape in SEGMENT:
            if cover <= shape.groups:
                groups = triton.next_power_of_2(cover)
                each = shape.groups // groups
                full = length == groups * vector and segments % each == 0
                return Plan(shape, -(-segments // each), groups, 0 if full else 1 if aligned else 2)
        shape = flat_shape(n, vector, False, device)
        if shape.groups * vector > length:
            shape = SMALL
    else:
        shape = flat_shape(n, vector, segments == 1, device)
    tile = shape.groups * vector
    tail = 0 if n % tile == 0 else 1 if n % vector == 0 else 2
    return Plan(shape, -(-n // tile), 0, tail)


class Layout(NamedTuple):
    """`layout` and `unit` as in `tiles`; strides: (row, column) for each tensor in turn."""

    layout: int
    unit: int
    columns: int
    long: bool
    big: bool
    strides: tuple[int, ...]


def layout_of(tensors: tuple, dense: bool, shape: Shape, vector: int) -> Layout:
    """`tensors`: bit k of `unit` and strides 2k, 2k + 1 belong to tensor k (which may be None)."""
    if dense:
        return Layout(0, 0, 1, False, False, (0,) * (2 * len(tensors)))
    rows, columns = next(t.shape for t in tensors if t is not None)
    layout = 1 if columns % vector == 0 else 2
    unit = 0
    strides: list[int] = []
    for bit, tensor in enumerate(tensors):
        row, column = (0, 0) if tensor is None else tensor.stride()
        row = 0 if rows == 1 else row
        if layout == 1 and column == 1 and row % vector == 0:
            unit |= 1 << bit
        strides += (row, column)
    long = columns >= (shape.groups + 2) * vector
    return Layout(layout, unit, columns, long, columns > 1 << 30, tuple(strides))


def math_form(device: torch.device, vector: int) -> int:
    """Which elementary functions the kernel uses; a vector of two is float64."""
    if INTERPRETED or device.type != "cuda":
        return approx.PLAIN.value
    if torch.version.hip:
        return (approx.HIP64 if vector == 2 else approx.AMD).value
    return (approx.CUDA64 if vector == 2 else approx.PTX).value


def _hooked() -> bool:
    """A profiler listens to launches: let Triton's own path tell it."""
    runtime = knobs.runtime
    hooks = (runtime.launch_enter_hook, runtime.launch_exit_hook)
    return any(getattr(hook, "calls", hook) for hook in hooks)


def _device_guard(device: torch.device):
    module = getattr(torch, device.type)
    return nullcontext() if module.current_device() == device.index else module.device(device)


def launch(
    kernel, programs: int, pointers: tuple, scalars: tuple, constants: tuple, warps: int
) -> None:
    """kernel[(programs,)](*pointers, *scalars, *constants), on the first pointer's device.

    Arguments stand in the kernel's order: tensors or None, then numbers of fixed type, then
    constants.
    """
    owner = next(p for p in pointers if p is not None)
    device = owner.device
    if INTERPRETED or device.type != "cuda":
        guard = nullcontext() if device.type == "cpu" else _device_guard(device)
        with guard:
            _plain(kernel, programs, pointers, scalars, constants, warps)
        return
    addresses = tuple([None if p is None else p.data_ptr() for p in pointers])
    # What Triton specializes on. The numbers' types are annotated and their values left alone.
    facts = tuple([None if p is None else _facts(p) for p in pointers])
    key = (kernel, device.index, facts, constants, warps)
    with _device_guard(device):
        compiled = _COMPILED.get(key)
        if compiled is None or _hooked():
            compiled = _plain(kernel, programs, pointers, scalars, constants, warps)
            if key not in _COMPILED:
                _COMPILED[key] = compiled if _launchable(compiled) else False
        elif compiled is False:
            _plain(kernel, programs, pointers, scalars, constants, warps)
        else:
            stream = triton.runtime.driver.active.get_current_stream(device.index)
            try:
                compiled.run(
                    programs, 1, 1, stream, compiled.function, compiled.packed_metadata, None, None,
                    None,
                    *addresses, *scalars, *constants,
                )  # fmt: skip
            except (
                TypeError
            ):  # raised before anything is launched: another Triton's calling convention
                _COMPILED[key] = False
                _plain(kernel, programs, pointers, scalars, constants, warps)


def _facts(tensor: torch.Tensor) -> tuple:
    """Type and alignment; on ROCm also whether the storage can be addressed in 32 bits."""
    aligned = tensor.data_ptr() % 16 == 0
    if torch.version.hip:
        return tensor.dtype, aligned, tensor.untyped_storage().nbytes() < 1 << 31
    return tensor.dtype, aligned


def _launchable(compiled) -> bool:
    return all(hasattr(compiled, name) for name in ("run", "function", "packed_metadata"))


def _plain(kernel, programs: int, pointers: tuple, scalars: tuple, constants: tuple, warps: int):
    pointers = tuple(
        p.view(torch.int64) if p is not None and p.dtype == torch.uint64 else p for p in pointers
    )
    return kernel[(programs,)](
        *pointers, *scalars, *constants, num_warps=warps, enable_fp_fusion=True
    )


def normal(key: torch.Tensor, out: torch.Tensor) -> None:
    """Fill `out` (dense) with the key's noise stream, in memory order."""
    n = out.numel()
    vector = 16 // out.element_size()
    cut = plan(n, n, vector, out.device)
    constants = (cut.tail, cut.shape.groups, vector, math_form(out.device, vector))
    launch(fill.fill_kernel, cut.programs, (key, out), (n,), constants, cut.shape.warps)


def gaussian_forward(loc, scale, key, eps, kind, low, high, weight, dense, z, kl) -> None:
    n = loc.numel()
    vector = 16 // loc.element_size()
    segments = n if kl is None else kl.numel()
    cut = plan(n, segments, vector, loc.device)
    shape, tile = cut.shape, cut.shape.groups * vector
    length = n // segments
    place = layout_of((loc, scale, eps, z), dense, shape, vector)
    target, factor, slots = kl, weight, 0
    if kl is None:
        mode = forward.KL_NONE
    elif segments == n:
        mode = forward.KL_EACH
    elif cut.segment_groups:
        mode = forward.KL_SEGMENT
    else:
        slots = 1 if segments == 1 or length % tile == 0 else 2
        mode = forward.KL_TILE if slots == 1 else forward.KL_SPLIT
        if slots == 1 and cut.programs == segments:
            slots = 0  # each tile is a whole segment
        else:
            target, factor = (
                torch.empty(cut.programs * slots, dtype=kl.dtype, device=kl.device),
                1.0,
            )
    scalars = (n, length, place.columns, *place.strides[:6], low, high, factor)
    constants = (
        kind, low != float("-inf") or high != float("inf"), mode.value, cut.segment_groups,
        place.layout,
        place.unit, place.long, place.big, cut.tail, shape.groups, vector, math_form(loc.device,
        vector),
    )  # fmt: skip
    pointers = (loc, scale, key, eps, z, target)
    launch(forward.forward_kernel, cut.programs, pointers, scalars, constants, shape.warps)
    if slots:
        block = 4096 if cut.programs > 64 * segments else 256
        launch(
            finish.finish_kernel, segments, (target, kl), (cut.programs, length, weight),
            (slots, segments == 1, tile, block), 8 if block > 256 else 4,
        )  # fmt: skip


def gaussian_backward(
    grad_z, grad_kl, loc, scale, key, eps, kind, low, high, weight, dense, grad_loc, grad_scale
) -> None:
    n = loc.numel()
    vector = 16 // loc.element_size()
    segments = n if grad_kl is None else grad_kl.numel()
    cut = plan(n, segments, vector, loc.device)
    if grad_kl is None:
        mode = backward.GKL_NONE
    elif segments == n:
        mode = backward.GKL_EACH
    elif segments == 1:
        mode = backward.GKL_ONE
    else:
        mode = backward.GKL_SEGMENT if cut.segment_groups else backward.GKL_SPLIT
    each = grad_kl if segments == n else None
    tensors = (loc, scale, eps, grad_z, grad_loc, grad_scale, each)
    place = layout_of(tensors, dense, cut.shape, vector)
    scalars = (n, n // segments, place.columns, *place.strides, low, high, weight)
    constants = (
        kind, low != float("-inf") or high != float("inf"), mode.value, cut.segment_groups,
        place.layout,
        place.unit, place.long, place.big, cut.tail, cut.shape.groups, vector, math_form(loc.device,
        vector),
    )  # fmt: skip
    pointers = (grad_z, grad_kl, loc, scale, key, eps, grad_loc, grad_scale)
    launch(backward.backward_kernel, cut.programs, pointers, scalars, constants, cut.shape.warps)
