"""The native backend's element-wise families: calls of the compiled library.

What the functions take and compute is stated in ``reference/elementwise.py``.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

from torch import Tensor

from .codes import FamilyCodes
from .library import Entry, loaded, row_strides

# The fields of fused_reparam_elementwise in kernels/common/c_api.h: operands, options, columns and
# strides. Dense operands (columns 0) need no strides.
_pack_operands = struct.Struct("=13q").pack
_pack_options = struct.Struct("=12q8d").pack
_pack_rows = struct.Struct("=21q").pack
_DENSE = bytes(8)
_NO_CONSTANTS = (0.0,) * 6
# What a family has fewer operands of than the struct has room for.
_ABSENT = [(None,) * count for count in range(5)]


def base_noise(base: str, number: float, key: Tensor, out: Tensor) -> None:
    """See ``reference.base_noise``."""
    library = loaded()
    codes = library.codes
    if library.base_noise(
        key.data_ptr(), codes.bases[base], number, codes.dtypes[out.dtype], out.numel(),
        out.data_ptr(),
    ):  # fmt: skip
        raise RuntimeError("the native library failed")


def elementwise_forward(
    family: str,
    kind: int,
    prior_kind: int,
    constants: Sequence[float],
    params: Sequence[Tensor],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    factor: float,
    dense: bool,
    z: Tensor | None,
    terms: Sequence[Tensor],
    memo: object = None,
) -> None:
    """See ``reference.elementwise_forward``."""
    entry = loaded().elementwise_forward
    _call(
        entry, family, kind, prior_kind, constants, params, key, eps, samples, factor, dense,
        z, terms, (),
    )  # fmt: skip


def elementwise_backward(
    family: str,
    kind: int,
    prior_kind: int,
    constants: Sequence[float],
    grad_z: Tensor | None,
    grad_terms: Sequence[Tensor | None],
    params: Sequence[Tensor],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    factor: float,
    dense: bool,
    grads: Sequence[Tensor | None],
    memo: object = None,
) -> None:
    """See ``reference.elementwise_backward``."""
    entry = loaded().elementwise_backward
    _call(
        entry, family, kind, prior_kind, constants, params, key, eps, samples, factor, dense,
        grad_z, grad_terms, grads,
    )  # fmt: skip


def _call(
    entry: Entry,
    family: str,
    kind: int,
    prior_kind: int,
    constants: Sequence[float],
    params: Sequence[Tensor],
    key: Tensor | None,
    eps: Tensor | None,
    samples: int,
    factor: float,
    dense: bool,
    z: Tensor | None,
    terms: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> None:
    """Pack and make a call; z, terms and grads are outputs, or the gradients of the first two."""
    segments = 0
    for term in terms:
        if term is not None:
            segments = term.numel()
    loc, codes = params[0], loaded().codes
    operands = (
        *params, *_ABSENT[4 - len(params)],
        key, eps, z, *terms, *_ABSENT[2 - len(terms)],
        *grads, *_ABSENT[4 - len(grads)],
    )  # fmt: skip
    packed = _pack_operands(*[0 if t is None else t.data_ptr() for t in operands]) + _options(
        loc.numel(), samples, segments, codes.dtypes[loc.dtype], codes.families[family], kind,
        prior_kind, tuple(constants), factor,
    )  # fmt: skip
    if dense:
        packed += _DENSE
    else:
        strided = (*operands[:4], eps, z, *operands[9:])
        packed += _pack_rows(loc.shape[1], *[s for t in strided for s in row_strides(t)])
    if entry(packed):
        raise RuntimeError("the native library failed")


@functools.lru_cache(maxsize=4096)
def _options(
    n: int,
    samples: int,
    segments: int,
    dtype: int,
    family: FamilyCodes,
    kind: int,
    prior_kind: int,
    constants: tuple[float, ...],
    factor: float,
) -> bytes:
    """The part of a call that is the same for all calls of a shape: packing it costs 1 us."""
    transform = family.hard if kind == 1 and not family.scaled else family.transform
    return _pack_options(
        n, samples, segments, dtype, family.base, transform, family.term, family.parameters,
        family.terms, family.scaled, kind, prior_kind, *constants, *_NO_CONSTANTS[len(constants) :],
        constants[family.base_number] if family.base_number >= 0 else 0.0, factor,
    )  # fmt: skip
