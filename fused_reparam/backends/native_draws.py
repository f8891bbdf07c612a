"""The native backend's element-wise draws: calls of the compiled library.

What the functions take and compute is stated in ``reference/draws.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import streams
from . import native
from .reference.families import FAMILIES

_FAMILY_CODES = {name: code for code, name in enumerate(FAMILIES)}
_BASE_CODES = {name: code for code, name in enumerate(streams.BASES)}

# The fields of fused_reparam_draw in kernels/draws.cpp: dense operands need no strides.
_pack_dense = struct.Struct("=20q7dq").pack
_pack_rows = struct.Struct("=20q7dq20q").pack
_NO_NUMBERS = (0.0,) * 6


def base_noise(base: str, number: float, key: Tensor, out: Tensor) -> None:
    """See ``reference.base_noise``."""
    library = native._library or native._loaded()
    if library.base_noise(
        key.data_ptr(), _BASE_CODES[base], number, native._DTYPE_CODES[out.dtype], out.numel(),
        out.data_ptr(),
    ):  # fmt: skip
        raise RuntimeError("the native library failed")


def draw_forward(
    family: str,
    kind: int,
    prior_kind: int,
    numbers: Sequence[float],
    params: Sequence[Tensor],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    weight: float,
    dense: bool,
    z: Tensor | None,
    values: Sequence[Tensor],
) -> None:
    """See ``reference.draw_forward``."""
    entry = (native._library or native._loaded()).draw_forward
    _call(
        entry, family, kind, prior_kind, numbers, params, key, eps, samples, weight, dense,
        z, values, (),
    )  # fmt: skip


def draw_backward(
    family: str,
    kind: int,
    prior_kind: int,
    numbers: Sequence[float],
    grad_z: Tensor | None,
    grad_values: Sequence[Tensor | None],
    params: Sequence[Tensor],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    weight: float,
    dense: bool,
    grads: Sequence[Tensor | None],
) -> None:
    """See ``reference.draw_backward``."""
    entry = (native._library or native._loaded()).draw_backward
    _call(
        entry, family, kind, prior_kind, numbers, params, key, eps, samples, weight, dense,
        grad_z, grad_values, grads,
    )  # fmt: skip


def _call(
    entry: native._Entry,
    family: str,
    kind: int,
    prior_kind: int,
    numbers: Sequence[float],
    params: Sequence[Tensor],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    weight: float,
    dense: bool,
    z: Tensor | None,
    values: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> None:
    """Pack and make a call; z, values and grads are outputs, or the gradients of the first two."""
    segments = 0
    for value in values:
        if value is not None:
            segments = value.numel()
    loc = params[0]
    fields = (
        *_pointers(params, 4),
        0 if key is None else key.data_ptr(),
        0 if eps is None else eps.data_ptr(),
        0 if z is None else z.data_ptr(),
        *_pointers(values, 2),
        *_pointers(grads, 4),
        loc.numel(),
        samples,
        segments,
        native._DTYPE_CODES[loc.dtype],
        _FAMILY_CODES[family],
        kind,
        prior_kind,
        *numbers,
        *_NO_NUMBERS[len(numbers) :],
        weight,
    )
    if dense:
        packed = _pack_dense(*fields, 0)
    else:
        operands = (*params, *(None,) * (4 - len(params)), eps, z, *grads)
        strides = [s for t in operands for s in native._row_strides(t)]
        strides += [0] * (20 - len(strides))
        packed = _pack_rows(*fields, loc.shape[1], *strides)
    if entry(packed):
        raise RuntimeError("the native library failed")


def _pointers(tensors: Sequence[Tensor | None], count: int) -> list[Any]:
    found = [0 if t is None else t.data_ptr() for t in tensors]
    return found + [0] * (count - len(found))
