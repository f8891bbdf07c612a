"""What the ops of Gumbel-softmax require of their arguments when they are called by hand.

``functional`` has checked a user's arguments by then, and says it in the user's terms.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.dtypes import compute_dtype
from ..core.reductions import is_of_op
from ..families.categorical import HARD, LARGEST_TAU, ONE_HOT, SMALLEST_TAU, SOFT
from . import softmax_call
from .operands import check_key, check_like, check_operand, check_order, check_size
from .softmax_call import Spec

_OP = "torch.ops.fused_reparam.gumbel_softmax"
_MODES = (SOFT, HARD, ONE_HOT)
# Backends count classes in 32 bits.
MOST_CLASSES = 2**31 - 1


def check_forward(logits: Tensor, key: Any, noise: Any, control: Any, spec: Spec) -> None:
    """Raise TypeError or ValueError unless the op can compute this."""
    _check(_OP, logits, spec)
    check_like(_OP, "noise", noise, logits, logits.shape, logits.dtype)
    _check_control(_OP, control, logits, spec)
    if key is not None:
        check_key(_OP, key, logits)
    elif noise is None and spec.want_y:
        raise ValueError(f"{_OP}: a sample takes a key or noise, got neither")


def check_backward(
    grad_y: Any, grad_soft: Any, grad_kl: Any, logits: Any, soft: Any, control: Any, spec: Spec
) -> None:
    """The same of the backward op."""
    op = f"{_OP}_backward"
    like = like_of(logits, soft)
    _check(op, like, spec)
    for name, t in (
        ("logits", logits), ("soft", soft), ("grad_y", grad_y), ("grad_soft", grad_soft),
    ):  # fmt: skip
        check_like(op, name, t, like, like.shape, like.dtype)
    _check_control(op, control, like, spec)
    of_y = grad_y is not None or grad_soft is not None
    if grad_kl is not None:
        if spec.reduction is None:
            raise ValueError(f"{op}: without a reduction there is no KL, but a gradient of it came")
        shape = softmax_call.kl_shape(like.shape, spec)
        check_like(op, "grad_kl", grad_kl, like, shape, compute_dtype(like.dtype))
    reads_logits = grad_kl is not None or (of_y and spec.mode == ONE_HOT)
    if (reads_logits and logits is None) or (of_y and spec.mode != ONE_HOT and soft is None):
        raise ValueError(
            f"{op}: grad_kl and ONE_HOT's grad_y take logits, SOFT's and HARD's grad_y takes soft"
        )


def like_of(logits: Tensor | None, soft: Tensor | None) -> Tensor:
    """What the gradient is shaped like."""
    found = soft if logits is None else logits
    if found is None:
        raise ValueError(f"{_OP}_backward takes logits or soft, got neither")
    return found


def _check_control(op: str, control: Any, like: Tensor, spec: Spec) -> None:
    """One number, or one for each variable."""
    if control is None:
        return
    check_like(op, "control", control, like, control.shape, compute_dtype(like.dtype))
    each = (*like.shape[: spec.dim], 1, *like.shape[spec.dim + 1 :])
    fits = control.dim() == len(each) and all(
        n in (1, m) for n, m in zip(control.shape, each, strict=True)
    )
    if control.dim() and not fits:
        raise ValueError(
            f"{op}: control must have no dims or a shape that expands to {each}, got "
            f"{tuple(control.shape)}"
        )


def _check(op: str, logits: Tensor, spec: Spec) -> None:
    check_operand(op, "logits", logits)
    dims = logits.dim()
    if spec.mode not in _MODES:
        raise ValueError(f"{op}: mode must be one of {_MODES}, got {spec.mode}")
    if spec.want_soft and (spec.mode != HARD or not spec.want_y):
        raise ValueError(f"{op}: want_soft is for mode HARD alone, beside y")
    known = spec.reduction is None or is_of_op(spec.reduction, dims - 1)
    if not known or spec.reduction == "last":
        raise ValueError(f"{op}: unknown reduction {spec.reduction!r}")
    if not SMALLEST_TAU <= spec.tau <= LARGEST_TAU:
        raise ValueError(f"{op}: tau must be from 2^-126 to 2^126, got {spec.tau}")
    if not 0.0 <= spec.unimix < 1.0:
        raise ValueError(f"{op}: unimix must be in [0, 1), got {spec.unimix}")
    if not 0 <= spec.dim < dims or logits.shape[spec.dim] < 1:
        raise ValueError(
            f"{op}: dim must be one of the {dims} dims and have classes, got dim {spec.dim} of "
            f"shape {tuple(logits.shape)}"
        )
    if logits.shape[spec.dim] > MOST_CLASSES:
        raise ValueError(
            f"{op}: the limit is {MOST_CLASSES} classes, got shape {tuple(logits.shape)}"
        )
    check_size(logits.shape)
    check_order(op, spec.order, dims)
