"""The ops' CPU kernels and autograd nodes in C++, an optional extension.

Once the extension (``kernels/torch/extension.cpp``) is loaded, PyTorch's dispatcher calls its
kernels where it called those in Python before. Results are the same bit for bit; what a small call
saves, ``python -m bench --op calls`` measures. ``FUSED_REPARAM_NO_EXTENSION=1`` in the environment
keeps the kernels in Python.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from . import memory

module: Any = None
parameters: Callable[[tuple[Any, ...]], list[Tensor] | None] | None = None
"""What ``functional.arguments.parameters`` sees at a glance, once there is the extension."""
origin, reason = "", "the native library is not loaded"
_served: dict[str, Any] = {}
_bound: list[Bound] = []
_FUNCTIONS = (
    "elementwise_forward",
    "elementwise_backward",
    "softmax_forward",
    "softmax_backward",
    "base_noise",
)


class Bound:
    """An op that eager code calls by ``call``: the extension's function for it, once there is one.

    That function reads the arguments and calls the same op by the dispatcher: to match them to the
    schema, as ``torch.ops`` does, takes a quarter of a small forward pass. What may be more than a
    value (subclasses), and calls that somebody looks on at (modes, transforms, tracers), it leaves
    to ``otherwise``. No compiler sees through it: compiled code calls the op.
    """

    __slots__ = ("call", "name", "otherwise")

    def __init__(self, name: str, otherwise: Callable[..., Any]) -> None:
        self.name = name
        self.call = self.otherwise = otherwise
        _bound.append(self)


def turned_off() -> bool:
    """Whether the environment turns the extension off."""
    return os.environ.get("FUSED_REPARAM_NO_EXTENSION", "0") not in ("", "0")


def load(library: Any) -> None:
    """Find or build the extension and start it, or say why there is none."""
    global module, origin, parameters, reason
    from . import build, cache

    try:
        if turned_off():
            raise build.BuildError("FUSED_REPARAM_NO_EXTENSION is set")
        found, built = cache.load(build.EXTENSION, _imported)
        origin = f"C++, built {built}"
        entries = (getattr(library.handle, f"fused_reparam_{name}") for name in _FUNCTIONS)
        addresses = [ctypes.cast(entry, ctypes.c_void_p).value for entry in entries]
        codes = library.codes
        calls = [found.bound(one.name, one.otherwise) for one in _bound]
        found.start(
            dispatch.asked_for, _recorded_backward, codes.families, codes.bases, _served, *addresses
        )
        memory.start(found)
        module, parameters = found, found.parameters
        for one, call in zip(_bound, calls, strict=True):
            one.call = call
    except Exception as error:  # whatever went wrong, Python can do it
        reason = str(error) or type(error).__name__


def serve(name: str, op: Any) -> None:
    """Have the extension compute an op's calls on the CPU, once it is loaded.

    ``op`` is what computes those that it hands back: a ``DifferentiableOp``, or a function.
    """
    _served[name] = op


def spent(result: Tensor) -> bool | None:
    """Whether a backward pass has freed what a result's node saved; None: not a node from here."""
    found: bool | None = None if module is None else module.spent(result)
    return found


def _imported(path: Path) -> Any:
    name = "fused_reparam_torch"
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    return found


def _recorded_backward(
    backend: str,
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
    saved: tuple[Tensor | None, ...],
    kept: tuple[tuple[tuple[int, ...], torch.dtype], ...],
    gradients: Callable[..., Any],
    compiler: Any,
) -> list[Tensor | None]:
    """A call of the op's ``gradients_by`` in the graph that compiled autograd is making.

    What is at hand now are stand-ins: the tensors themselves are checked when it runs.
    """

    @torch._dynamo.disable
    def fused_reparam_backward(grads: Any, saved: Any) -> tuple[Tensor | None, ...]:
        return gradients(backend, options, needs, tuple(grads), tuple(saved), kept)  # type: ignore[no-any-return]

    found = compiler.proxy_call(fused_reparam_backward, (grads, saved), [None] * len(needs))
    return [t if needed else None for t, needed in zip(found, needs, strict=True)]
