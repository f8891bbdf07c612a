"""What the ops of relaxed categories share; the classes are dim 1, which is the last of a matrix.

`y = softmax((logits + g) / TAU)` with g Gumbel noise, `p = softmax(logits)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench import scores
from bench.ops import gaussian
from bench.ops.base import Compute, Expected, Oracle, Shape, Tensors

TAU = 0.8
# Along a dim that is not the last, PyTorch adds up a row's float32 terms one by one. Of 8192
# classes softmax was seen to be off by 976 roundings, an eighth of their number, and its gradient,
# whose terms have random signs, by 91 to 110, about the root; softmax without noise, of which the
# largest share is small, by half the root. With gate.ROUNDINGS these allow less than twice that.
POSITIVE, SIGNED, SHARES = 1 / 80, 1 / 10, 1 / 20


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    return gaussian.leaves(*gaussian.normals(1, shape, dtype, device))


def rows(shape: Shape) -> int:
    """The longest dim but that of the classes."""
    return max((dim for dim in range(len(shape)) if dim != 1), key=shape.__getitem__)


def classes_last(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Of something that works along the last dim, the same along dim 1."""
    return lambda logits: compute(logits.movedim(1, -1)).movedim(-1, 1)


def incoming(shape: Shape, outputs: Tensors, sample_grad: Callable[[], Tensor]) -> Tensors:
    """A random gradient for y; for a KL, a mean over rows, one that weighs about as much."""
    return tuple(sample_grad() if t.ndim else torch.full_like(t, shape[0]) for t in outputs)


def soft_oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
    """Of y, and of the KL where there is one, from y itself.

    A row's noise is known but for a number that all its classes share: differences of neighbours
    are logistic.
    """
    logits, y, grad = (t.double() for t in (operands[0], outputs[0], incoming[0]))
    # Rounding errors of a smaller share are not in proportion to it.
    rounded = y.clamp_min(torch.finfo(outputs[0].dtype).smallest_normal)
    noise = TAU * torch.log(rounded) - logits
    pairs = noise[:, : noise.shape[1] // 2 * 2]
    difference = pairs[:, 0::2] - pairs[:, 1::2]
    mean, mean_scale = (grad * y).sum(1, keepdim=True), (grad * y).abs().sum(1, keepdim=True)
    mean_scale = mean_scale * (1 + SIGNED * math.sqrt(y.shape[1]))
    value, scale = y * (grad - mean) / TAU, rounded * (grad.abs() + mean_scale) / TAU
    log_p, p = _shares(logits)
    # Some forms normalize logits first, whose gradient adds p times a sum that should be 0.
    scale = scale + p * mean_scale / TAU
    if len(outputs) > 1:
        grad_kl = incoming[1].double() / shape[0]
        mean = (p * log_p).sum(1, keepdim=True)
        slope = p * (log_p - mean)
        value = value + grad_kl * slope
        terms = p * (log_p.abs() + mean.abs()) + SHARES * math.sqrt(y.shape[1]) * slope.abs()
        scale = scale + grad_kl.abs() * terms
    normalized = Expected(y / y.sum(1, keepdim=True), rounded * (1 + POSITIVE * y.shape[1]))
    elements = {"y": normalized, "grad logits": Expected(value, scale)}
    return Oracle(scores.of_logistic(difference), elements)


def hard_oracle(unimix: float) -> Callable[[Shape, Tensors, Tensors, Tensors], Oracle]:
    """Of one-hot y drawn with shares m = (1 - unimix) p + unimix / classes, whose gradient it has.

    The noise is read off the class that was drawn.
    """

    def oracle(shape: Shape, operands: Tensors, outputs: Tensors, incoming: Tensors) -> Oracle:
        logits, y, grad = (t.double() for t in (operands[0], outputs[0], incoming[0]))
        _, p = _shares(logits)
        chosen = y.argmax(1)
        one_hot = torch.zeros_like(y).scatter_(1, chosen.unsqueeze(1), 1.0)
        mean, mean_scale = (grad * p).sum(1, keepdim=True), (grad * p).abs().sum(1, keepdim=True)
        mean_scale = mean_scale * (1 + SHARES * math.sqrt(p.shape[1]))
        keep = 1 - unimix
        elements = {
            "y": Expected(one_hot, one_hot),
            "grad logits": Expected(keep * p * (grad - mean), p * (grad.abs() + mean_scale)),
        }
        return Oracle(scores.of_classes(chosen, keep * p + unimix / p.shape[1]), elements)

    return oracle


def kl_sum(shape: Shape, operands: Tensors) -> dict[str, Expected]:
    """What some rows add to the KL to equal shares, a mean over dim 0."""
    log_p, p = _shares(operands[0].double())
    value, rows = (p * log_p).sum(), p.numel() // p.shape[1] * math.log(p.shape[1])
    scale = (p * log_p).abs().sum()
    return {"kl": Expected((value + rows) / shape[0], (scale + rows) / shape[0])}


def _shares(logits: Tensor) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(logits, 1)
    return log_p, torch.exp(log_p)


def results(outputs: Tensors, gradients: Tensors) -> dict[str, Tensor]:
    kl = {"kl": outputs[1]} if len(outputs) > 1 else {}
    return kl | {"y": outputs[0], "grad logits": gradients[0]}


def only(compute: Callable[[Tensor], Tensor]) -> Compute:
    """A form of an op from a function with one result."""
    return lambda logits: (compute(logits),)
