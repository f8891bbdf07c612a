"""The noise stream as a tensor (``normal``, ``base_noise``), and ``draw_key``, a key as an op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backends import dispatch
from ..backends.cpu import extension
from ..core.dtypes import DTYPES
from ..core.modes import eager
from ..rng import bases, keys
from .layout import empty_ordered
from .library import LIB, define, register_vmap
from .operands import check_key, check_order
from .sharded import is_sharded, shared_key

_OP = "torch.ops.fused_reparam.normal or base_noise"

define("normal(Tensor key, SymInt[] shape, int[] order, ScalarType dtype) -> Tensor")


def normal(key: Tensor, shape: Sequence[int], order: list[int], dtype: torch.dtype) -> Tensor:
    """Noise of a shape and dtype, dense in the given memory order."""
    out = fake(key, shape, order, dtype)
    if out.numel():
        dispatch.pick(key.device).normal(key.contiguous(), out)
    return out


def fake(key: Tensor, shape: Sequence[int], order: list[int], dtype: torch.dtype) -> Tensor:
    """What the ops require, and the tensor that they fill."""
    check_key(_OP, key)
    if dtype not in DTYPES:
        raise TypeError(f"{_OP}: dtype must be float32, bfloat16, float16 or float64, got {dtype}")
    if any(size < 0 for size in shape):
        raise ValueError(f"{_OP}: shape must not be negative, got {list(shape)[:9]}")
    check_order(_OP, order, len(shape))
    return empty_ordered(shape, list(order), dtype, key.device)


LIB.impl("normal", normal, "CompositeExplicitAutograd")
extension.serve("normal", normal)
torch.library.register_fake("fused_reparam::normal", fake, lib=LIB)


def _vmap(info, in_dims, key, shape, order, dtype):  # type: ignore[no-untyped-def]
    """One stream per key."""
    keys = key.movedim(in_dims[0], 0).unbind()
    return torch.stack([torch.ops.fused_reparam.normal(k, shape, order, dtype) for k in keys]), 0


register_vmap("normal", _vmap)

define(
    "base_noise(Tensor key, SymInt[] shape, int[] order, ScalarType dtype, str base, float number)"
    " -> Tensor"
)


def base_noise(
    key: Tensor,
    shape: Sequence[int],
    order: list[int],
    dtype: torch.dtype,
    base: str,
    number: float,
) -> Tensor:
    """Noise of a name in ``bases.BASES``, dense in the given memory order."""
    out = _fake_base_noise(key, shape, order, dtype, base, number)
    if out.numel():
        dispatch.pick(key.device).base_noise(base, number, key.contiguous(), out)
    return out


def _fake_base_noise(
    key: Tensor,
    shape: Sequence[int],
    order: list[int],
    dtype: torch.dtype,
    base: str,
    number: float,
) -> Tensor:
    """What the op requires, and the tensor that it fills."""
    if base not in bases.BASES:
        raise ValueError(f"{_OP}: base must be one of {', '.join(bases.BASES)}, got {base!r}")
    if base == "student_t" and not number > 0:
        raise ValueError(f"{_OP}: student_t takes a number of degrees above 0, got {number}")
    return fake(key, shape, order, dtype)


LIB.impl("base_noise", base_noise, "CompositeExplicitAutograd")
extension.serve("base_noise", base_noise)
torch.library.register_fake("fused_reparam::base_noise", _fake_base_noise, lib=LIB)


def _base_noise_vmap(info, in_dims, key, *rest):  # type: ignore[no-untyped-def]
    """One stream per key."""
    keys = key.movedim(in_dims[0], 0).unbind()
    return torch.stack([torch.ops.fused_reparam.base_noise(k, *rest) for k in keys]), 0


register_vmap("base_noise", _base_noise_vmap)


# A compiler merges two calls of an op with the same arguments, random or not, unless it knows the
# op. Each call therefore gets a witness: an empty tensor of its own, of which the compiler knows
# that it can't be merged. The tag lets it replay the draw where it recomputes (activation
# checkpointing).
define("draw_key(Tensor witness) -> Tensor", torch.Tag.nondeterministic_seeded)


def _draw_key(witness: Tensor) -> Tensor:
    if not isinstance(witness, Tensor):
        raise TypeError("torch.ops.fused_reparam.draw_key: witness must be a tensor, got None")
    # Never a key of the generator's state: a compiled forward may run in a CUDA graph, where that
    # can't be had, and the backward that draws it again eagerly.
    return keys.random_bits(witness.device, None).view(torch.uint64)


LIB.impl("draw_key", _draw_key, "CompositeExplicitAutograd")


def _observed_key(like: Tensor) -> Tensor:
    if not eager():
        return keys.draw_key(like.device)
    drawn = keys.random_bits(like.device, None)
    return shared_key(drawn, [like]) if is_sharded(like) else drawn


# The bits of a fresh key for what an op is to compute on the CPU.
draw_key = extension.Bound("fused_reparam::draw_key", _observed_key)
torch.library.register_fake(
    "fused_reparam::draw_key",
    lambda witness: torch.empty((2,), dtype=torch.uint64, device=witness.device),
    lib=LIB,
)
