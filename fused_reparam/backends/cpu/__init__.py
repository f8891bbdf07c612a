"""The native CPU backend: the library compiled from ``kernels/``, and the calls into it.

What the functions take and compute is stated in ``reference/``. They go straight to the library's
C functions with all arguments packed in one struct.
"""

from __future__ import annotations

from torch import Tensor

from ..reference.memory import flat
from .elementwise import base_noise, elementwise_backward, elementwise_forward
from .library import ISA_NAMES, info, loaded, unavailable_reason
from .softmax import softmax_backward, softmax_forward

# Keys come as tensors; see `reference/elementwise.py`.
DERIVES_KEYS = False

__all__ = [
    "DERIVES_KEYS",
    "ISA_NAMES",
    "base_noise",
    "elementwise_backward",
    "elementwise_forward",
    "info",
    "isa",
    "normal",
    "set_isa",
    "softmax_backward",
    "softmax_forward",
    "unavailable_reason",
]


def isa() -> str:
    """The instruction set in use: ``portable``, ``avx2`` or ``avx512``."""
    return ISA_NAMES[loaded().isa()]


def set_isa(name: str) -> str:
    """Use another instruction set, or the best below it that the machine has; returns which.

    ``FUSED_REPARAM_ISA`` in the environment does the same from the start.
    """
    return ISA_NAMES[loaded().set_isa(ISA_NAMES.index(name))]


def normal(key: Tensor, out: Tensor) -> None:
    """Fill ``out`` with the noise stream of ``key``, in memory order."""
    loaded().normal_op(key, out if out.is_contiguous() else flat(out))
