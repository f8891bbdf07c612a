"""Memory order: which element of an op comes first, and how its operands are read in place.

An op's *order* lists its dims from the outermost in memory to the innermost; the empty list means
the dims' own order. Element ``i`` of the noise stream is element ``i`` in this order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
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


def shifted_order(order: Sequence[int], dims: int) -> list[int]:
    """An order with so many dims in front."""
    return [*range(dims), *(d + dims for d in order)] if order else []


def empty_ordered(
    shape: Sequence[int], order: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """An uninitialised tensor, dense in the given order."""
    if not order:
        return torch.empty(shape, dtype=dtype, device=device)
    inverse = [order.index(d) for d in range(len(order))]
    return torch.empty([shape[d] for d in order], dtype=dtype, device=device).permute(inverse)


class Place(NamedTuple):
    """Where a backend finds an operand in a tensor: a view of it, or a copy of such a view."""

    size: torch.Size
    strides: tuple[int, ...]
    shift: int  # elements from the tensor's first
    copied: torch.Size | None  # the shape of the copy; None: the view itself


def stand_in(t: Tensor | None) -> Any:
    """A tensor of the same shape, strides and dtype that has no memory.

    What is to be known of tensors like it is found on it, by the operators that would act on them.
    """
    return (
        None
        if t is None
        else torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
    )


def form(t: Tensor | None) -> tuple[torch.Size, tuple[int, ...]] | None:
    """What ``new_empty_strided``, the quickest of its kind, takes to make a tensor like this."""
    return None if t is None else (t.shape, t.stride())


def place_of(view: Tensor, of: Tensor, copied: torch.Size | None = None) -> Place | None:
    """How to get from a tensor to a view of its stand-in; None where it is the tensor as it is."""
    shift = int(view.storage_offset())
    if copied is None and shift == 0 and form(view) == form(of):
        return None
    return Place(view.shape, view.stride(), shift, copied)


def operand(t: Tensor | None, place: Place | None) -> Tensor | None:
    """A tensor as a backend takes it."""
    if place is None or t is None:
        return t
    size, strides, shift, copied = place
    view = t.as_strided(size, strides, t.storage_offset() + shift)
    return view if copied is None else view.contiguous().view(copied)


Located = tuple[int, Place | None]  # which of some tensors, and where in it


Take = Callable[[Sequence[Any]], Sequence[Any]]


def taking(at: Sequence[int]) -> Take:
    """A function that takes so many of some tensors, in a tuple."""
    if len(at) == 1:
        (only,) = at
        return lambda tensors: (tensors[only],)
    return operator.itemgetter(*at) if at else lambda _: ()


def operands(located: Sequence[Located | None]) -> Take:
    """A function that takes tensors as a backend takes them."""
    found = [o for o in located if o is not None]
    if len(found) == len(located) and all(place is None for _, place in found):
        return taking([at for at, _ in found])
    return lambda tensors: [None if o is None else operand(tensors[o[0]], o[1]) for o in located]


def consecutive(t: Tensor, of: Tensor, order: Sequence[int]) -> Place | None:
    """A view of a stand-in as a tensor that is contiguous once its dims are in this order."""
    t = t.permute(*order) if order else t
    return place_of(t, of, None if t.is_contiguous() else t.shape)


Operand = tuple[Tensor, Tensor]  # a view of a tensor, and that, both stand-ins


def arrange(
    order: Sequence[int], inputs: Sequence[Operand | None], outputs: Sequence[Operand | None]
) -> tuple[bool, list[Place | None], list[Place | None]]:
    """Lay operands of one shape out as backends take them.

    Returns ``(dense, inputs, outputs)``. When every operand is dense in ``order`` they come back as
    they are. Otherwise each becomes a view of shape (rows, columns) with two strides; an input
    that no such view can show is copied.
    """
    operands = (*inputs, *outputs)
    shape = next(o[0].shape for o in operands if o is not None)
    strides: list[Any] = [None if o is None else o[0].stride() for o in operands]
    found = _rows(order, shape, strides, len(inputs))
    places = [
        None if o is None
        else place_of(*o) if found is None
        else _as_rows(*o, order, found.size, two)
        for o, two in zip(operands, found.strides if found else strides, strict=True)
    ]  # fmt: skip
    return found is None, places[: len(inputs)], places[len(inputs) :]


class Rows(NamedTuple):
    """How operands become rows."""

    size: torch.Size  # rows, columns
    strides: list[tuple[int, int] | None]  # of each operand; None where it must be copied


def _rows(
    order: Sequence[int],
    shape: torch.Size,
    strides: Sequence[tuple[int, ...] | None],
    inputs: int,
) -> Rows | None:
    """How operands of these strides become rows; None when all are dense."""
    if order:
        shape = torch.Size([shape[d] for d in order])
        strides = [s if s is None else tuple(s[d] for d in order) for s in strides]
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
    return Rows(torch.Size((rows, columns)), found)


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
    view: Tensor,
    of: Tensor,
    order: Sequence[int],
    size: torch.Size,
    strides: tuple[int, int] | None,
) -> Place | None:
    if strides is None:
        view = view.permute(*order) if order else view
        return place_of(view, of, size)
    return place_of(of.as_strided(size, strides, view.storage_offset()), of)
