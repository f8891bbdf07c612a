"""The native backend's Gumbel-softmax: calls of the compiled library.

What the functions take and compute is stated in ``reference/softmax.py``.
"""

from __future__ import annotations

import struct

from torch import Tensor

from .library import Entry, loaded

# The fields of fused_reparam_softmax in kernels/common/c_api.h.
_pack = struct.Struct("=15q2d6q").pack
_NO_STRIDES = (0, 0, 0)


def softmax_forward(
    mode: int,
    tau: float,
    unimix: float,
    logits: Tensor,
    key: Tensor | None,
    noise: Tensor | None,
    y: Tensor | None,
    soft: Tensor | None,
    kl: Tensor | None,
    control: Tensor | None = None,
) -> None:
    """See ``reference.softmax_forward``."""
    entry = loaded().softmax_forward
    _call(entry, mode, tau, unimix, logits, noise, y, soft, kl, None, key, control)


def softmax_backward(
    mode: int,
    tau: float,
    unimix: float,
    grad_y: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor,
    soft: Tensor | None,
    grad_logits: Tensor,
    control: Tensor | None = None,
) -> None:
    """See ``reference.softmax_backward``."""
    entry = loaded().softmax_backward
    _call(
        entry, mode, tau, unimix, logits, None, grad_y, soft, grad_kl, grad_logits, None, control
    )  # fmt: skip


def _call(
    entry: Entry,
    mode: int,
    tau: float,
    unimix: float,
    logits: Tensor,
    noise: Tensor | None,
    y: Tensor | None,
    soft: Tensor | None,
    kl: Tensor | None,
    grad_logits: Tensor | None,
    key: Tensor | None,
    control: Tensor | None,
) -> None:
    """Pack and make a call; y and kl are outputs, or their gradients."""
    packed = _pack(
        logits.data_ptr(),
        0 if noise is None else noise.data_ptr(),
        0 if y is None else y.data_ptr(),
        0 if soft is None else soft.data_ptr(),
        0 if kl is None else kl.data_ptr(),
        0 if grad_logits is None else grad_logits.data_ptr(),
        0 if key is None else key.data_ptr(),
        0 if control is None else control.data_ptr(),
        0 if control is None else control.numel(),
        loaded().codes.dtypes[logits.dtype],
        mode,
        _outers(logits, y, kl, grad_logits),
        *logits.shape[1:],
        len(logits),
        tau,
        unimix,
        *logits.stride(),
        *(_NO_STRIDES if y is None else y.stride()),
    )
    if entry(packed):
        raise RuntimeError("the native library failed")


def _outers(logits: Tensor, *others: Tensor | None) -> int:
    """How many outers a call has: the logits may have fewer, and repeat."""
    return max(len(logits), *[len(t) for t in others if t is not None])
