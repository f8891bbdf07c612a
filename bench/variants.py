"""Who computes an op: PyTorch's ways of writing it, and each backend of ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from bench.ops import Compute, Op

REFERENCE = "reference"
BACKENDS = (REFERENCE, "native", "triton")
# The one of our backends that makes noise which stays in the caches: on a CPU.
CACHED_BY = "native"
EAGER, COMPILE = "eager", "torch.compile"
REDUCE_OVERHEAD = f"{COMPILE} reduce-overhead"
DISTRIBUTIONS = "distributions"
UNCHECKED = f"{DISTRIBUTIONS} unchecked"
FAMILIES = ("pytorch", "reference", "fused")


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
        """One of FAMILIES: those of one need about as much memory."""
        if not self.ours:
            return "pytorch"
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


def unavailable_reason(name: str, device: torch.device) -> str | None:
    """Why one of our backends can't serve, in one sentence; None when it can."""
    if name == "triton" and device.type == "cpu":
        return "runs on the CPU only in Triton's interpreter, whose speed says nothing"
    from fused_reparam.backends import dispatch

    try:
        return dispatch.unavailable_reason(name, device)
    except ImportError as error:
        return str(error)


def variants(op: Op, device: torch.device) -> tuple[list[Variant], list[Missing]]:
    """Every variant of `op` that can run on `device`, eager first, and those that can't."""
    found = of_pytorch(op.textbook, lambda validate: partial(op.rival, validate), device)
    names, missing = backends(device)
    return found + [Variant(name, op.ours, using(name), ours=True) for name in names], missing


def of_pytorch(
    textbook: Compute, rival: Callable[[bool], Compute], device: torch.device
) -> list[Variant]:
    """PyTorch's: eager, compiled, and torch.distributions with and without checks of arguments."""
    # Shapes are fixed here, so the compiled form gets the specialised code that is its best.
    found = [
        Variant(EAGER, textbook),
        Variant(COMPILE, torch.compile(textbook, dynamic=False)),
        Variant(DISTRIBUTIONS, rival(True)),
        Variant(UNCHECKED, rival(False)),
    ]
    if device.type == "cuda":
        found.insert(2, Variant(REDUCE_OVERHEAD, reduce_overhead(textbook), overwrites=True))
    return found


def reduce_overhead(compute: Compute) -> Compute:
    """`compute` compiled into CUDA graphs. Each call may use the memory of the last one again."""
    compiled = torch.compile(compute, dynamic=False, mode="reduce-overhead")

    def call(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*inputs)

    return call


def backends(device: torch.device) -> tuple[list[str], list[Missing]]:
    """The backends of ours that serve `device`, and those that don't."""
    reasons = {name: unavailable_reason(name, device) for name in BACKENDS}
    missing = [Missing(name, reason) for name, reason in reasons.items() if reason is not None]
    return [name for name, reason in reasons.items() if reason is None], missing


def using(name: str) -> Callable[[], AbstractContextManager[object]]:
    """What makes the context in which one of our backends is asked for."""
    from fused_reparam import backend

    return partial(backend, name)
