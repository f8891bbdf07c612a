"""Numbers of a layer that may be tensors: a number is an attribute, a tensor a buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..functional.tensor_numbers import operand


def hold(layer: nn.Module, name: str, value: Any, check: Callable[[str, Any], float]) -> None:
    """Keep a number, checked, or a tensor, which moves with the layer and is in its state."""
    if not isinstance(value, Tensor):
        setattr(layer, name, check(name, value))
    elif isinstance(value, nn.Parameter):
        setattr(layer, name, value)
    else:
        operand(name, value, value)
        layer.register_buffer(name, value)
