"""What a distribution is made of, brought to one dtype and shape, and what is derived of it."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.distributions.utils import lazy_property

from ..core.scalars import is_number


def one_shape(values: tuple[Any, ...]) -> torch.Size | None:
    """The shape of all parameters, if they are tensors of one shape and dtype."""
    first = values[0]
    if not isinstance(first, Tensor):
        return None
    shape, dims, dtype = first.shape, first.dim(), first.dtype
    for v in values[1:]:
        if not isinstance(v, Tensor) or v.dim() != dims or v.shape != shape or v.dtype != dtype:
            return None
    return shape


def of_one_dtype(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tensors of several dtypes, integers among them, in the one that they promote to."""
    dtypes = [v.dtype for v in values if isinstance(v, Tensor)]
    if all(dtype == dtypes[0] for dtype in dtypes):
        return values
    dtype = reduce(torch.promote_types, dtypes)
    return tuple([v.to(dtype) if isinstance(v, Tensor) else v for v in values])


def widest(values: tuple[Any, ...]) -> Tensor | None:
    """The tensor of most dims; None where all are numbers, or something is neither."""
    found = None
    for v in values:
        if isinstance(v, Tensor):
            if found is None or v.dim() > found.dim():
                found = v
        elif type(v) is not float and not is_number(v):
            return None
    return found


def keeps(found: Any, *, graph: bool = True) -> bool:
    """Whether a distribution may keep what was made of its parameters for whoever asks next.

    Not what was made in inference mode, which has no gradient; and, without ``graph``, no tensor
    whose graph a backward pass frees, so that the next one would fail.
    """
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        return False
    return graph or not (isinstance(found, Tensor) and found.requires_grad)


class derived(lazy_property[Any, Any]):
    """PyTorch's ``lazy_property`` but for what is not kept, see ``keeps``."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return super().__get__(instance, owner)
        with torch.enable_grad():
            found = self.wrapped(instance)
        if keeps(found, graph=False):
            setattr(instance, self.wrapped.__name__, found)
        return found
