"""The library of the native backend: found or built once, loaded, and its C functions.

Importing this module loads and builds nothing; the first ``unavailable_reason`` does. The library
that the package was installed with is taken first, else one is built into a per-user cache.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from . import build, cache, extension
from .codes import Codes

ISA_NAMES = ("portable", "avx2", "avx512")

# key, base, number, dtype, n, out
_NOISE_ARGUMENTS = (
    ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int64, ctypes.c_int64,
    ctypes.c_void_p,
)  # fmt: skip


class Entry(Protocol):
    def __call__(self, packed: bytes, /) -> int: ...


class Library:
    """A loaded library: its C functions and its operators."""

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
        handle = ctypes.CDLL(str(path))
        self.path, self.handle = path, handle
        self.codes = Codes(handle)
        self.isa, self.set_isa = handle.fused_reparam_isa, handle.fused_reparam_set_isa
        self.elementwise_forward: Entry = handle.fused_reparam_elementwise_forward
        self.elementwise_backward: Entry = handle.fused_reparam_elementwise_backward
        self.softmax_forward: Entry = handle.fused_reparam_softmax_forward
        self.softmax_backward: Entry = handle.fused_reparam_softmax_backward
        self.base_noise = handle.fused_reparam_base_noise
        self.base_noise.argtypes = _NOISE_ARGUMENTS
        for entry in (
            self.elementwise_forward, self.elementwise_backward,
            self.softmax_forward, self.softmax_backward,
        ):  # fmt: skip
            entry.argtypes = (ctypes.c_char_p,)  # type: ignore[attr-defined]
        self.normal_op = torch.ops.fused_reparam_native.normal.default


_library: Library | None = None
_origin = ""
_reason: str | None = None
_lock = threading.Lock()


def _renew_lock() -> None:
    """In a forked child the thread that held the lock is gone, and the child loads by itself."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def unavailable_reason(device: torch.device) -> str | None:
    """None when this backend can serve ``device``, else what is missing and how to get it.

    The first call for a CPU may build the library; it never raises.
    """
    if device.type != "cpu":
        return f"the native backend serves CPU tensors, not {device.type}"
    if _library is None and _reason is None:
        _load()
    return _reason


def loaded() -> Library:
    """The library, loaded by now; RuntimeError where it can't be."""
    if _library is not None:
        return _library
    reason = unavailable_reason(torch.device("cpu"))
    if _library is None:
        raise RuntimeError(f"the native backend is not available: {reason}")
    return _library


def _load() -> None:
    global _library, _origin, _reason
    with _lock:
        if _library is not None or _reason is not None:
            return
        try:
            _check_environment()
            library, _origin = cache.load(build.LIBRARY, Library)
            _library = library
            extension.load(library)
        except Exception as error:  # whatever went wrong, the reference backend can serve
            _reason = str(error) or type(error).__name__


def _check_environment() -> None:
    asked = os.environ.get("FUSED_REPARAM_ISA", "")
    if asked and asked not in ISA_NAMES:
        raise ValueError(
            f"the environment variable FUSED_REPARAM_ISA must be one of {', '.join(ISA_NAMES)}, "
            f"got {asked!r}"
        )


def info() -> dict[str, str]:
    """The library's file, how it came to be, and the instruction set in use."""
    reason = unavailable_reason(torch.device("cpu"))
    if _library is None:
        return {"unavailable": reason or ""}
    return {
        "library": str(_library.path),
        "built": _origin,
        "instruction set": ISA_NAMES[_library.isa()],
        "extension": extension.origin if extension.module else f"Python: {extension.reason}",
    }


def row_strides(t: Tensor | None) -> tuple[int, ...]:
    # What is consecutive whatever the others are is no matrix, and its strides are not read.
    return t.stride() if t is not None and t.dim() == 2 else (0, 0)
