"""Who computes an op: PyTorch's ways of writing it, and each backend of ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from bench.ops.base import Compute, Op

REFERENCE = "reference"
BACKENDS = (REFERENCE, "native", "triton")
EAGER, COMPILE = "eager", "torch.compile"
REDUCE_OVERHEAD = f"{COMPILE} reduce-overhead"
DISTRIBUTIONS = "distributions"
UNCHECKED = f"{DISTRIBUTIONS} unchecked"


@dataclass(frozen=True)
class Variant:
    """One way to compute an op. `context` is entered around calls, outside of what is timed."""

    name: str
    compute: Compute
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    ours: bool = False
    overwrites: bool = False
    """Its results live in a CUDA graph's memory, which the next call uses again."""

    @property
    def warm_ups(self) -> int:
        """Calls before it does what it will do from then on: a graph is recorded in the second."""
        return 2 if self.overwrites else 0

    @property
    def family(self) -> str:
        """Those of one family need about as much memory: "pytorch", "distributions", "reference"
        or "fused"."""
        if not self.ours:
            return "distributions" if self.name.startswith(DISTRIBUTIONS) else "pytorch"
        return "reference" if self.name.startswith(REFERENCE) else "fused"


@dataclass(frozen=True)
class Missing:
    """A variant that can't run here, and why."""

    name: str
    reason: str


def names(device: torch.device) -> tuple[str, ...]:
    """Those that can be asked for on a device; a backend may turn out to be missing."""
    graphs = (REDUCE_OVERHEAD,) if device.type == "cuda" else ()
    return (EAGER, COMPILE, *graphs, DISTRIBUTIONS, UNCHECKED, *BACKENDS)


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
        found.append(Variant(REDUCE_OVERHEAD, reduce_overhead(op.textbook), overwrites=True))
    found.append(Variant(DISTRIBUTIONS, op.distributions(True)))
    found.append(Variant(UNCHECKED, op.distributions(False)))
    backends, missing = ours(op, device)
    return found + backends, missing


def reduce_overhead(compute: Compute) -> Compute:
    """`compute` compiled into CUDA graphs. Each call may use the memory of the last one again."""
    compiled = torch.compile(compute, dynamic=False, mode="reduce-overhead")

    def call(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*inputs)

    return call


def ours(op: Op, device: torch.device) -> tuple[list[Variant], list[Missing]]:
    """The op through each backend of ours that serves `device`, and the backends that don't."""
    names, missing = backends(device)
    return [Variant(name, op.ours, using(name), ours=True) for name in names], missing


def backends(device: torch.device) -> tuple[list[str], list[Missing]]:
    """The backends of ours that serve `device`, and those that don't."""
    found, missing = [], []
    for name in BACKENDS:
        module, reason = backend_module(name, device)
        if module is None:
            missing.append(Missing(name, reason or "unknown"))
        else:
            found.append(name)
    return found, missing


def using(name: str) -> Callable[[], AbstractContextManager[object]]:
    """What makes the context in which one of our backends is asked for."""

    def context() -> AbstractContextManager[object]:
        from fused_reparam import backend

        return backend(name)

    return context
