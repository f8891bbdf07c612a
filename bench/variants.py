"""Who computes an op: PyTorch's ways of writing it, and each backend of ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from bench.ops.base import Compute, Op

BACKENDS = ("reference", "native", "triton")
EAGER, COMPILE = "eager", "torch.compile"


@dataclass(frozen=True)
class Variant:
    """One way to compute an op. `context` is entered around calls, outside of what is timed."""

    name: str
    compute: Compute
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    ours: bool = False


@dataclass(frozen=True)
class Missing:
    """A variant that can't run here, and why."""

    name: str
    reason: str


def backend_module(name: str, device: torch.device) -> tuple[object | None, str | None]:
    """The module of one of our backends and None, or None and the reason that it can't serve."""
    if name == "triton" and device.type == "cpu":
        return None, "runs on the CPU only in Triton's interpreter, whose speed says nothing"
    try:
        module = importlib.import_module(f"fused_reparam.backends.{name}")
    except ImportError as error:
        return None, str(error)
    reason = module.unavailable_reason(device)
    return (None, reason) if reason else (module, None)


def variants(op: Op, device: torch.device) -> tuple[list[Variant], list[Missing]]:
    """Every variant of `op` that can run on `device`, eager first, and those that can't."""
    found = [Variant(EAGER, op.textbook)]
    # Shapes are fixed here, so the compiled form gets the specialised code that is its best.
    found.append(Variant(COMPILE, torch.compile(op.textbook, dynamic=False)))
    if device.type == "cuda":
        graphs = torch.compile(op.textbook, dynamic=False, mode="reduce-overhead")
        found.append(Variant(f"{COMPILE} reduce-overhead", graphs))
    found.append(Variant("distributions", op.distributions(True)))
    found.append(Variant("distributions unchecked", op.distributions(False)))
    backends, missing = ours(op, device)
    return found + backends, missing


def ours(op: Op, device: torch.device) -> tuple[list[Variant], list[Missing]]:
    """The op through each backend of ours that serves `device`, and the backends that don't."""
    found, missing = [], []
    for name in BACKENDS:
        module, reason = backend_module(name, device)
        if module is None:
            missing.append(Missing(name, reason or "unknown"))
        else:
            found.append(Variant(name, op.ours, _using(name), ours=True))
    return found, missing


def _using(name: str) -> Callable[[], AbstractContextManager[object]]:
    def context() -> AbstractContextManager[object]:
        from fused_reparam import backend

        return backend(name)

    return context
