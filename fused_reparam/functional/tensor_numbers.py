"""Numbers that may be tensors: temperatures, shares, bounds, degrees of freedom, those of a prior.

A Python number is checked and goes to the op as a number, which is the quickest way. A tensor is
an operand: nobody reads it, so nothing waits for its device, it may be another in each replay of a
CUDA graph, and it has a gradient. What it holds can't be checked.

A number in compiled code that a compiler has found to change from call to call (the symbol that it
traces in its place says so) becomes a tensor too: as a number each of its values would be a graph
of its own. Of such a symbol nothing may be asked, comparisons included, or the compiler takes it
for a constant again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from ..core.dtypes import compute_dtype
from ..core.mistakes import described
from ..core.modes import eager
from ..core.scalars import is_number
from ..core.storage import check_given

Number = float | Tensor
_SYMBOLS = (torch.SymFloat, torch.SymInt)


def number_or_tensor(
    name: str, value: Any, like: Tensor, check: Callable[[str, Any], float]
) -> Number:
    """A Python number, checked, or a tensor of the dtype of the arithmetic, on like's device."""
    if type(value) is float and not is_compiling():  # most often so
        return check(name, value)
    if isinstance(value, Tensor):
        return operand(name, value, like)
    if changing(value):
        return in_graph(name, value, like, compute_dtype(like.dtype))
    return check(name, value)


def operand(name: str, t: Tensor, like: Tensor) -> Tensor:
    """A tensor that a user gave for a number."""
    dtype, wanted = t.dtype, compute_dtype(like.dtype)
    strided = not t.is_nested and t.layout is torch.strided
    if not strided or (
        dtype is not wanted and (dtype == torch.bool or dtype.is_complex or t.is_quantized)
    ):
        raise TypeError(f"{name} must be a number or a dense tensor of numbers, got {described(t)}")
    check_given(name, t)
    if t.device != like.device:
        t = beside(name, t, like, wanted)
    return t if t.dtype == wanted else t.to(wanted)


def beside(name: str, t: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor without dims on the CPU, on like's device: PyTorch takes it there by value, and
    waits for nothing.
    """
    if t.dim() or not t.is_cpu:
        raise ValueError(
            f"{name} must be on {like.device}, or a tensor without dims on the CPU, got "
            f"{described(t)} on {t.device}"
        )
    return torch.ones((), dtype=dtype, device=like.device) * t


def fixed(t: Tensor) -> bool:
    """Whether a tensor may be read as a number, which goes the quickest way: it is one, on the
    CPU, so that nothing waits for it, and nobody asks for a derivative by it or looks on.
    """
    one = not (t.dim() or t.requires_grad) and t.is_cpu
    return one and forward_ad._current_level < 0 and eager()


def changing(value: Any) -> bool:
    """Whether a value that is no tensor is no constant of the graph that is recorded either."""
    if not is_compiling():
        return isinstance(value, _SYMBOLS)
    if isinstance(value, (int, float, *_SYMBOLS)):
        return not torch.fx.experimental.symbolic_shapes.has_static_value(value)
    return not isinstance(value, (str, bytes)) and hasattr(value, "dtype")


def in_graph(name: str, value: Any, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Such a value as a tensor: its product with 1, which compilers know as that of tensors."""
    if not isinstance(value, (int, float, *_SYMBOLS)):
        value = operand(name, torch.as_tensor(value), like)  # of NumPy; to a compiler an array
    return torch.ones((), dtype=dtype, device=like.device) * value


def tensor_of(value: Number, like: Tensor) -> Tensor:
    """What ``number_or_tensor`` has given, as a tensor."""
    if isinstance(value, Tensor):
        return value
    return torch.ones((), dtype=compute_dtype(like.dtype), device=like.device) * value


def listed(name: str, value: Any, like: Tensor, check: Callable[[str, Any], float]) -> Any:
    """The same value, or a tensor of a list, a tuple or an array of numbers."""
    if isinstance(value, Tensor) or is_number(value) or not _is_list(value):
        return value
    if isinstance(value, (list, tuple)):
        each = [number_or_tensor(name, one, like, check) for one in value]
        if any(isinstance(one, Tensor) for one in each):
            return torch.stack([tensor_of(one, like) for one in each])
        return torch.tensor(each, dtype=compute_dtype(like.dtype), device=like.device)
    found = torch.as_tensor(value, dtype=compute_dtype(like.dtype))
    if eager() and not found.isfinite().all():
        raise ValueError(f"{name} must be finite, got {value}")
    return found.to(like.device)


def _is_list(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(map(is_number, value))  # bool: not for PyTorch 2.11
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return kind in ("f", "i", "u") and len(value.shape) > 0


def check_broadcasts(name: str, t: Tensor, to: str, shape: Sequence[int]) -> None:
    """Raise ValueError unless t broadcasts to a shape and leaves it as it is."""
    behind = shape[len(shape) - t.dim() :]
    if t.dim() > len(shape) or any(n not in (1, m) for n, m in zip(t.shape, behind, strict=True)):
        raise ValueError(
            f"{name} must broadcast to {to} {tuple(shape)}, got shape {tuple(t.shape)}"
        )


def of_variables(name: str, t: Tensor, to: str, shape: Sequence[int], dim: int) -> Tensor:
    """One number for each variable, whose classes are a dim of a shape, with all dims it has."""
    if not t.dim():
        return t
    check_broadcasts(name, t, to, shape)
    t = t[(None,) * (len(shape) - t.dim())]
    if t.shape[dim] > 1:
        raise ValueError(
            f"{name} must be one number for each variable: of size 1 along dim {dim} of {to} "
            f"{tuple(shape)}, got shape {tuple(t.shape)}"
        )
    return t
