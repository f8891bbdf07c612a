"""The element-wise op of DTensors, see ``sharded.py``.

z is sharded as the first parameter that is sharded along a dim of one sample. A term is a part of
a sum where it is summed over that dim.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..families import stream_of
from ..rng.keys import advance
from . import elementwise_spec
from .elementwise_spec import (
    PARAMETERS,
    TERMS,
    Inputs,
    Spec,
    count,
    kept,
    member,
    noisy,
    settled,
    shape_of,
    stacked,
    stacked_order,
    term_order,
    term_samples,
    term_shape,
)
from .functions import Tensors
from .layout import stand_in
from .sharded import (
    Sharding,
    Stream,
    finished,
    key_of_all,
    local_reduction,
    made_again,
)

Op = Callable[[Tensors, Spec], Tensors]


def elementwise(
    op: Op, check: Callable[[Inputs, Spec], None], inputs: Inputs, spec: Spec
) -> Tensors:
    """z and the terms as DTensors. ``op`` is what computes a shard's, of what ``check`` allows."""
    like = inputs.p0
    key = key_of_all(inputs.key, like.device)
    # What shapes decide is found on tensors without memory: no half of a DTensor is cut off.
    shapes = Inputs(*[None if t is inputs.key else stand_in(t) for t in inputs])  # type: ignore[arg-type]
    check(shapes._replace(key=None if key is None else torch.zeros(2, dtype=torch.uint64)), spec)
    spec = settled(shapes, spec)
    shape = shape_of(elementwise_spec.parameters(shapes, spec))
    front = 1 if spec.samples else 0
    placed = [(p, p.dim() - len(shape)) for p in inputs[:PARAMETERS] if p is not None]
    if inputs.eps is not None:
        placed.append((inputs.eps, front))
    sharding = Sharding(shape, placed)
    draws = key is not None and inputs.eps is None and noisy(spec)
    stream = Stream.of(
        *stream_of(spec.family, spec.constants), stacked(spec.samples, shape),
        stacked_order(spec.samples, spec.order), compute_dtype(like.dtype),
    )  # fmt: skip
    # Where no noise can be given, every shard has to begin at a block.
    of_keys_alone = draws and member(spec).base_parameter is not None
    if of_keys_alone and not sharding.everywhere(
        lambda at: stream.begins_at(_of_all(spec, at)) is not None
    ):
        sharding.dims = [None] * len(sharding.dims)
    params = [
        p if p is None else sharding.local(f"parameter {i}", p, p.dim() - len(shape))
        for i, p in enumerate(inputs[:PARAMETERS])
    ]
    eps, again = sharding.local("eps", inputs.eps, front), nullcontext()
    if draws:
        window = _of_all(spec, sharding.window())
        block = stream.begins_at(window)
        if block is None:
            params = [p if p is None else p.to(stream.dtype) for p in params]
            eps = stream.cut(key, window)
            again = made_again(eps, lambda: stream.cut(key, window))  # type: ignore[assignment]
        elif block:
            key = advance(key, block)
    with again:
        found = op((*params, key, eps), spec._replace(reduction=local_reduction(spec.reduction)))
    return _whole(sharding, found, like, shape, spec)


def _of_all(spec: Spec, window: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A window of one sample as that of all."""
    return [(0, spec.samples), *window] if spec.samples else window


def _whole(
    sharding: Sharding, found: Tensors, like: Tensor, shape: torch.Size, spec: Spec
) -> Tensors:
    z: Any = found[0]
    if spec.sample:
        front = 1 if spec.samples else 0
        order = stacked_order(spec.samples, spec.order)
        z = sharding.whole(
            z.to(like.dtype), stacked(spec.samples, shape), order, lambda d: d + front
        )
    keep, of_samples = kept(shape, spec), 1 if term_samples(spec) else 0
    terms = list(found[1 : 1 + TERMS])
    for i in range(count(spec)):
        term = finished(terms[i], shape, spec.reduction)
        terms[i] = sharding.whole(
            term, term_shape(shape, spec), term_order(shape, spec),
            lambda d: d + of_samples if d < keep else None,
        )  # fmt: skip
    return z, *terms
