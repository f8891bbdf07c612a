"""How the reference backend reads and writes operands that the op layer has arranged."""

from __future__ import annotations

from torch import Tensor


def flat(t: Tensor) -> Tensor:
    """The n consecutive elements of a dense tensor, whatever its shape."""
    return t.as_strided((t.numel(),), (1,))


def elements(t: Tensor, dense: bool) -> Tensor:
    """The operand's elements in index order, 1-D, in the dtype of the arithmetic."""
    values = flat(t) if dense else t.reshape(-1)
    return values if t.dtype.itemsize == 8 else values.float()


def store(out: Tensor, value: Tensor, dense: bool) -> None:
    """Write values in index order, rounded once."""
    if dense:
        flat(out).copy_(value)
    else:
        out.copy_(value.view(out.shape))
