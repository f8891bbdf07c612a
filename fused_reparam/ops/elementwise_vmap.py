"""``torch.vmap`` over the element-wise op: one call of it for the whole batch.

An unbatched key means the same noise for each example (a key given by the caller, or
``randomness="same"``), a batched one a stream for each (``randomness="different"``). Either way
each example gets the numbers that it would get alone, so the noise is drawn by example and handed
to the op as eps; a family that takes no eps is called for one example after the other. The batch is
the parameters' dim 0, behind the samples', so terms are reduced by a reduction that keeps the
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import reductions
from ..core.dtypes import compute_dtype
from .elementwise_formula import noise_of
from .elementwise_spec import (
    PARAMETERS,
    TERMS,
    Inputs,
    Spec,
    count,
    halves,
    inputs_of,
    member,
    noisy,
    settled,
    shape_of,
    term_samples,
)
from .library import front, pad, register_vmap

_INPUTS = len(Inputs._fields)


def _batched(
    inputs: Inputs, in_dims: Sequence[Any], size: int, spec: Spec
) -> tuple[list[Tensor], Tensor | None, Tensor | None, Spec]:
    """Parameters with the batch in front, each a tensor of its own, key and noise, and their spec.

    16-bit inputs become float32, so that the noise is not rounded on its way.
    """
    dtype = compute_dtype(inputs.p0.dtype)
    fronted = [front(p, d, size) for p, d in zip(inputs[:PARAMETERS], in_dims, strict=False)]
    params = [p for p in fronted if p is not None]
    if spec.split >= 0:
        params = [*halves(params[0], spec.split + 1), *params[1:]]
    dims = max(p.dim() for p in params) - 1
    params = [pad(p, dims).to(dtype) for p in params]
    # Of an example, as it would be alone.
    spec = settled([p[0] for p in params], spec._replace(split=-1))
    of_key, of_eps = in_dims[PARAMETERS:]
    eps = front(inputs.eps, of_eps, size)
    # Of any example: beside a key, noise is one's that an op could have made itself.
    key = inputs.key if inputs.key is None or of_key is None else inputs.key.select(of_key, 0)
    if eps is None and inputs.key is not None and noisy(spec):
        example = [p[0] for p in params]
        eps = _noise(example, inputs.key, of_key, size, spec)
    if eps is not None:
        eps = eps.to(dtype)
        eps = eps.movedim(0, 1) if spec.samples else eps
    order = [0, *(d + 1 for d in spec.order)] if spec.order else []
    return params, key, eps, spec._replace(order=order, reduction=_reduction(dims, spec))


def _reduction(dims: int, spec: Spec) -> str | None:
    """What keeps the batch and what the spec's reduction keeps of an example's dims."""
    if spec.reduction is None:
        return None
    keep = reductions.kept_dims(dims, spec.reduction)
    return reductions.keeping(1 + keep) if keep < dims else "none"


def _noise(example: list[Tensor], key: Tensor, dim: int | None, size: int, spec: Spec) -> Tensor:
    def made(one: Tensor) -> Tensor:
        noise = noise_of(inputs_of(example, one, None), spec)
        assert noise is not None
        return noise

    if dim is None:
        drawn = made(key)
        return drawn.expand(size, *drawn.shape)
    return torch.stack([made(one) for one in key.movedim(dim, 0).unbind()])


def by_example(op: Any, size: int, in_dims: Sequence[Any], args: Sequence[Any]) -> Any:
    """The results of an op's calls for one example after the other."""
    found = [
        op(*[
            a.select(d, i) if isinstance(a, Tensor) and d is not None else a
            for a, d in zip(args, in_dims, strict=True)
        ])
        for i in range(size)
    ]  # fmt: skip
    return tuple([torch.stack(each) for each in zip(*found, strict=True)]), (0,) * len(found[0])


def _forward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    inputs, spec = Inputs(*args[:_INPUTS]), Spec(*args[_INPUTS:])
    if member(spec).base_parameter is not None:
        return by_example(torch.ops.fused_reparam.elementwise, info.batch_size, in_dims, args)
    size, like = info.batch_size, inputs.p0
    params, key, eps, whole = _batched(inputs, in_dims[:_INPUTS], size, spec)
    z, *terms = torch.ops.fused_reparam.elementwise(*inputs_of(params, key, eps), *whole)
    z = z.to(like.dtype) if spec.sample else like.new_empty(size, 0)
    found, leading = count(spec), (1 if term_samples(spec) else 0)
    factor = reductions.factor(shape_of(params)[1:], spec.reduction)
    terms = [
        reductions.scaled(v, factor) if i < found else like.new_empty(size, 0)
        for i, v in enumerate(terms)
    ]
    dims = [leading if i < found else 0 for i in range(TERMS)]
    return (z, *terms), (1 if spec.sample and spec.samples else 0, *dims)


def _backward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    outputs = 1 + TERMS
    inputs = Inputs(*args[outputs : outputs + _INPUTS])
    spec, needs = Spec(*args[outputs + _INPUTS : -1]), args[-1]
    if member(spec).base_parameter is not None:
        op = torch.ops.fused_reparam.elementwise_backward
        return by_example(op, info.batch_size, in_dims, args)
    size, like = info.batch_size, inputs.p0
    dims = in_dims[outputs : outputs + _INPUTS]
    params, key, eps, whole = _batched(inputs, dims, size, spec)
    dtype, shape = params[0].dtype, shape_of(params)[1:]
    grad_z, *grads = [front(g, d, size) for g, d in zip(args[:outputs], in_dims, strict=False)]
    if grad_z is not None:
        grad_z = (grad_z.movedim(0, 1) if spec.samples else grad_z).to(dtype)
    leading = 1 if term_samples(spec) else 0
    factor = reductions.factor(shape, spec.reduction)
    of_terms = [
        None if g is None else reductions.scaled(g.movedim(0, 1) if leading else g, factor)
        for g in grads
    ]
    of_params, of_eps = [*needs[:PARAMETERS]], needs[-1] and inputs.eps is not None
    if spec.split >= 0:
        of_params[1] = needs[0]
    # Only those that were given have a gradient: with a split, of two tensors more.
    of_params = [n and i < len(params) for i, n in enumerate(of_params)]
    *found, to_eps = torch.ops.fused_reparam.elementwise_backward(
        grad_z, *of_terms, *inputs_of(params, key, eps), *whole, [*of_params, of_eps]
    )
    if spec.split >= 0 and needs[0]:
        found[:2] = [torch.cat(found[:2], spec.split + 1), like.new_empty(size, 0)]
    grads = [
        _example_grad(g, p, d, size) if needed and p is not None else like.new_empty(size, 0)
        for g, p, d, needed in zip(found, inputs, dims, needs, strict=False)
    ]
    if of_eps:
        to_eps = to_eps.movedim(1, 0) if spec.samples else to_eps
        grads.append(to_eps.to(like.dtype))
    else:
        grads.append(like.new_empty(size, 0))
    return tuple(grads), (0,) * len(grads)


def _example_grad(grad: Tensor, like: Tensor, dim: int | None, size: int) -> Tensor:
    example = like.shape if dim is None else like.movedim(dim, 0).shape[1:]
    return grad.reshape(size, *example).to(like.dtype)


register_vmap("elementwise", _forward)
register_vmap("elementwise_backward", _backward)
