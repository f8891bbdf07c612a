"""A draw in plain PyTorch, differentiable as often as wanted, from the families' formulas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vjp

from ..backends.reference.families import base_number
from ..backends.reference.recording import recording
from ..noise import on_device
from .draw_spec import DrawSpec, Inputs, member, shape_of, stacked, stacked_order, value_samples
from .gaussian_call import compute_dtype


def evaluate(params: Sequence[Tensor], noise: Tensor | None, spec: DrawSpec) -> tuple[Tensor, ...]:
    """z and the values of parameters and base noise."""
    dtype = params[0].dtype
    shape = shape_of(params)
    p = [t.to(compute_dtype(dtype)).expand(shape) for t in params]
    noise = None if noise is None else noise.to(p[0].dtype)
    z, values = member(spec).formula(p, noise, spec.kind, spec.prior_kind, spec.numbers)
    if spec.keep < 0:
        values = ()
    first = (1 if value_samples(spec) else 0) + spec.keep
    return z.to(dtype), *(spec.weight * _sum_from(v, first) for v in values)


def _sum_from(value: Tensor, dim: int) -> Tensor:
    return value.sum(list(range(dim, value.dim()))) if dim < value.dim() else value


def noise_of(inputs: Inputs, spec: DrawSpec) -> Tensor | None:
    """The base noise that a call uses, shaped and laid out as z; None where it uses none."""
    params, key, eps = inputs
    if eps is not None or key is None:
        return eps
    return torch.ops.fused_reparam.base_noise(  # type: ignore[no-any-return]
        on_device(key, params[0].device),
        stacked(spec.samples, shape_of(params)),
        stacked_order(spec.samples, spec.order),
        compute_dtype(params[0].dtype),
        member(spec).base,
        base_number(spec.family, spec.numbers),
    )


def eps_gradient(
    grad_z: Tensor | None, grad_values: Sequence[Tensor | None], inputs: Inputs, spec: DrawSpec
) -> Tensor:
    """The gradient of given base noise; inside an op's kernel."""
    params, _, eps = inputs
    assert eps is not None
    with recording():
        noise = eps.detach().requires_grad_()
        outputs = evaluate([p.detach() for p in params], noise, spec)
        came = [(o, g) for o, g in zip(outputs, (grad_z, *grad_values), strict=True)
                if g is not None and o.requires_grad]  # fmt: skip
        if not came:
            return torch.zeros_like(eps)
        (grad,) = torch.autograd.grad([o for o, _ in came], noise, [g for _, g in came])
    return grad


def double_backward(
    cotangents: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    inputs: Inputs,
    spec: DrawSpec,
) -> tuple[Tensor | None, ...]:
    """Gradients of the backward pass for ``grads`` (of z and the values), the parameters and eps.

    ``cotangents`` are those of the gradients of the parameters and of eps.
    """
    noise = noise_of(inputs, spec)
    tensors = inputs.params if noise is None else (*inputs.params, noise)
    came = [i for i, g in enumerate(grads) if g is not None]
    asked = [i for i, c in enumerate(cotangents) if c is not None]
    if not came or not asked:
        return (None,) * (len(grads) + len(inputs.params) + 1)

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(inputs.params)
        found = evaluate(tensors[:count], tensors[count] if noise is not None else None, spec)
        return tuple(found[i] for i in came)

    def first(grads: tuple[Tensor, ...], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = vjp(outputs, *tensors)[1](grads)
        return tuple(found[i] for i in asked)

    pull = vjp(first, tuple(grads[i] for i in came), tensors)[1]
    to_came, to_tensors = pull(tuple(cotangents[i] for i in asked))
    to_grads = dict(zip(came, to_came, strict=True))
    to_eps = to_tensors[-1] if inputs.eps is not None else None
    return (
        *(to_grads.get(i) for i in range(len(grads))),
        *to_tensors[: len(inputs.params)],
        to_eps,
    )
