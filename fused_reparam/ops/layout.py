"""Memory order: which element of an op comes first, and how its operands are read in place.

An op's *order* lists its dims from the outermost in memory to the innermost; the empty list means
the dims' own order. Element ``i`` of the noise stream is element ``i`` in this order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# An order that is left to the inputs.
UNSETTLED: Any = None


def memory_order(t: Tensor) -> list[int]:
    """The order of a tensor's dims in memory, as ``torch.empty_like`` would keep it."""
    if t.is_contiguous():
        return []
    strides = t.stride()
    if any(stride == 0 and size != 1 for size, stride in zip(t.shape, strides, strict=True)):
        return []  # expanded: its strides say nothing of the order
    # By insertion: a compiler can't trace a sort by strides that it does not know.
    order: list[int] = []
    for d in range(t.dim()):
        at = len(order)
        while at and strides[order[at - 1]] < strides[d]:
            at -= 1
        order.insert(at, d)
    return [] if order == list(range(t.dim())) else order


def empty_ordered(
    shape: Sequence[int], order: list[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """An uninitialised tensor, dense in the given order."""
    if not order:
        return torch.empty(shape, dtype=dtype, device=device)
    inverse = [order.index(d) for d in range(len(order))]
    return torch.empty([shape[d] for d in order], dtype=dtype, device=device).permute(inverse)


def arrange(
    order: list[int], inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]
) -> tuple[bool, list[Tensor | None], list[Tensor | None]]:
    """Lay operands of one shape out as backends take them.

    Returns ``(dense, inputs, outputs)``. When every operand is dense in ``order`` they come back as
    they are. Otherwise each becomes a view of shape (rows, columns) with two strides; an input
    that no such view can show is copied.
    """
    operands = (*inputs, *outputs)
    if not order and all(t is None or t.is_contiguous() for t in operands):
        return True, list(inputs), list(outputs)
    shape = next(t.shape for t in operands if t is not None)
    strides = tuple(None if t is None else t.stride() for t in operands)
    found = plan(tuple(order), shape, strides, len(inputs))
    if found is None:
        return True, list(inputs), list(outputs)
    rows = [
        t if t is None else _as_rows(t, order, found.size, at)
        for t, at in zip(operands, found.strides, strict=True)
    ]
    return False, rows[: len(inputs)], rows[len(inputs) :]


class Plan(NamedTuple):
    """How operands become rows."""

    size: tuple[int, int]  # rows, columns
    strides: list[tuple[int, int] | None]  # of each operand; None where it must be copied


@functools.lru_cache(maxsize=4096)
def plan(
    order: tuple[int, ...],
    shape: torch.Size,
    strides: tuple[tuple[int, ...] | None, ...],
    inputs: int,
) -> Plan | None:
    """How operands of these strides become rows; None when all are dense.

    Cached: to find it costs as much as a small latent's whole forward pass.
    """
    if order:
        shape = torch.Size([shape[d] for d in order])
        strides = tuple(s if s is None else tuple(s[d] for d in order) for s in strides)
    best = None
    for split in range(len(shape) + 1):
        found = [None if s is None else _row_strides(shape, s, split) for s in strides]
        copies = sum(f is None and s is not None for f, s in zip(found, strides, strict=True))
        writable = all(
            f is not None or s is None
            for f, s in zip(found[inputs:], strides[inputs:], strict=True)
        )
        # The first of the best has the longest columns.
        if writable and (best is None or copies < best[0]):
            best = copies, split, found
    assert best is not None
    _, split, found = best
    rows, columns = shape[:split].numel(), shape[split:].numel()
    if split == 0 and all(f is None or f[1] == 1 or columns == 1 for f in found) and not best[0]:
        return None
    return Plan((rows, columns), found)


def _row_strides(
    shape: Sequence[int], strides: Sequence[int], split: int
) -> tuple[int, int] | None:
    """The two strides of an operand cut into rows and columns before dim ``split``."""
    row = run_stride(shape[:split], strides[:split])
    column = run_stride(shape[split:], strides[split:])
    return None if row is None or column is None else (row, column)


def run_stride(sizes: Sequence[int], strides: Sequence[int]) -> int | None:
    """The constant stride of some dims walked in order, or None when there is none."""
    run: int | None = None
    extent = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size == 1:
            continue
        if run is None:
            run = stride
        elif stride != run * extent:
            return None
        extent *= size
    return 0 if run is None else run


def _as_rows(
    t: Tensor, order: list[int], size: tuple[int, int], strides: tuple[int, int] | None
) -> Tensor:
    if strides is None:
        return (t.permute(order) if order else t).contiguous().view(size)
    return t.as_strided(size, strides)
