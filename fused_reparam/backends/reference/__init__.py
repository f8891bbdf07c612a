"""The reference backend: every op in plain PyTorch, on any device. It is the specification.

Every backend module has the functions of this one with the same arguments; ``elementwise`` and
``softmax`` state what they are promised and what they compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...rng import stream as noise_stream
from ...rng.keys import on_device
from .elementwise import base_noise, elementwise_backward, elementwise_forward
from .memory import flat
from .softmax import softmax_backward, softmax_forward

# Keys come as tensors; see `elementwise`.
DERIVES_KEYS = False

__all__ = [
    "DERIVES_KEYS",
    "base_noise",
    "elementwise_backward",
    "elementwise_forward",
    "info",
    "normal",
    "softmax_backward",
    "softmax_forward",
    "unavailable_reason",
]


def unavailable_reason(device: torch.device) -> str | None:
    """Why this backend can't serve tensors on a device; None when it can. This one always can."""
    return None


def info() -> dict[str, str]:
    """What ``python -m fused_reparam info`` prints about this backend."""
    return {"implementation": "plain PyTorch"}


def normal(key: Tensor, out: Tensor) -> None:
    """Fill ``out`` with the stream of ``key`` in memory order."""
    compute = torch.float64 if out.dtype == torch.float64 else torch.float32
    flat(out).copy_(noise_stream.stream(on_device(key, out.device), out.numel(), compute))
