"""What the element-wise op requires of their arguments when they are called by hand.

``functional`` has checked a user's arguments by then, and says it in the user's terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.reductions import is_of_op
from ..core.scales import SCALE_KINDS
from ..families import FAMILIES
from . import elementwise_spec
from .elementwise_spec import PARAMETERS, Inputs, Spec
from .operands import check_key, check_like, check_operand, check_order, check_size

_OP = "torch.ops.fused_reparam.elementwise"


def check(
    inputs: Inputs,
    spec: Spec,
    grad_z: Tensor | None = None,
    grad_terms: Sequence[Tensor | None] = (),
) -> None:
    """Raise TypeError or ValueError unless the op can compute this."""
    key, eps = inputs[PARAMETERS:]
    _check_spec(spec)
    given = _given(inputs, spec)
    like = given[0]
    for name, t in (*(("a parameter", p) for p in given), ("eps", eps), ("grad_z", grad_z)):
        if t is None:
            continue
        check_operand(_OP, name, t)
        if (t.dtype, t.device) != (like.dtype, like.device):
            raise TypeError(
                f"{_OP} takes parameters and eps of one dtype and device, got {like.dtype} on "
                f"{like.device} and {name} {t.dtype} on {t.device}"
            )
    _check_split(like, spec)
    params = elementwise_spec.parameters(inputs, spec)
    shape = elementwise_spec.shape_of(params)
    if spec.split >= 0 and (len(shape) != params[0].dim() or shape != params[0].shape):
        raise ValueError(
            f"{_OP}: beside two parameters in one tensor the others must broadcast to the shape of "
            f"its halves, {tuple(params[0].shape)}, got {[tuple(p.shape) for p in params[2:]]}"
        )
    if spec.reduction is not None and not is_of_op(spec.reduction, len(shape)):
        raise ValueError(
            f"{_OP}: unknown reduction {spec.reduction!r} of values of shape {tuple(shape)}"
        )
    check_size(shape, spec.samples)
    check_order(_OP, spec.order, len(shape))
    of_z = elementwise_spec.stacked(spec.samples, shape)
    for name, t in (("eps", eps), ("grad_z", grad_z)):
        if t is not None and t.shape != of_z:
            raise ValueError(f"{_OP}: {name} must have shape {tuple(of_z)}, got {tuple(t.shape)}")
    if eps is not None and elementwise_spec.member(spec).base_parameter is not None:
        raise ValueError(f"{_OP}: {spec.family} takes no eps: a parameter of it makes its noise")
    _check_grads(grad_terms, like, shape, spec)
    if key is not None:
        check_key(_OP, key, like)
    elif eps is None and elementwise_spec.noisy(spec):
        raise ValueError(f"{_OP}: a sample takes a key or eps, got neither")


def _given(inputs: Inputs, spec: Spec) -> list[Tensor]:
    """The tensors of parameters; with a split p0 is two of them, and p1 None."""
    found = [p for p in inputs[:PARAMETERS] if p is not None]
    want = elementwise_spec.member(spec).parameters - (spec.split >= 0)
    places = [0, 2, 3] if spec.split >= 0 else [0, 1, 2, 3]
    if len(found) != want or any(inputs[i] is None for i in places[:want]):
        raise ValueError(
            f"{_OP}: {spec.family} takes {want} parameters, the first of "
            f"{', '.join(f'p{i}' for i in places)}, got {len(found)}"
            + (", not the first" if len(found) == want else "")
        )
    return found


def _check_split(moments: Tensor, spec: Spec) -> None:
    if spec.split < 0:
        return
    if spec.split >= moments.dim() or moments.shape[spec.split] % 2:
        raise ValueError(
            f"{_OP}: p0 must have an even size along the dim of split, got dim {spec.split} of "
            f"shape {tuple(moments.shape)}"
        )


def _check_spec(spec: Spec) -> None:
    if spec.family not in FAMILIES:
        raise ValueError(f"{_OP}: family must be one of {', '.join(FAMILIES)}, got {spec.family!r}")
    for name, kind in (("kind", spec.kind), ("prior_kind", spec.prior_kind)):
        if not 0 <= kind < len(SCALE_KINDS):
            raise ValueError(f"{_OP}: {name} must be in [0, {len(SCALE_KINDS)}), got {kind}")
    want = FAMILIES[spec.family].constants
    if len(spec.constants) != want:
        raise ValueError(f"{_OP}: {spec.family} takes {want} constants, got {len(spec.constants)}")
    if spec.split < -1 or (spec.split >= 0 and FAMILIES[spec.family].parameters < 2):
        raise ValueError(
            f"{_OP}: split must be -1, or a dim of p0 that holds two parameters, got {spec.split}"
        )
    if spec.samples < 0:
        raise ValueError(f"{_OP}: samples must be at least 0, got {spec.samples}")


def _check_grads(
    grads: Sequence[Tensor | None], like: Tensor, shape: torch.Size, spec: Spec
) -> None:
    for i, grad in enumerate(grads):
        if grad is None:
            continue
        if i >= elementwise_spec.count(spec):
            raise ValueError(f"{_OP}: {spec.family} has no term {i}, but a gradient of it came")
        want = elementwise_spec.term_shape(shape, spec), compute_dtype(like.dtype)
        check_like(_OP, f"the gradient of term {i}", grad, like, *want)
