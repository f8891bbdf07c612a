"""What the ops require of their arguments when they are called by hand.

``functional`` has checked a user's arguments by then, and says it in the user's terms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends.reference import SCALE_KINDS
from . import gaussian_call
from .gaussian_call import REDUCTIONS, Inputs, Spec
from .operands import check_key, check_like, check_operand, check_order, check_size

_OP = "torch.ops.fused_reparam.gaussian_latent"


def check(
    inputs: Inputs, spec: Spec, grad_z: Tensor | None = None, grad_kl: Tensor | None = None
) -> None:
    """Raise TypeError or ValueError unless the op can compute this."""
    loc, scale, key, eps = inputs
    check_operand(_OP, "loc", loc)
    for name, t in (("scale", scale), ("eps", eps), ("grad_z", grad_z)):
        if t is None:
            continue
        check_operand(_OP, name, t)
        if (t.dtype, t.device) != (loc.dtype, loc.device):
            raise TypeError(
                f"{_OP} takes loc, scale and eps of one dtype and device, got loc {loc.dtype} on "
                f"{loc.device} and {name} {t.dtype} on {t.device}; "
                "fused_reparam.gaussian_latent promotes them"
            )
    if not 0 <= spec.kind < len(SCALE_KINDS):
        raise ValueError(f"{_OP}: kind must be in [0, {len(SCALE_KINDS)}), got {spec.kind}")
    if spec.reduction is not None and spec.reduction not in REDUCTIONS:
        raise ValueError(f"{_OP}: unknown reduction {spec.reduction!r}")
    if scale is None and not -loc.dim() <= spec.dim < loc.dim():
        raise ValueError(
            f"{_OP}: dim must be one of the {loc.dim()} dims of moments, got dim {spec.dim} of "
            f"shape {tuple(loc.shape)}"
        )
    if scale is None and loc.shape[spec.dim] % 2:
        raise ValueError(
            f"{_OP}: moments must have an even size along dim {spec.dim}, got {tuple(loc.shape)}"
        )
    shape = gaussian_call.operands(loc, scale, spec.dim)[0].shape
    check_size(shape)
    check_order(_OP, spec.order, len(shape))
    for name, t in (("eps", eps), ("grad_z", grad_z)):
        if t is not None and t.shape != shape:
            raise ValueError(f"{_OP}: {name} must have shape {tuple(shape)}, got {tuple(t.shape)}")
    if grad_kl is not None:
        _check_grad_kl(grad_kl, loc, shape, spec)
    if key is not None:
        check_key(_OP, key, loc)
    elif eps is None and spec.sample:
        raise ValueError(f"{_OP}: a sample takes a key or eps, got neither")


def _check_grad_kl(grad_kl: Tensor, loc: Tensor, shape: torch.Size, spec: Spec) -> None:
    if spec.reduction is None:
        raise ValueError(f"{_OP}: without a reduction there is no KL, but a gradient of it came")
    want = gaussian_call.kl_shape(shape, spec.reduction), gaussian_call.compute_dtype(loc.dtype)
    check_like(_OP, "grad_kl", grad_kl, loc, *want)
