"""Gumbel-softmax of DTensors, see ``sharded.py``.

Whole variables lie on a rank: logits that are sharded along the classes are redistributed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import reductions
from ..core.dtypes import compute_dtype
from ..rng.keys import advance
from . import softmax_call
from .functions import Tensors
from .layout import stand_in
from .sharded import Sharding, Stream, finished, key_of_all, local_reduction
from .softmax_call import Spec
from .softmax_check import check_forward

Op = Callable[[Tensors, Spec], Tensors]


def gumbel_softmax(op: Op, inputs: Tensors, spec: Spec) -> Tensors:
    """y and the KL as DTensors. ``op`` is what computes a shard's."""
    logits, key, noise, control = inputs
    key = key_of_all(key, logits.device)
    of_key = None if key is None else torch.zeros(2, dtype=torch.uint64)
    check_forward(stand_in(logits), of_key, stand_in(noise), stand_in(control), spec)
    shape, dtype = logits.shape, compute_dtype(logits.dtype)
    placed = [(t, t.dim() - len(shape)) for t in (logits, noise, control) if t is not None]
    sharding = Sharding([-1 if d == spec.dim else n for d, n in enumerate(shape)], placed)
    sharding.shape = tuple(shape)
    x, drawn, number = (
        None if t is None else sharding.local(name, t, t.dim() - len(shape))
        for name, t in (("logits", logits), ("noise", noise), ("control", control))
    )
    assert x is not None
    if key is not None and drawn is None and spec.want_y:
        stream = Stream.of("gumbel", 0.0, 1, shape, spec.order, dtype)
        window = sharding.window()
        block = stream.begins_at(window)
        if block is None:
            x, drawn, key = x.to(dtype), stream.cut(key, window), None
        else:
            key = advance(key, block) if block else key
    local = spec._replace(reduction=local_reduction(spec.reduction))
    y, soft, kl = op((x, key, drawn, number), local)
    if spec.want_y:
        y = sharding.whole(y.to(logits.dtype), shape, spec.order, lambda d: d)  # type: ignore[union-attr]
    if spec.reduction is not None:
        kl = _whole_kl(sharding, kl, shape, spec)
    return y, soft, kl


def _whole_kl(sharding: Sharding, kl: Any, shape: torch.Size, spec: Spec) -> Tensor:
    variables, order = softmax_call.without_class_dim(shape, spec)
    assert spec.reduction is not None
    keep = reductions.kept_dims(len(variables), spec.reduction)

    def own(dim: int) -> int | None:
        at = dim - (dim > spec.dim)
        return at if at < keep else None

    kept = softmax_call.kl_shape(shape, spec)
    if spec.reduction != "none":
        order = []
    return sharding.whole(finished(kl, variables, spec.reduction), kept, order, own)
