"""Over what the terms of the elements, such as a KL, are summed: a reduction, or dims."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..core import reductions
from ..core.scalars import integer
from .arguments import check_reduction

Dims = int | Sequence[int] | None
Reduction = str | tuple[int, ...]
"""A name of ``core.reductions``, or the dims to sum over, as they were given."""


def summed(reduction: str, dims: Dims, usual: str = "batchmean") -> Reduction:
    """What a user asked for by ``reduction``, of the default ``usual``, or by ``dims``."""
    if dims is None:
        check_reduction(reduction)
        return reduction
    if reduction != usual:
        raise ValueError(
            f"give reduction or dims, not both: dims={dims} are summed over, and nothing is "
            f"averaged; got reduction={reduction!r} as well"
        )
    return as_dims(dims)


def as_dims(dims: int | Sequence[int]) -> tuple[int, ...]:
    """The dims as a tuple of integers; which of them there are is not known yet."""
    if isinstance(dims, (tuple, list)):
        return tuple([integer("dims", dim) for dim in dims])
    return (integer("dims", dims),)


def settled(
    dims: tuple[int, ...], count: int, shape: Callable[[], Sequence[int]]
) -> tuple[str, list[int]]:
    """The op's reduction of terms of so many dims, and the dims that are left to sum over.

    The op sums over the last dims. The dims that are left count from the end: there may be samples
    in front.
    """
    if len(dims) == 1 and count > 1 and dims[0] in (-1, count - 1):  # most often so
        return reductions.keeping(count - 1), []
    # A dim of a tensor without any is none, as in torch.sum.
    found = sorted({dim % count if count else 0 for dim in dims})
    if len(found) < len(dims) or any(
        not -count <= dim < max(count, 1) for dim in dims if dim != -1
    ):
        raise ValueError(
            f"dims must be different dims of the shape {tuple(shape())} of one sample, got {dims}"
        )
    if not found or not count:
        return "none", []
    if found[0] == count - len(found):
        return reductions.keeping(found[0]), []
    return "none", [dim - count for dim in found]


def reduced(elements: Tensor, reduction: Reduction) -> Tensor:
    """Values of each element, made by PyTorch's operators, reduced."""
    if isinstance(reduction, tuple):
        reduction, left = settled(reduction, elements.dim(), lambda: elements.shape)
        if left:
            return elements.sum(left)
    return reductions.reduced(elements, reduction)
