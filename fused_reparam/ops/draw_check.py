"""What the draw ops require of their arguments when they are called by hand.

``functional`` has checked a user's arguments by then, and says it in the user's terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backends.reference import SCALE_KINDS
from ..backends.reference.families import FAMILIES
from . import draw_spec
from .draw_spec import DrawSpec, Inputs
from .gaussian_call import compute_dtype
from .operands import check_key, check_like, check_operand, check_order, check_size

_OP = "torch.ops.fused_reparam.draw"


def check(
    inputs: Inputs,
    spec: DrawSpec,
    grad_z: Tensor | None = None,
    grad_values: Sequence[Tensor | None] = (),
) -> None:
    """Raise TypeError or ValueError unless the op can compute this."""
    params, key, eps = inputs
    _check_spec(spec)
    want = draw_spec.member(spec).parameters
    if len(params) != want:
        raise ValueError(f"{_OP}: {spec.family} takes {want} parameters, got {len(params)}")
    like = params[0]
    for name, t in (*(("a parameter", p) for p in params), ("eps", eps), ("grad_z", grad_z)):
        if t is None:
            continue
        check_operand(_OP, name, t)
        if (t.dtype, t.device) != (like.dtype, like.device):
            raise TypeError(
                f"{_OP} takes parameters and eps of one dtype and device, got {like.dtype} on "
                f"{like.device} and {name} {t.dtype} on {t.device}"
            )
    shape = draw_spec.shape_of(params)
    check_size(shape, spec.samples)
    check_order(_OP, spec.order, len(shape))
    if spec.keep > len(shape):
        raise ValueError(f"{_OP}: keep must be at most {len(shape)} dims, got {spec.keep}")
    of_z = draw_spec.stacked(spec.samples, shape)
    for name, t in (("eps", eps), ("grad_z", grad_z)):
        if t is not None and t.shape != of_z:
            raise ValueError(f"{_OP}: {name} must have shape {tuple(of_z)}, got {tuple(t.shape)}")
    _check_grads(grad_values, like, shape, spec)
    if key is not None:
        check_key(_OP, key, like)
    elif eps is None and draw_spec.noisy(spec):
        raise ValueError(f"{_OP}: a sample takes a key or eps, got neither")


def _check_spec(spec: DrawSpec) -> None:
    if spec.family not in FAMILIES:
        raise ValueError(f"{_OP}: family must be one of {', '.join(FAMILIES)}, got {spec.family!r}")
    for name, kind in (("kind", spec.kind), ("prior_kind", spec.prior_kind)):
        if not 0 <= kind < len(SCALE_KINDS):
            raise ValueError(f"{_OP}: {name} must be in [0, {len(SCALE_KINDS)}), got {kind}")
    want = FAMILIES[spec.family].numbers
    if len(spec.numbers) != want:
        raise ValueError(f"{_OP}: {spec.family} takes {want} numbers, got {len(spec.numbers)}")
    if spec.samples < 0:
        raise ValueError(f"{_OP}: samples must be at least 0, got {spec.samples}")
    if spec.keep < -1:
        raise ValueError(f"{_OP}: keep must be at least -1, got {spec.keep}")


def _check_grads(
    grads: Sequence[Tensor | None], like: Tensor, shape: torch.Size, spec: DrawSpec
) -> None:
    for i, grad in enumerate(grads):
        if grad is None:
            continue
        if i >= draw_spec.count(spec):
            raise ValueError(f"{_OP}: {spec.family} has no value {i}, but a gradient of it came")
        want = draw_spec.value_shape(shape, spec), compute_dtype(like.dtype)
        check_like(_OP, f"the gradient of value {i}", grad, like, *want)
