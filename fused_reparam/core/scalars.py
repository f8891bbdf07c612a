"""Numbers that a user gives: whatever Python can take as an integer or a float without loss."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .mistakes import described

_EXACT = 1 << 53  # no integer up to it is rounded


def integer(name: str, value: Any) -> int:
    """A Python integer of what ``operator.index`` takes, except a boolean."""
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value  # type: ignore[return-value]  # a symbolic one stays symbolic
    return _taken(name, "an integer", operator.index, value)  # type: ignore[no-any-return]


def real(name: str, value: Any) -> float:
    """A Python float, finite or not, of what ``float`` takes, except booleans and text."""
    if isinstance(value, float):
        return float(value)  # a numpy.float64 is one
    if isinstance(value, (torch.SymFloat, torch.SymInt)):
        return value  # type: ignore[return-value]
    if type(value) is int and -_EXACT <= value <= _EXACT:
        return float(value)
    return _taken(name, "a number", float, value)  # type: ignore[no-any-return]


def is_number(value: Any) -> bool:
    """Whether ``real`` may take it, where a tensor is to stay a tensor."""
    if isinstance(value, (int, float, torch.SymFloat, torch.SymInt)):
        return not isinstance(value, bool)
    one = not getattr(value, "shape", ())  # an array of several is none
    return one and hasattr(value, "__float__") and not _boolean_or_complex(value)


def flag(name: str, value: Any) -> bool:
    """True or False, also as a numpy boolean or as 0 or 1: anything else was meant otherwise."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) or type(value).__module__ == "numpy":
        with contextlib.suppress(TypeError, ValueError):
            if value in (0, 1):
                return bool(value)
    raise TypeError(f"{name} must be True or False, got {described(value)}")


def _taken(name: str, what: str, convert: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.requires_grad or forward_ad.unpack_dual(value).tangent is not None:
            raise TypeError(f"{_refused(name, what, value)}: its gradient would be lost")
        if not value.is_cpu or torch.compiler.is_compiling():
            raise TypeError(
                f"{_refused(name, what, value)}: to read it would wait for {value.device}, or stop "
                "a compiler"
            )
    # A compiler's symbol for an integer has no attributes to look at.
    integral = isinstance(value, int) and not isinstance(value, bool)
    if not integral and (_boolean_or_complex(value) or isinstance(value, (str, bytes, bytearray))):
        raise TypeError(_refused(name, what, value))
    try:
        return convert(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got {described(value)}") from None
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(_refused(name, what, value)) from None


def _refused(name: str, what: str, value: Any) -> str:
    return f"{name} must be {what}, got {described(value)}"


def _boolean_or_complex(value: Any) -> bool:
    if isinstance(value, (bool, complex)):
        return True
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, torch.dtype):
        return dtype == torch.bool or dtype.is_complex
    return getattr(dtype, "kind", "") in tuple("bcSU")
