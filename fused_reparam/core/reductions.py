"""How a term of each element, such as a divergence, is reduced."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

# What a user may ask for. Ops also know "last", the sum over the last dim, and `keeping`.
REDUCTIONS = ("none", "sample", "sum", "mean", "batchmean")
OF_OPS = (*REDUCTIONS, "last")
_KEEP = "keep"


def keeping(count: int) -> str:
    """The sum over all dims but the leading ``count``, of which there are more."""
    return f"{_KEEP}{count}"


def is_of_op(reduction: str, dims: int) -> bool:
    """Whether an op knows a reduction of elements that have so many dims."""
    if reduction.startswith(_KEEP) and reduction[len(_KEEP) :].isdecimal():
        return (
            reduction == keeping(kept_dims(dims, reduction)) and kept_dims(dims, reduction) < dims
        )
    return reduction in OF_OPS


def kept_dims(dims: int, reduction: str) -> int:
    """How many leading dims of the elements' shape a reduced term keeps."""
    if reduction.startswith(_KEEP):
        return int(reduction[len(_KEEP) :])
    if reduction == "none":
        return dims
    if reduction == "last":
        return max(dims - 1, 0)
    return min(dims, 1) if reduction == "sample" else 0


def factor(shape: Sequence[int], reduction: str | None) -> float:
    """The factor of a sum of elements; nan for a mean over nothing, as torch.mean has it."""
    if reduction == "mean":
        count = math.prod(shape)  # Size.numel makes constants of a compiler's symbols
    elif reduction == "batchmean" and len(shape):
        count = shape[0]
    else:
        return 1.0
    return 1.0 / count if count else float("nan")


def reduced(term: Tensor, reduction: str, batch_dims: int = 0) -> Tensor:
    """Numbers of elements, reduced; behind batch dims, of each example."""
    shape = term.shape[batch_dims:]
    keep = batch_dims + kept_dims(len(shape), reduction)
    found = term.sum(list(range(keep, term.dim()))) if keep < term.dim() else term
    return scaled(found, factor(shape, reduction))


def scaled(term: Tensor, factor: float) -> Tensor:
    """A sum times its factor."""
    # A tracer's factor is no number: it is 1 for this batch, but not for others.
    return term if type(factor) is float and factor == 1.0 else term * factor
