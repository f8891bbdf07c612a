"""Bounds of an action: two numbers, which the op takes, or tensors, which it does not.

Of tensors the op gets actions from -1 to 1, and a few of PyTorch's operators do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..core.modes import eager
from .arguments import check_tensor, check_together, interval, number
from .reduction import Reduction, reduced
from .tensor_numbers import check_broadcasts, listed, number_or_tensor, tensor_of

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
    return (-1.0, 1.0), (tensor_of(lowest, like), tensor_of(highest, like))


def spread(
    action: Tensor, log_prob: Tensor, between: Between, shape: torch.Size, over: Reduction
) -> tuple[Tensor, Tensor]:
    """An action from -1 to 1 as one between bounds, and its log-density.

    ``shape``: of one sample of actions; ``over``: what the log-density is summed over.
    """
    low, high = _checked(between, shape)
    half = 0.5 * (high - low)
    found = torch.addcmul(low + half, half, action.to(half.dtype))
    # The sum may round to beyond an end: in place, for the gradient is that of the sum.
    inside = torch.minimum(torch.maximum(found.detach(), low.detach()), high.detach())
    found.detach().copy_(inside)
    return found.to(action.dtype), log_prob - _summed(torch.log(half), shape, over)


def taken_back(action: Tensor, between: Between, eps: float) -> tuple[Tensor, Tensor]:
    """What tanh makes the given action of, and the logarithm of the density's other factor.

    Of the action's distances to both bounds, which are exact where it is near one. An action on a
    bound was rounded to it: it is held half the spacing ``eps`` of its dtype at the larger bound
    from the end, without a gradient there and beyond.
    """
    low, high = between
    for name, end in zip(("low", "high"), between, strict=True):
        check_together(name, end, "action", action)
    check_together("low", low, "high", high)
    action, width = action.to(low.dtype), high - low
    least = (0.5 * eps) * torch.maximum(low.abs(), high.abs())
    above, below = action - low, high - action
    if eager() and not (action.requires_grad or width.requires_grad):  # most often so
        log_above, log_below = (part.clamp(least, width).log() for part in (above, below))
        return 0.5 * (log_above - log_below), torch.log(0.5 * width) - log_above - log_below
    least, above, below = least / width, above / width, below / width
    held = (above < least) | (below < least)
    above, below = (
        torch.where(held, torch.maximum(share, least).clamp(max=1.0).detach(), share)
        for share in (above, below)
    )
    log_above, log_below = torch.log(above), torch.log(below)
    return 0.5 * (log_above - log_below), -(torch.log(2.0 * width) + log_above + log_below)


def with_factor(log_prob: Tensor, factor: Tensor, shape: torch.Size, over: Reduction) -> Tensor:
    """The summed log-density of actions, of that of x and of ``taken_back``'s other factor."""
    return log_prob + _summed(factor, shape, over)


def _checked(between: Between, shape: torch.Size) -> Between:
    for name, end in zip(("low", "high"), between, strict=True):
        check_broadcasts(name, end, "the actions", shape)
    return between


def _summed(log_half: Tensor, shape: torch.Size, over: Reduction) -> Tensor:
    """The sum of what broadcasts to the actions."""
    if over == "last" and log_half.dim() and log_half.shape[-1] == shape[-1]:
        return log_half.sum(-1)
    if over == "last":
        first = log_half[..., 0] if log_half.dim() else log_half
        return first * (shape[-1] if shape else 1)
    return reduced(log_half.expand(shape), over)
