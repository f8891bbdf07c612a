"""``torch.fx``, which calls Python functions with symbolic values in place of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import Proxy
from torch.fx import _symbolic_trace as fx
from torch.fx.node import map_aggregate
from torch.nn import Parameter

from .mistakes import unknown
from .noise_options import DEFAULTS

__all__ = ["fx", "node_of", "special"]

# Private names of PyTorch, but no public one tells in a few nanoseconds that torch.fx traces.
if not hasattr(fx, "_is_fx_tracing_flag"):

    class _OfThread:
        """PyTorch from 2.14 on keeps the flag for each thread, in an object of its own."""

        def __init__(self, flags: Any) -> None:
            self.flags = flags

        @property
        def _is_fx_tracing_flag(self) -> bool:
            return getattr(self.flags, "flag", False)

    fx = _OfThread(getattr(fx, "_is_fx_tracing_tls", None))  # type: ignore[assignment]


_NOT_SYMBOLIC = {type(None), bool, int, float, str, Tensor, Parameter}


def special(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """What a public function does before all else where its arguments may not be the usual ones.

    It is called with ``locals()`` where the first argument is no tensor, ``torch.fx`` traces, or
    there are unknown keywords. Returns the node that stands for the call if an argument is a
    symbolic value of ``torch.fx``, and otherwise None: the function then goes on. The condition
    is in each function, where it takes some nanoseconds: a decorator would take a hundred.
    """
    noise = given.pop("noise", {})
    if isinstance(noise, Proxy):  # a public function is the root of what is traced
        noise = {}
    mistaken = given.pop("mistaken", None) or [name for name in noise if name not in DEFAULTS]
    given |= noise
    if not isinstance(mistaken, Proxy) and mistaken:
        raise unknown(function, mistaken)
    return node_of(function, given)


def node_of(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """The node that stands for ``function(**given)``, or None where nothing in it is symbolic."""
    if _NOT_SYMBOLIC.issuperset(map(type, given.values())):  # a location is a number
        return None
    found: list[Proxy] = []
    map_aggregate(given, lambda value: found.append(value) if isinstance(value, Proxy) else None)  # type: ignore[func-returns-value]
    if not found:
        return None
    code, defaults = function.__code__, function.__defaults__ or ()  # type: ignore[attr-defined]
    names = code.co_varnames[: code.co_argcount]
    usual = dict(zip(reversed(names), reversed(defaults), strict=False))
    usual |= function.__kwdefaults__ or {}  # type: ignore[attr-defined]
    said = {name: value for name, value in given.items() if value is not usual.get(name, usual)}
    return found[0].tracer.create_proxy("call_function", function, (), said)
