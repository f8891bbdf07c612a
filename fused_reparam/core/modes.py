"""Who looks on while an op runs."""

from __future__ import annotations

import torch


def eager() -> bool:
    """Whether no compiler, transform, dispatch mode or tracer looks on."""
    return not recorded() and not torch._C._are_functorch_transforms_active()


def recorded() -> bool:
    """Whether a compiler, dispatch mode or tracer looks on: it may make a graph of what it sees."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def exporting() -> bool:
    """Whether the graph that is recorded may have to run where this package is not installed."""
    return torch.compiler.is_exporting() or (
        not torch.compiler.is_compiling() and torch._C._is_tracing()
    )
