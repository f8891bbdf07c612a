"""Which backend serves a device, and why."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch

# In order of preference. A backend's module is imported when it is first asked about.
BACKENDS = ("triton", "native", "reference")
ENVIRONMENT_VARIABLE = "FUSED_REPARAM_BACKEND"
# What is tried when nobody asked for a backend. Triton's interpreter serves CPU tensors too, but
# only as a proof, so it must be asked for.
_AUTOMATIC = {"cpu": ("native", "reference"), "cuda": ("triton", "reference")}
_AUTOMATIC["xpu"] = _AUTOMATIC["cuda"]


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
    return importlib.import_module(f"{__package__}.{name}")


def unavailable_reason(name: str, device: torch.device) -> str | None:
    """Why a backend can't serve tensors on a device, in one sentence; None when it can."""
    reason: str | None = load(name).unavailable_reason(device)
    return reason


def pick(device: torch.device) -> ModuleType:
    """The backend for tensors on a device: the one asked for, or the fastest one that can serve.

    Raises:
        RuntimeError: the backend asked for can't serve the device; the message says why.
    """
    question = (asked_for.get(), device.type)
    module = _picked.get(question)
    if module is None:
        module = _picked[question] = _find(question[0], device)
    return module


def _find(asked: str | None, device: torch.device) -> ModuleType:
    if asked is not None:
        reason = unavailable_reason(asked, device)
        if reason is not None:
            raise RuntimeError(
                f"backend {asked!r} was asked for and can't serve {device.type} tensors: {reason}"
            )
        return load(asked)
    for name in _AUTOMATIC.get(device.type, ()):
        if unavailable_reason(name, device) is None:
            return load(name)
    return load("reference")


def current(device: torch.device | str = "cpu") -> str:
    """Name of the backend that serves tensors on a device now.

    Example:
        >>> import fused_reparam
        >>> with fused_reparam.backend("reference"):
        ...     fused_reparam.current_backend("cpu")
        'reference'
    """
    return pick(torch.device(device)).__name__.rpartition(".")[2]


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
