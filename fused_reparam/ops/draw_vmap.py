"""``torch.vmap`` over the draw ops: one call of the op for the whole batch.

As ``gaussian_vmap`` does it: each example gets the numbers that it would get alone, drawn by
example and handed to the op as ``eps``. The batch is the parameters' dim 0, behind the samples'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import draw_formula
from .draw import unpadded, unpadded_backward
from .draw_spec import DrawSpec, Inputs, count, noisy, value_samples
from .gaussian_call import compute_dtype
from .library import LIB, front, pad


def _batched(
    inputs: Inputs, in_dims: Sequence[Any], size: int, spec: DrawSpec
) -> tuple[Inputs, DrawSpec]:
    """The inputs and spec over the whole batch, with noise in place of keys.

    16-bit inputs become float32, so that the noise is not rounded on its way.
    """
    dtype = compute_dtype(inputs.params[0].dtype)
    fronted = [front(p, d, size) for p, d in zip(inputs.params, in_dims, strict=False)]
    dims = max(p.dim() for p in fronted if p is not None) - 1
    params = tuple(pad(p, dims).to(dtype) for p in fronted if p is not None)
    of_key, of_eps = in_dims[-2:]
    eps = front(inputs.eps, of_eps, size)
    if eps is None and inputs.key is not None and noisy(spec):
        example = tuple(p[0] for p in params)
        eps = _noise(example, inputs.key, of_key, size, spec)
    if eps is not None:
        eps = eps.to(dtype)
        eps = eps.movedim(0, 1) if spec.samples else eps
    order = [0, *(d + 1 for d in spec.order)] if spec.order else []
    keep = spec.keep + 1 if spec.keep >= 0 else -1
    return Inputs(params, None, eps), spec._replace(order=order, keep=keep)


def _noise(
    example: tuple[Tensor, ...], key: Tensor, dim: int | None, size: int, spec: DrawSpec
) -> Tensor:
    def made(one: Tensor) -> Tensor:
        noise = draw_formula.noise_of(Inputs(example, one, None), spec)
        assert noise is not None
        return noise

    if dim is None:
        drawn = made(key)
        return drawn.expand(size, *drawn.shape)
    return torch.stack([made(one) for one in key.movedim(dim, 0).unbind()])


def _tensor_dims(in_dims: Sequence[Any], params: int) -> list[Any]:
    """Of the parameters, the key and eps, the dims among the six of an op's inputs."""
    return [*in_dims[:params], *in_dims[4:6]]


def _forward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    inputs, spec = unpadded(args)
    size, params, like = info.batch_size, len(inputs.params), inputs.params[0]
    batched, whole = _batched(inputs, _tensor_dims(in_dims, params), size, spec)
    z, *values = torch.ops.fused_reparam.draw(*_all_inputs(batched), *whole)
    z = z.to(like.dtype) if spec.sample else like.new_empty(size, 0)
    found = count(spec)
    values[found:] = [like.new_empty(size, 0) for _ in values[found:]]
    of_z = 1 if spec.sample and spec.samples else 0
    of_values = 1 if value_samples(spec) else 0
    return (z, *values), (of_z, *(of_values if i < found else 0 for i in range(len(values))))


def _all_inputs(inputs: Inputs) -> tuple[Tensor | None, ...]:
    return *inputs.params, *(None,) * (4 - len(inputs.params)), inputs.key, inputs.eps


def _backward(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
    grads, inputs, spec, needs = unpadded_backward(args)
    size, like = info.batch_size, inputs.params[0]
    dims = _tensor_dims(in_dims[3:], len(inputs.params))
    batched, whole = _batched(inputs, dims, size, spec)
    grads = [front(g, d, size) for g, d in zip(grads, in_dims, strict=False)]
    dtype = batched.params[0].dtype
    leading = [spec.samples, *(value_samples(spec),) * (len(grads) - 1)]
    grads = [
        g if g is None else (g.movedim(0, 1) if stacked else g).to(dtype)
        for g, stacked in zip(grads, leading, strict=True)
    ]
    needs[-1] = needs[-1] and inputs.eps is not None
    padded = [*needs[:-1], *(False,) * (4 - len(inputs.params)), needs[-1]]
    *of_params, of_eps = torch.ops.fused_reparam.draw_backward(
        *grads, *_all_inputs(batched), *whole, padded
    )
    found = [
        _example_grad(g, p, d, size) if needed else like.new_empty(size, 0)
        for g, p, d, needed in zip(of_params, inputs.params, dims, needs[:-1], strict=False)
    ]
    found += [like.new_empty(size, 0)] * (4 - len(found))
    if needs[-1]:
        of_eps = of_eps.movedim(1, 0) if spec.samples else of_eps
        found.append(of_eps.to(like.dtype))
    else:
        found.append(like.new_empty(size, 0))
    return tuple(found), (0,) * len(found)


def _example_grad(grad: Tensor, like: Tensor, dim: int | None, size: int) -> Tensor:
    example = like.shape if dim is None else like.movedim(dim, 0).shape[1:]
    return grad.reshape(size, *example).to(like.dtype)


torch.library.register_vmap("fused_reparam::draw", _forward, lib=LIB)
torch.library.register_vmap("fused_reparam::draw_backward", _backward, lib=LIB)
