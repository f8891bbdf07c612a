"""Who computes an op: PyTorch's ways of writing it, and each backend of ours."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch

from bench.ops import Compute, Op
from fused_reparam.backends import dispatch

REFERENCE = "reference"
BACKENDS = (REFERENCE, "native", "triton")
# The one of our backends that makes noise which stays in the caches: on a CPU.
CACHED_BY = "native"
EAGER, COMPILE = "eager", "torch.compile"
EAGER_KEPT = f"{EAGER}, memory kept"
REDUCE_OVERHEAD = f"{COMPILE} reduce-overhead"
DISTRIBUTIONS = "distributions"
UNCHECKED = f"{DISTRIBUTIONS} unchecked"
NAMES = (EAGER, COMPILE, REDUCE_OVERHEAD, DISTRIBUTIONS, UNCHECKED, *BACKENDS)
Wrap = Callable[[Compute], Compute]


@dataclass(frozen=True)
class Variant:
    """One way to compute an op. `context` is entered around calls, outside of what is timed."""

    name: str
    compute: Compute
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    ours: bool = False
    op: Compute | None = None
    """The op alone, where `compute` is more, such as a model's loss."""
    overwrites: bool = False
    """Its results live in a CUDA graph's memory, which the next call uses again."""
    keeps: bool = False
    """It is timed in a process whose C library keeps freed memory."""

    @property
    def backend(self) -> str:
        """Of one of ours: `native` of `native, compiled model`."""
        return self.name.split(",")[0]


Missing = dict[str, str]
"""The name of a variant that can't run here, and the reason."""


def unavailable_reason(name: str, device: torch.device) -> str | None:
    """Why one of our backends can't serve, in one sentence; None when it can."""
    if name == "triton" and device.type == "cpu":
        return "runs on the CPU only in Triton's interpreter, whose speed says nothing"
    return dispatch.unavailable_reason(name, device)


def variants(
    op: Op,
    device: torch.device,
    wrap: Wrap = lambda compute: compute,
    model: bool = False,
    large: bool = False,
) -> tuple[list[Variant], list[Missing]]:
    """Every variant of `op` that can run on `device`, eager first, and those that can't.

    Args:
        wrap: what each of them is computed in, such as a model's loss.
        model: `wrap` is one: ours is measured in a compiled model, too.
        large: its tensors are so large that it counts what becomes of freed memory.
    """
    eager = wrap(op.textbook)
    # Shapes are fixed here, so the compiled form gets the specialised code that is its best.
    found = [Variant(EAGER, eager), Variant(COMPILE, torch.compile(eager, dynamic=False))]
    if large and device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        found.insert(1, Variant(EAGER_KEPT, eager, keeps=True))
    if device.type == "cuda":
        found.append(Variant(REDUCE_OVERHEAD, reduce_overhead(eager), overwrites=True))
    if op.rival is not None:
        for name, validate in ((DISTRIBUTIONS, True), (UNCHECKED, False)):
            found.append(Variant(name, wrap(partial(op.rival, validate))))
    reasons = {name: unavailable_reason(name, device) for name in BACKENDS}
    for name in (name for name, reason in reasons.items() if reason is None):
        ours = Variant(name, wrap(op.ours), using(name), ours=True, op=op.ours)
        found.append(ours)
        if model:
            compiled = torch.compile(ours.compute, dynamic=False)
            found.append(replace(ours, name=f"{name}, compiled model", compute=compiled))
    return found, [{"name": name, "reason": why} for name, why in reasons.items() if why]


def reduce_overhead(compute: Compute) -> Compute:
    """`compute` compiled into CUDA graphs. Each call may use the memory of the last one again."""
    compiled = torch.compile(compute, dynamic=False, mode="reduce-overhead")

    def call(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*inputs)

    return call


def using(name: str) -> Callable[[], AbstractContextManager[object]]:
    """What makes the context in which one of our backends is asked for."""
    return partial(dispatch.backend, name)
