"""What every op requires of the tensors it is given: memory that a backend can read as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..core.dtypes import DTYPES
from ..core.mistakes import described
from ..core.storage import check_gradients, check_held, check_saved
from ..rng import keys
from .library import Facts, eager_facts, facts_of

# Counts of bytes are 64-bit integers, and some are multiplied by a few.
MOST_ELEMENTS = 2**58


def check_operand(op: str, name: str, t: Tensor) -> None:
    """Raise TypeError or ValueError unless ``t`` is a floating tensor whose memory holds it."""
    # A call by hand may hand None over for a tensor that must be there.
    if (
        not isinstance(t, Tensor)
        or t.is_nested
        or t.layout is not torch.strided
        or t.dtype not in DTYPES
    ):
        raise TypeError(
            f"{op}: {name} must be a dense (strided) tensor of float32, bfloat16, float16 or "
            f"float64, got {described(t)}"
        )
    check_held(f"{op}'s {name}", t)


def check_like(
    op: str, name: str, t: Tensor | None, like: Tensor, shape: Sequence[int], dtype: torch.dtype
) -> None:
    """The same, for one that must have this shape and dtype and be where ``like`` is."""
    if t is None:
        return
    check_operand(op, name, t)
    if (t.shape, t.dtype, t.device) != (torch.Size(shape), dtype, like.device):
        raise ValueError(
            f"{op}: {name} must have shape {tuple(shape)} and dtype {dtype} on {like.device}, got "
            f"{tuple(t.shape)} and {t.dtype} on {t.device}"
        )


def check_key(op: str, key: Tensor, like: Tensor | None = None) -> None:
    """Raise TypeError or ValueError unless a key can be read, and beside ``like``."""
    if not isinstance(key, Tensor) or key.is_nested or key.layout is not torch.strided:
        raise TypeError(f"{op}: key must be a dense (strided) tensor, got {described(key)}")
    keys.check_bits(key)
    check_held(f"{op}'s key", key)
    if like is not None and key.device != like.device and key.device.type != "cpu":
        raise ValueError(f"{op}: key must be on {like.device} or the CPU, got {key.device}")


def check_size(shape: torch.Size, samples: int = 0) -> None:
    """Raise ValueError where a call would compute more elements than backends can count."""
    count = math.prod(shape, start=max(samples, 1))  # numel() would fix symbolic sizes
    if isinstance(count, int) and count > MOST_ELEMENTS:
        of = f"{samples} samples of " if samples else ""
        raise ValueError(
            f"one call can compute at most 2^58 elements, got {of}shape {tuple(shape)}"
        )


def check_order(op: str, order: Sequence[int] | None, dims: int) -> None:
    if order and sorted(order) != list(range(dims)):
        raise ValueError(f"{op}: order must be a permutation of the dims, got {list(order)[:9]}")


def save(ctx: Any, tensors: Sequence[Tensor | None], facts: Facts | None = None) -> Facts:
    """``ctx.save_for_backward``, with what ``saved`` compares; ``facts`` where they are known."""
    if facts is None:
        for t in tensors:
            if t is not None and t.is_nested:  # it has no shape to keep
                raise TypeError(f"operands must be dense (strided) tensors, got {described(t)}")
        facts = facts_of(tensors)
    ctx.save_for_backward(*tensors)
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(*tensors)
    ctx.kept = facts
    return facts


def saved(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[tuple[Any, ...], bool, bool]:
    """``ctx.saved_tensors``, checked, once: a checkpoint allows no more.

    ``grads`` are those that came, and are checked too. Also: whether nothing but memory and a
    kernel is between all of them and a result, and whether what was saved is laid out as it was.
    """
    found: tuple[Any, ...] = ctx.saved_tensors
    facts = eager_facts((*grads, *found))
    eager = facts is not None
    same = facts is not None and facts[len(grads) :] == ctx.kept
    if not eager:
        check_gradients(grads)
    if not same:
        found = check_saved(found, ctx.kept)
    return found, eager, same
