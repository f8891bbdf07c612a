"""Who looks on while an op runs."""

from __future__ import annotations

import torch
from torch._C import _are_functorch_transforms_active as _transforms_active
from torch._C import _get_tracing_state as _tracing_state
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch.compiler import is_compiling


def eager() -> bool:
    """Whether no compiler, transform, dispatch mode or tracer looks on."""
    return not (
        is_compiling()
        or _dispatch_modes() > 0
        or _transforms_active()
        or _tracing_state() is not None
    )


def recorded() -> bool:
    """Whether a compiler, dispatch mode or tracer looks on: it may make a graph of what it sees."""
    return is_compiling() or _dispatch_modes() > 0 or _tracing_state() is not None


def exporting() -> bool:
    """Whether the graph that is recorded may have to run where this package is not installed."""
    return torch.compiler.is_exporting() or (
        not torch.compiler.is_compiling() and torch._C._is_tracing()
    )
