"""The native backend's short ways in C++ (``kernels/host.cpp``): an extension, optional.

``module.draw``, ``latent`` and ``rows`` do what ``draw_short.py``, ``gaussian_short.py`` and
``rows_short.py`` of ``ops`` do in Python, with the same results bit for bit and in half the time.
They decline with None. ``serve`` has the ops' own calls, a compiled model's, come that way too.
``FUSED_REPARAM_NO_HOST=1`` in the environment turns them off.
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

from ..storage import check_gradients, check_saved
from . import select

module: Any = None
_CPU = torch.device("cpu")
origin, reason = "", "the native library is not loaded"
_served: dict[str, tuple[Callable[..., Any], Callable[..., bytes | None] | None]] = {}
_FUNCTIONS = [
    f"{name}_{way}" for name in ("gaussian", "draw", "softmax") for way in ("forward", "backward")
]


def turned_off() -> bool:
    """Whether the environment turns the host path off."""
    return os.environ.get("FUSED_REPARAM_NO_HOST", "0") not in ("", "0")


def load(library: ctypes.CDLL) -> None:
    """Find or build the extension and start it, or say why there is none."""
    global module, origin, reason
    from . import _build, _cache

    try:
        if turned_off():
            raise _build.BuildError("FUSED_REPARAM_NO_HOST is set")
        found, built = _cache.load(_build.HOST, _imported)
        origin = f"C++, built {built}"
        entries = (getattr(library, f"fused_reparam_{name}") for name in _FUNCTIONS)
        addresses = [ctypes.cast(entry, ctypes.c_void_p).value for entry in entries]
        found.start(select.asked_for, _general_backward, _recorded_backward, *addresses)
        found.serve(_served)
        module = found
    except Exception as error:  # whatever went wrong, Python can do it
        reason = str(error) or type(error).__name__


def serve(
    name: str, kernel: Callable[..., Any], plan: Callable[..., bytes | None] | None = None
) -> None:
    """Say who computes the calls of an op that the host path declines, and who plans the others.

    ``kernel`` is the op's Autograd kernel; ``plan`` takes the forward op's arguments.
    """
    _served[name] = kernel, plan


def spent(result: Tensor) -> bool | None:
    """Whether a backward pass has freed what a result's node saved; None: not a node from here."""
    found: bool | None = None if module is None else module.spent(result)
    return found


def _imported(path: Path) -> Any:
    name = "fused_reparam_host"
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    return found


def _general_backward(
    spec: Any,
    needs: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
    saved: tuple[Tensor | None, ...],
    dtype: torch.dtype,
    shapes: tuple[tuple[int, ...], ...] | None,
) -> tuple[Tensor | None, ...]:
    """The backward pass of a call that is unusual: ``spec`` knows how.

    ``dtype`` and ``shapes`` are those that the saved tensors had, of which the first is the key;
    None says that all tensors have been checked.
    """
    key, *inputs = saved
    if shapes is not None:
        check_gradients(grads)
        dtypes = [torch.uint64, *[dtype] * len(inputs)]
        check_saved(saved, [(*kept, _CPU) for kept in zip(shapes, dtypes, strict=True)])
        inputs = [t if t is None else t.to(dtype) for t in inputs]
    found: tuple[Tensor | None, ...] = spec.general_backward(
        select.load("native"), needs, grads, key, inputs
    )
    return found


def _recorded_backward(
    spec: Any,
    needs: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
    saved: tuple[Tensor | None, ...],
    dtype: torch.dtype,
    shapes: tuple[tuple[int, ...], ...],
    compiler: Any,
) -> list[Tensor | None]:
    """A call of the above in the graph that compiled autograd is making.

    What is at hand now are stand-ins: the tensors themselves are checked when it runs.
    """

    @torch._dynamo.disable
    def fused_reparam_backward(grads: Any, saved: Any) -> tuple[Tensor | None, ...]:
        return _general_backward(spec, needs, grads, saved, dtype, shapes)

    found = compiler.proxy_call(fused_reparam_backward, (grads, saved), [None] * len(needs))
    return [t if needed else None for t, needed in zip(found, needs, strict=True)]
