"""Numbers of a layer that may be tensors: a number is an attribute, a tensor a buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.mistakes import described
from ..core.modes import eager
from ..functional.arguments import check_tensor
from ..functional.tensor_numbers import operand

__all__ = ["hold", "number_of_prior", "own", "release"]


def hold(layer: nn.Module, name: str, value: Any, check: Callable[[str, Any], float]) -> None:
    """Keep a number, checked, or a tensor, which moves with the layer and is in its state."""
    if not isinstance(value, Tensor):
        setattr(layer, name, check(name, value))
    elif isinstance(value, nn.Parameter):
        setattr(layer, name, value)
    else:
        operand(name, value, value)
        layer.register_buffer(name, value)


def release(layer: nn.Module, *names: str) -> None:
    """Keep no longer what was held by these names, so that others may be."""
    for name in names:
        for held in (layer._buffers, layer._parameters, vars(layer)):
            held.pop(name, None)


def own(value: Any) -> Any:
    """What a layer keeps of a number of its prior: a copy of a tensor, unless it is learned.

    A buffer in the caller's memory would change with it, and loading a state would write there.
    """
    if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or value.requires_grad:
        return value
    return value.detach().clone()


def number_of_prior(name: str, value: Any, check: Callable[[str, Any], float]) -> Tensor | float:
    """What a layer can hold of a number of its prior: a tensor that it may copy and save.

    A distribution expands its tensors to one shape: of such a view it is what was expanded, so
    that a parameter stays one. A tensor without dims on the CPU that nobody learns is read, once.
    """
    if not isinstance(value, Tensor):
        return check(name, value)
    check_tensor(name, value)
    value = _before_expansion(value)
    if isinstance(value, nn.Parameter):
        return value
    if value.grad_fn is not None:
        raise ValueError(
            f"{name} must be a number, a torch.nn.Parameter or a tensor that was computed of none, "
            f"for a layer keeps it from call to call; got {described(value)} with a history"
        )
    fixed = not value.dim() and value.is_cpu and not value.requires_grad
    return check(name, value) if fixed and eager() else value


def _before_expansion(t: Tensor) -> Tensor:
    base = t._base
    if base is None or base.dtype != t.dtype or base.dim() > t.dim():
        return t
    ends = zip(base.shape, t.shape[t.dim() - base.dim() :], strict=True)
    if any(n not in (1, m) for n, m in ends):
        return t
    same = base.expand(t.shape)
    return base if (same.data_ptr(), same.stride()) == (t.data_ptr(), t.stride()) else t
