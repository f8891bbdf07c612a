"""Bounds of an action: two numbers, constants of the op, or tensors, which are its parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..core.modes import eager
from ..core.storage import check_given
from .arguments import check_tensor, check_together, interval, number
from .tensor_numbers import listed, number_or_tensor, tensor_of

Bound = float | Tensor | Sequence[float]
Ends = tuple[float, float]
Between = tuple[Tensor, Tensor]
"""The lowest and the highest actions, tensors."""


def bounds_between(low: Bound, high: Bound, name: str, like: Tensor) -> tuple[Ends, Between | None]:
    """The ends that the op takes; and the bounds themselves where they are tensors."""
    if type(low) is type(high) is float and not is_compiling():
        return interval(low, high), None
    check_tensor(name, like)
    lowest = number_or_tensor("low", listed("low", low, like, number), like, number)
    highest = number_or_tensor("high", listed("high", high, like, number), like, number)
    if not isinstance(lowest, Tensor) and not isinstance(highest, Tensor):
        return interval(lowest, highest), None
    if eager() and not any(map(_holds_tensors, (low, high))):
        _check_order(low, high)
    return (-1.0, 1.0), (tensor_of(lowest, like), tensor_of(highest, like))


def _holds_tensors(bound: Bound) -> bool:
    """Which nobody reads: they may be on a device."""
    each = bound if isinstance(bound, (list, tuple)) else (bound,)
    return any(isinstance(one, Tensor) for one in each)


def _check_order(low: Bound, high: Bound) -> None:
    """Raise ValueError unless each of some numbers is below its counterpart."""
    lowest, highest = (torch.as_tensor(bound, dtype=torch.float64) for bound in (low, high))
    check_together("low", lowest, "high", highest)
    if not (lowest < highest).all():
        raise ValueError(f"low must be below high, got low {low} and high {high}")


def distances(action: Tensor, between: Between, eps: float) -> tuple[Tensor, Tensor]:
    """An action's distances to the lower and to the higher bound, exact where it is near one.

    An action on a bound was rounded to it: no distance counts as less than half the spacing ``eps``
    of its dtype at the larger bound, and none as more than that of the bounds. The sign of such a
    least distance is turned: the action is held, and gives no gradient there and beyond.
    """
    low, high = between
    for name, end in zip(("low", "high"), between, strict=True):
        check_together(name, end, "action", action)
        check_given(name, end)  # PyTorch's operators would read memory that a tensor has no longer
    check_together("low", low, "high", high)
    check_given("action", action)
    lowest, highest, action = low.detach(), high.detach(), action.to(low.dtype)
    least, width = torch.maximum(lowest.abs(), highest.abs()) * (0.5 * eps), highest - lowest
    above, below = action - low, high - action
    # A third quicker than torch.where.
    return (
        torch.copysign(above.clamp(least, width), above.detach() - least),
        torch.copysign(below.clamp(least, width), below.detach() - least),
    )


def apart(above: Tensor, below: Tensor, between: Between) -> Tensor:
    """What the log-density of a held action lacks.

    The op takes the larger distance for the bounds'. That is right of an action on a bound; one
    beside it is held too, by half its dtype's spacing at most.
    """
    low, high = (end.detach() for end in between)
    above, below = above.detach(), below.detach()
    lacking = torch.log((high - low) / torch.maximum(above.abs(), below.abs()))
    return torch.where((above < 0.0) | (below < 0.0), lacking, 0.0)
