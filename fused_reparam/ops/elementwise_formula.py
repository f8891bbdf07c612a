"""The element-wise op in plain PyTorch, differentiable as often as wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vjp

from ..backends.reference.recording import recording
from ..core import reductions
from ..core.dtypes import compute_dtype
from ..families import stream_of
from ..rng.keys import on_device
from .elementwise_spec import (
    PARAMETERS,
    Inputs,
    Spec,
    kept,
    member,
    parameters,
    shape_of,
    stacked,
    stacked_order,
    term_samples,
)


def evaluate(inputs: Sequence[Tensor | None], noise: Tensor | None, spec: Spec) -> list[Tensor]:
    """z and the terms of parameters and base noise."""
    params = parameters(inputs, spec)
    dtype = params[0].dtype
    shape = shape_of(params)
    p = [t.to(compute_dtype(dtype)).expand(shape) for t in params]
    noise = None if noise is None else noise.to(p[0].dtype)
    z, terms = member(spec).formula(p, noise, spec.kind, spec.prior_kind, spec.constants)
    if spec.reduction is None:
        return [z.to(dtype)]
    first = (1 if term_samples(spec) else 0) + kept(shape, spec)
    factor = reductions.factor(shape, spec.reduction)
    return [z.to(dtype), *(reductions.scaled(_sum_from(v, first), factor) for v in terms)]


def _sum_from(term: Tensor, dim: int) -> Tensor:
    return term.sum(list(range(dim, term.dim()))) if dim < term.dim() else term


def noise_of(inputs: Inputs, spec: Spec) -> Tensor | None:
    """The base noise that a call uses, shaped and laid out as z; None where it uses none."""
    key, eps = inputs[PARAMETERS:]
    if eps is not None or key is None:
        return eps
    params = parameters(inputs, spec)
    base, number, each = stream_of(spec.family, spec.constants)
    shape = stacked(spec.samples, shape_of(params))
    order = stacked_order(spec.samples, spec.order)
    if each > 1:
        shape, order = torch.Size((*shape, each)), [*(order or range(len(shape))), len(shape)]
    return torch.ops.fused_reparam.base_noise(  # type: ignore[no-any-return]
        on_device(key, params[0].device), shape, order, compute_dtype(params[0].dtype), base, number
    )


def eps_gradient(grads: Sequence[Tensor | None], inputs: Inputs, spec: Spec) -> Tensor:
    """The gradient of given base noise; inside an op's kernel."""
    assert inputs.eps is not None
    with recording():
        noise = inputs.eps.detach().requires_grad_()
        params = [p if p is None else p.detach() for p in inputs[:PARAMETERS]]
        outputs = evaluate(params, noise, spec)
        came = [(o, g) for o, g in zip(outputs, grads, strict=False)
                if g is not None and o.requires_grad]  # fmt: skip
        if not came:
            return torch.zeros_like(inputs.eps)
        (grad,) = torch.autograd.grad([o for o, _ in came], noise, [g for _, g in came])
    return grad


def double_backward(
    cotangents: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    inputs: Inputs,
    spec: Spec,
) -> tuple[Tensor | None, ...]:
    """Gradients of the backward pass for ``grads`` (of z and the terms) and the inputs.

    ``cotangents`` are those of the gradients of the parameters and of eps.
    """
    noise = noise_of(inputs, spec)
    at = [i for i, p in enumerate(inputs[:PARAMETERS]) if p is not None]
    tensors = [p for p in inputs[:PARAMETERS] if p is not None]
    places = [*at, PARAMETERS] if noise is not None else at  # the cotangent of each
    if noise is not None:
        tensors.append(noise)

    def outputs(*tensors: Tensor) -> list[Tensor]:
        params: list[Tensor | None] = [None] * PARAMETERS
        for i, t in zip(at, tensors, strict=False):
            params[i] = t
        return evaluate(params, tensors[len(at)] if noise is not None else None, spec)

    of_grads, of_tensors = vjp_twice(
        outputs, tensors, grads, [cotangents[place] for place in places]
    )
    of_params = dict(zip(at, of_tensors, strict=False))
    of_eps = of_tensors[-1] if inputs.eps is not None else None
    return *of_grads, *(of_params.get(i) for i in range(PARAMETERS)), None, of_eps


def vjp_twice(
    function: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of a backward pass, for the gradients that came and for the function's tensors.

    ``grads`` are those of its results, ``cotangents`` those of its tensors' gradients.
    """
    came = [i for i, g in enumerate(grads) if g is not None]
    asked = [i for i, c in enumerate(cotangents) if c is not None]
    if not came or not asked:
        return [None] * len(grads), [None] * len(tensors)

    def some(*tensors: Tensor) -> tuple[Tensor, ...]:
        found = function(*tensors)
        return tuple(found[i] for i in came)

    def first(grads: tuple[Tensor, ...], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = vjp(some, *tensors)[1](grads)
        return tuple(found[i] for i in asked)

    pull = vjp(first, tuple(grads[i] for i in came), tuple(tensors))[1]  # type: ignore[misc]
    to_came, to_tensors = pull(tuple(cotangents[i] for i in asked))
    to_grads = dict(zip(came, to_came, strict=True))
    return [to_grads.get(i) for i in range(len(grads))], list(to_tensors)
