"""Which backend serves a device, and why."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType, ModuleType

import torch

from ..core.modes import recorded

# In order of preference. A backend's module is imported when it is first asked about.
BACKENDS = ("triton", "native", "reference")
_FOLDERS = {"triton": "triton", "native": "cpu", "reference": "reference"}
ENVIRONMENT_VARIABLE = "FUSED_REPARAM_BACKEND"
# What is tried when nobody asked for a backend. Triton's interpreter serves CPU tensors too, but
# only as a proof, so it must be asked for.
_AUTOMATIC = {"cpu": ("native", "reference"), "cuda": ("triton", "reference")}
_AUTOMATIC["xpu"] = _AUTOMATIC["cuda"]
# What a warning says of the reference in place of them. Measured on the CPU, on one thread, forward
# and backward of a latent and its KL: 9.5 times for 128x20 elements, 20.6 times for 1024x1024.
_SLOWER = {"cpu": "ten to twenty times slower than the native library"}
_SLOWER["cuda"] = _SLOWER["xpu"] = "which is slower than Triton's kernels"


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: unknown backend {name!r}; the backends are {sorted(BACKENDS)}")
    return name


def _from_environment() -> str | None:
    name = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    return _checked(name, f"environment variable {ENVIRONMENT_VARIABLE}") if name else None


_default = _from_environment()
asked_for: ContextVar[str | None] = ContextVar("fused_reparam_backend", default=_default)
_picked: dict[tuple[str | None, str], ModuleType] = {}


def load(name: str) -> ModuleType:
    """The backend's module. Importing one needs neither triton, a compiler nor a GPU."""
    return importlib.import_module(f"{__package__}.{_FOLDERS[name]}")


def unavailable_reason(name: str, device: torch.device) -> str | None:
    """Why a backend can't serve tensors on a device, in one sentence; None when it can."""
    reason: str | None = load(name).unavailable_reason(device)
    return reason


def pick(device: torch.device) -> ModuleType:
    """The backend for tensors on a device: the one asked for, or the fastest one that can serve.

    It warns once for each kind of device on which nothing but the reference can serve.

    Raises:
        RuntimeError: the backend asked for can't serve the device; the message says why.
    """
    question = (asked_for.get(), device.type)
    module = _picked.get(question)
    if module is None:
        module, missing = _find(question[0], device)
        if missing is not None:
            if recorded():  # a warning would break the graph: the next call says it
                return module
            _warn(device, missing)
        _picked[question] = module
    return module


def _find(asked: str | None, device: torch.device) -> tuple[ModuleType, str | None]:
    """The backend, and why it is the reference where nobody asked for that."""
    if asked is not None:
        reason = unavailable_reason(asked, device)
        if reason is not None:
            raise RuntimeError(
                f"backend {asked!r} was asked for and can't serve {device.type} tensors: {reason}"
            )
        return load(asked), None
    if device.type == "meta":  # nothing is computed
        return load("reference"), None
    names = _AUTOMATIC.get(device.type, ("reference",))
    missing = "there are kernels for CPU, CUDA, ROCm and XPU tensors only"
    for name in names:
        reason = unavailable_reason(name, device)
        if reason is None:
            return load(name), (missing if name == "reference" else None)
        missing = reason
    raise AssertionError("the reference serves every device")


def _warn(device: torch.device, missing: str) -> None:
    where = "the CPU" if device.type == "cpu" else f"{device.type} tensors"
    slower = _SLOWER.get(device.type, "which is slower than kernels of its own")
    frame = _users_frame()
    # Not warnings.warn: how many frames PyTorch puts between the user's line and this one varies.
    warnings.warn_explicit(
        f"fused_reparam runs on plain PyTorch on {where}, {slower}: {missing} "
        f"({ENVIRONMENT_VARIABLE}=reference asks for it and silences this)",
        RuntimeWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _users_frame() -> FrameType:
    """The innermost frame that is neither this package's nor PyTorch's; else the outermost one.

    Modules are told by their names, for code that PyTorch generates lies in no folder of its own;
    some of it has no name.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__")
        if module and module.partition(".")[0] not in (__name__.partition(".")[0], "torch"):
            break
        frame = frame.f_back
    return frame


def current(device: torch.device | str = "cpu") -> str:
    """Name of the backend that serves tensors on a device now.

    Example:
        >>> import fused_reparam
        >>> with fused_reparam.backend("reference"):
        ...     fused_reparam.current_backend("cpu")
        'reference'
    """
    module, _ = _find(asked_for.get(), torch.device(device))
    folder = module.__name__.rpartition(".")[2]
    return next(name for name, found in _FOLDERS.items() if found == folder)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Ask for one backend inside a ``with`` block: "reference", "native" or "triton".

    It overrides the environment variable ``FUSED_REPARAM_BACKEND`` and holds for the current
    thread (or async task). In eager mode a gradient is computed by the backend that computed its
    forward pass; compiled graphs and functorch transforms choose when each op runs.

    Args:
        name: "reference" (plain PyTorch), "native" (C++, CPU tensors) or "triton" (GPU tensors; CPU
            tensors where ``TRITON_INTERPRET=1`` is set).

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: on the first call inside the block, when the backend can't serve the tensor's
            device; the message says what is missing.

    Example:
        >>> import torch, fused_reparam
        >>> mu, logvar = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> with fused_reparam.backend("reference"):
        ...     z, kl = fused_reparam.gaussian_latent(mu, logvar)
        >>> kl.item()
        0.0
    """
    token = asked_for.set(_checked(name, "backend()"))
    try:
        yield
    finally:
        asked_for.reset(token)
