"""Which tensors of another package the ops can serve."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..core.dtypes import DTYPES
from ..core.storage import TENSOR_TYPES


def unserved(first: Any, *others: Any) -> str | None:
    """Why not these. None for tensors of one dtype on one device, and numbers beside one."""
    if type(first) not in TENSOR_TYPES:
        return f"a {type(first).__name__}"
    dtype, device = first.dtype, first.device
    if forward_ad._current_level >= 0:  # of torch.func.jvp and hessian, too
        return "forward-mode derivatives"
    if dtype not in DTYPES:
        return f"{dtype}"
    if not (first.is_cpu or first.is_cuda):
        return f"device {device.type}"
    if first.layout is not torch.strided or first.is_nested:
        return "a sparse or nested tensor"
    for other in others:
        if type(other) not in TENSOR_TYPES:
            if isinstance(other, (int, float)):
                continue
            return f"a {type(other).__name__}"
        if other.dtype is not dtype or other.device != device:
            return "tensors of several dtypes or devices"
        if other.layout is not torch.strided or other.is_nested:
            return "a sparse or nested tensor"
    return None


def one_number(value: Any, beside: Tensor) -> Any:
    """A temperature for all elements, as the ops take it; None where it is another.

    It is a positive number, or a tensor of one element that adds no dims to what it is beside and
    leaves its dtype as it is. Whether a tensor is positive is not asked: that would wait for it.
    """
    if isinstance(value, Tensor):
        fits = value.numel() == 1 and value.dim() <= beside.dim()
        fits = fits and (value.dtype is beside.dtype or not value.dim())
        return value.reshape(()) if fits else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 < value < math.inf else None


def as_it_was(result: Tensor, like: Tensor) -> Tensor:
    """A divergence or log-density, formed in float32, in the dtype in which operators gave it.

    Under a GPU's autocast that is float32: there powers, exponentials and sums are made in it.
    """
    if result.dtype is like.dtype or (like.is_cuda and torch.is_autocast_enabled("cuda")):
        return result
    return result.to(like.dtype)
