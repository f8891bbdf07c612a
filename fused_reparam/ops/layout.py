"""Memory order: which element of an op comes first, and how its operands are read in place.

An op's *order* lists its dims from the outermost in memory to the innermost; the empty list means
the dims' own order. Element ``i`` of the noise stream is element ``i`` in this order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_order(t: Tensor) -> list[int]:
    """The order of a tensor's dims in memory, as ``torch.empty_like`` would keep it."""
    if t.is_contiguous():
        return []
    strides = t.stride()
    if any(stride == 0 and size != 1 for size, stride in zip(t.shape, strides, strict=True)):
        return []  # expanded: its strides say nothing of the order
    order = sorted(range(t.dim()), key=lambda d: -strides[d])
    return [] if order == list(range(t.dim())) else order


def empty_ordered(
    shape: Sequence[int], order: list[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """An uninitialised tensor, dense in the given order."""
    if not order:
        return torch.empty(shape, dtype=dtype, device=device)
    inverse = [order.index(d) for d in range(len(order))]
    return torch.empty([shape[d] for d in order], dtype=dtype, device=device).permute(inverse)


def outermost_is_dim0(shape: Sequence[int], order: list[int]) -> bool:
    """Whether each index of dim 0 owns one consecutive run of memory."""
    return not order or all(shape[d] == 1 for d in order[: order.index(0)])


def arrange(
    order: list[int], inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]
) -> tuple[bool, list[Tensor | None], list[Tensor | None]]:
    """Lay operands of one shape out as backends take them.

    Returns ``(dense, inputs, outputs)``. When every operand is dense in ``order`` they come back as
    they are. Otherwise each becomes a view of shape (rows, columns) with two strides; an input
    that no such view can show is copied.
    """
    operands = [t for t in (*inputs, *outputs) if t is not None]
    if not order and all(t.is_contiguous() for t in operands):
        return True, list(inputs), list(outputs)
    if order and all(t.permute(order).is_contiguous() for t in operands):
        return True, list(inputs), list(outputs)

    def permuted(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [t.permute(order) if order and t is not None else t for t in tensors]

    rows_in, rows_out = permuted(inputs), permuted(outputs)
    split = _best_split(
        [t for t in rows_in if t is not None], [t for t in rows_out if t is not None]
    )
    return (
        False,
        [t if t is None else _as_rows(t, split) for t in rows_in],
        [t if t is None else _as_rows(t, split) for t in rows_out],
    )


def _run_stride(sizes: Sequence[int], strides: Sequence[int]) -> int | None:
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


def _row_strides(t: Tensor, split: int) -> tuple[int, int] | None:
    row = _run_stride(t.shape[:split], t.stride()[:split])
    column = _run_stride(t.shape[split:], t.stride()[split:])
    return None if row is None or column is None else (row, column)


def _best_split(inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Where to cut the dims into rows and columns: fewest copies, then the longest columns."""
    splits = [
        split
        for split in range((inputs or outputs)[0].dim() + 1)
        if all(_row_strides(t, split) is not None for t in outputs)
    ]
    return min(splits, key=lambda s: sum(_row_strides(t, s) is None for t in inputs))


def _as_rows(t: Tensor, split: int) -> Tensor:
    strides = _row_strides(t, split)
    if strides is None:
        t = t.contiguous()
        strides = _row_strides(t, split)
        assert strides is not None
    rows, columns = t.shape[:split].numel(), t.shape[split:].numel()
    return t.as_strided((rows, columns), strides, t.storage_offset())
