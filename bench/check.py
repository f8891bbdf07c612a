"""The gate: what is ours is timed only after it was found right.

A backend must pass the package's self-test. And what is compared must be one computation: with the
noise of the key that it drew, ours must be the formula in float64, outputs and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.noise import of_key

SEED = 22
# Noise may be off by 4e-6, and sums are of terms that may cancel; a result in 16 bits is rounded.
ROUNDINGS, LEAST = 4, {torch.float64: 1e-10}
# Where the noise decides between two classes that are nearly alike, either may be drawn.
SHARE = 1e-4
Outputs = Sequence[Tensor]


def self_test(device: torch.device) -> dict[str, str]:
    """What the package's self-test finds wrong with its backends, by their names.

    Only of the CPU: on a GPU it compiles for minutes; `gpu-report` runs the numeric tests there.
    """
    from fused_reparam import selftest

    lines: list[str] = []
    if device.type == "cpu":
        selftest.run([device], lines.append)
    found = [line.partition(f" on {device.type}: FAILED ") for line in lines]
    return {name: f"self-test: {problem}" for name, marker, problem in found if marker}


def problem(
    ours: Callable[..., Outputs],
    formula: Callable[..., Outputs],
    inputs: Sequence[Tensor],
    base: str | None,
    like: Tensor,
    incoming: Callable[[Outputs], Sequence[Tensor | None]] | None,
) -> str | None:
    """What is wrong with ours, in one sentence; None where it is the formula.

    Args:
        base: the noise, of the shape of `like`; None where there is none.
        incoming: makes the gradient that arrives at each output, if one does; None: no backward.
    """
    from fused_reparam import noise

    torch.manual_seed(SEED)
    key = noise.draw_key(like.device)
    torch.manual_seed(SEED)
    got = ours(*inputs)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    # In the sample's memory order, where the two have the same shape.
    shaped = torch.empty_like(got[0]) if got[0].shape == like.shape else like
    shaped = torch.empty_like(shaped, dtype=like.dtype)
    want = formula(None if base is None else of_key(base, key, shaped), *exact)
    said = _first("output", got, want)
    if said is not None or incoming is None:
        return said
    arriving = incoming(got)
    return _first("gradient", gradients(got, inputs, arriving), gradients(want, exact, arriving))


def _first(what: str, got: Sequence[Tensor | None], want: Sequence[Tensor | None]) -> str | None:
    """The first of them that is wrong, and how."""
    for index, pair in enumerate(zip(got, want, strict=True)):
        words = _difference(*pair)
        if words is not None:
            return f"{what} {index}: {words}"
    return None


def gradients(
    outputs: Outputs, inputs: Sequence[Tensor], arriving: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Those of the inputs, with gradients in the dtypes of the outputs that they arrive at."""
    kept = [(o, g.to(o.dtype)) for o, g in zip(outputs, arriving, strict=True) if g is not None]
    reached, given = zip(*kept, strict=True)
    return torch.autograd.grad(reached, inputs, given, allow_unused=True)


def _difference(got: Tensor | None, want: Tensor | None) -> str | None:
    if got is None or want is None:
        return None if got is want else f"got {got}, expected {want}"
    if got.shape != want.shape:
        return f"shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    # Of two infinities, where the dtype ends before float64 does, nothing is subtracted.
    off = torch.where(got == want.to(got.dtype), 0.0, (got.double() - want).abs())
    off = off / want.abs().clamp_min(1.0)
    allowed = max(LEAST.get(got.dtype, 4e-5), ROUNDINGS * torch.finfo(got.dtype).eps)
    wrong = ~(off <= allowed)  # what is no number is wrong
    if wrong.sum().item() <= SHARE * wrong.numel():
        return None
    return f"off by {off.max().item():.2g}, allowed {allowed:.2g}"
