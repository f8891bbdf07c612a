"""``fused_reparam::sampled_linear``: a linear layer whose weights are drawn, and never kept.

The weights are drawn in panels of some rows, each multiplied and forgotten, and drawn again in the
backward pass: beside parameters and their gradients nothing has the weights' size. On a CPU with
the compiled extension ``kernels/torch/sampled_linear.h`` does the same with panels that stay in a
core's cache; here they are a part of the weights, so that there are few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..families import FAMILIES
from ..rng.keys import advance
from . import elementwise as draws
from . import elementwise_call, elementwise_spec
from . import elementwise_formula as formula
from .differentiable import DifferentiableOp
from .elementwise_check import check as check_draw
from .elementwise_vmap import by_example
from .functions import Call, Tensors
from .library import as_tensor, register_vmap
from .operands import check_like, check_operand

__all__ = ["Spec", "sampled_linear"]

_OP = "torch.ops.fused_reparam.sampled_linear"
# A panel and its gradient are a sixteenth of two tensors of the weights' size.
_PANELS = 16
# Rows of a panel begin at a block of the noise, which is of four elements at most.
_STEP = 4


class Spec(NamedTuple):
    """How the weights are drawn: as of ``fused_reparam::elementwise``."""

    family: str
    kind: int
    prior_kind: int
    constants: tuple[float, ...]

    def draw(self, terms: bool = True) -> elementwise_spec.Spec:
        reduction = "sum" if terms else None
        return elementwise_spec.Spec(
            (), self.family, self.kind, self.prior_kind, self.constants, 0, True, reduction
        )


class Inputs(NamedTuple):
    x: Tensor
    mu: Tensor
    rho: Tensor
    p2: Tensor | None
    p3: Tensor | None
    bias: Tensor | None
    key: Any

    def of_draw(self) -> elementwise_spec.Inputs:
        """Of the weights' draw."""
        return elementwise_spec.Inputs(self.mu, self.rho, self.p2, self.p3, self.key, None)

    def panels(self) -> Iterator[tuple[slice, Tensors]]:
        """Rows of the weights, and the draw's inputs for them."""
        mu, *prior = self[1:5]
        rows, columns = mu.shape
        size = -(-rows // (_PANELS * _STEP)) * _STEP
        key, block = as_tensor(self.key), 2 if mu.dtype is torch.float64 else 4
        for first in range(0, rows, size) if columns else ():
            part = slice(first, first + size)
            of_prior = (p[part] if p is not None and _by_rows(p, mu) else p for p in prior)
            yield part, (mu[part], *of_prior, advance(key, first * columns // block), None)


class SampledLinear(DifferentiableOp):
    """y = x w^T + bias of weights w = mu + sigma eps, and the sum of their KL.

    x is (*batch, in), mu and rho are (out, in), the prior's tensors broadcast to them, bias is
    (out,): all of one dtype. Element i of mu, row by row, gets element i of the key's noise. The
    family's noise must be one normal number for each element. Saved are the inputs.
    """

    name = "sampled_linear"
    inputs = "Tensor x, Tensor mu, Tensor rho, Tensor? p2, Tensor? p3, Tensor? bias, Tensor key"
    saved = inputs
    outputs = ("y", "kl")
    gradients = (0, 1, 2, 3, 4, 5)
    options = "str family, int kind, int prior_kind, float[] constants"
    Spec = Spec
    variable_options = ("kind", "prior_kind", "constants")

    def settled(self, tensors: Tensors, spec: Any) -> Any:
        return spec

    def check(self, inputs: Tensors, spec: Any) -> None:
        x, mu, rho, _, _, bias, _ = given = Inputs(*inputs)
        check_operand(_OP, "x", x)
        check_operand(_OP, "mu", mu)
        check_operand(_OP, "rho", rho)
        if mu.dim() != 2 or x.dim() < 1 or x.shape[-1] != mu.shape[1]:
            raise ValueError(
                f"{_OP} takes x (*batch, in) and mu (out, in), got {tuple(x.shape)} and "
                f"{tuple(mu.shape)}"
            )
        check_like(_OP, "x", x, mu, x.shape, mu.dtype)
        check_like(_OP, "bias", bias, mu, mu.shape[:1], mu.dtype)
        check_draw(given.of_draw(), spec.draw())
        if rho.shape != mu.shape or any(
            elementwise_spec.shape_of([mu, p]) != mu.shape
            for p in (given.p2, given.p3)
            if p is not None
        ):
            raise ValueError(
                f"{_OP}: rho must have mu's shape {tuple(mu.shape)}, and the prior broadcast to it"
            )
        family = FAMILIES[spec.family]
        if family.base != "normal" or family.base_parameter is not None:
            raise ValueError(f"{_OP}: {spec.family} has other noise than a normal for each weight")
        if family.terms != 1:
            raise ValueError(f"{_OP}: {spec.family} has {family.terms} terms, expected one, a KL")

    def check_backward(
        self, grads: Tensors, kept: Tensors, spec: Any, needs: Sequence[bool]
    ) -> None:
        self.check(kept, spec)
        x, mu, *_ = kept
        grad_y, grad_kl = grads
        check_like(_OP, "grad_y", grad_y, mu, (*x.shape[:-1], mu.shape[0]), mu.dtype)
        check_like(_OP, "grad_kl", grad_kl, mu, (), compute_dtype(mu.dtype))

    def allocate(self, inputs: Tensors, spec: Any) -> Tensors:
        x, mu, *_ = inputs
        y = x.new_empty((*x.shape[:-1], mu.shape[0]))
        return y, mu.new_empty((), dtype=compute_dtype(mu.dtype))

    def allocate_gradients(self, kept: Tensors, spec: Any, needs: Sequence[bool]) -> Tensors:
        return tuple(
            t.new_empty(t.shape) if needed and t is not None else None
            for t, needed in zip(kept, needs, strict=False)
        )

    def layout(self, tensors: Tensors, spec: Any) -> None:
        return None

    def forward(self, call: Call, inputs: Tensors) -> Tensors:
        given = Inputs(*inputs)
        y, kl = self.allocate(inputs, call.spec)
        kl.zero_()
        x, to = _matrix(given.x), y.view(-1, given.mu.shape[0])
        for rows, drawn in given.panels():
            w, term = _drawn(call, drawn)
            of_bias = None if given.bias is None else given.bias[rows]
            to[:, rows] = _product(x, w.t(), of_bias)
            kl += term
        return y, kl

    def backward(self, call: Call, grads: Tensors, kept: Tensors, needs: Sequence[bool]) -> Tensors:
        given, (grad_y, grad_kl) = Inputs(*kept), grads
        found = list(self.allocate_gradients(kept, call.spec, needs))
        # What is summed over panels: 16-bit sums would be rounded at each of them.
        sums: list[Any] = [
            None
            if g is None
            else g
            if _by_rows(g, given.mu)
            else g.new_zeros(g.shape, dtype=compute_dtype(g.dtype))
            for g in found[:5]
        ]
        x = _matrix(given.x)
        of_y = None if grad_y is None else grad_y.reshape(-1, given.mu.shape[0])
        needed = [*needs[1:5], False]
        sum_x = None if sums[0] is None else sums[0].view(x.shape)
        for rows, drawn in given.panels():
            grad_w = None
            if of_y is not None:
                if sum_x is not None:
                    sum_x += _product(of_y[:, rows], _drawn(call, drawn, False)[0])
                if True in needed:
                    grad_w = _product(of_y[:, rows].t(), x)
            if True not in needed:
                continue
            each = _gradients(call, (grad_w, grad_kl, None), drawn, needed)
            for total, part in zip(sums[1:], each, strict=False):
                if total is None:
                    continue
                if _by_rows(total, given.mu):
                    total[rows] = part
                else:
                    total += part
        if found[5] is not None:
            found[5] = found[5].zero_() if of_y is None else of_y.sum(0)
        for i, total in enumerate(sums):
            found[i] = total if total is None else total.to(found[i].dtype)
        return tuple(found)

    def double_backward(
        self, cotangents: Tensors, grads: Tensors, kept: Tensors, spec: Any
    ) -> Tensors:
        given, draw = Inputs(*kept), spec.draw()
        at = [i for i, t in enumerate(kept[:KEY]) if t is not None]
        noise = formula.noise_of(given.of_draw(), draw)

        def outputs(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            x, *params, bias = _placed(at, tensors)
            w, kl = formula.evaluate(params, noise, draw)
            return torch.nn.functional.linear(x, w, bias), kl

        of_grads, of_tensors = formula.vjp_twice(
            outputs, [kept[i] for i in at], grads, [cotangents[i] for i in at]
        )
        return *of_grads, *_placed(at, of_tensors), None

    def of_shards(self, inputs: Tensors, spec: Any) -> Tensors:
        """Of a shard the weights are kept: their layer is DTensor's own."""
        given = Inputs(*inputs)
        params = [p for p in given.of_draw()[: elementwise_spec.PARAMETERS] if p is not None]
        w, (kl,) = draws.elementwise(params, given.key, None, spec.draw())
        return torch.nn.functional.linear(given.x, w, given.bias), kl

    def keep(self, inputs: Tensors, outputs: Tensors, spec: Any) -> Tensors:
        return inputs


def _by_rows(t: Tensor, mu: Tensor) -> bool:
    """Whether a tensor that broadcasts to the weights has their rows."""
    return t.dim() == 2 and t.shape[0] == mu.shape[0]


def _placed(at: Sequence[int], tensors: Sequence[Any]) -> list[Any]:
    """Tensors at their places among the inputs before the key, None at the others."""
    found: list[Any] = [None] * KEY
    for i, t in zip(at, tensors, strict=True):
        found[i] = t
    return found


def _matrix(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _product(x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """In the tensors' own dtype: autocast looks at no operator that writes to a tensor."""
    out = x.new_empty((x.shape[0], y.shape[1]))
    return torch.mm(x, y, out=out) if bias is None else torch.addmm(bias, x, y, out=out)


def _drawn(call: Call, inputs: Tensors, terms: bool = True) -> Tensors:
    """A panel of weights, and its KL."""
    one = draws.call_of(call.backend, inputs, call.spec.draw(terms))
    return elementwise_call.forward(one, inputs)[:2]


def _gradients(call: Call, grads: Tensors, inputs: Tensors, needs: Sequence[bool]) -> Tensors:
    """Those of a panel's parameters."""
    one = draws.call_of(call.backend, inputs, call.spec.draw())
    return elementwise_call.backward(one, grads, inputs, needs)[:4]


_op = SampledLinear()
KEY = _op.key_at


def sampled_linear(
    x: Tensor, params: Sequence[Tensor], bias: Tensor | None, key: Any, spec: Spec
) -> tuple[Tensor, Tensor]:
    """y and the KL, differentiable; ``params`` are mu, rho and the prior's tensors, if any."""
    prior = params[2:] or (None, None)
    return _op((x, *params[:2], *prior, bias, key), spec)  # type: ignore[return-value]


def _vmap(op: Any) -> Any:
    return lambda info, in_dims, *args: by_example(op, info.batch_size, in_dims, args)


register_vmap("sampled_linear", _vmap(_op.op))
register_vmap("sampled_linear_backward", _vmap(_op.backward_op))
