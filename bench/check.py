"""The gate: what is ours is timed only after the package's self-test found it right.

A backend's outputs and gradients of the very call must be those of the reference. That the
reference is the formula that ours is compared with in time, the bench's tests show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fused_reparam import selftest

Outputs = Sequence[Tensor]
Gradients = Sequence[Tensor | None]
SEED = 22


def problem(
    backend: str,
    ours: Callable[..., Outputs],
    inputs: Sequence[Tensor],
    incoming: Callable[[Outputs], Gradients] | None,
) -> str | None:
    """What is wrong with ours as a backend computes it, in a few words; None where all is right.

    Args:
        incoming: makes the gradient that arrives at each output, if one does; None: no backward.
    """

    def results() -> Outputs:
        torch.manual_seed(SEED)  # whoever computes it draws the same key
        outputs = ours(*inputs)
        if incoming is None:
            return outputs
        found = gradients(outputs, inputs, incoming(outputs))
        return (*outputs, *(one for one in found if one is not None))

    return selftest.difference(results, backend, inputs[0].dtype)


def gradients(outputs: Outputs, inputs: Sequence[Tensor], arriving: Gradients) -> Gradients:
    """Those of the inputs, with gradients in the dtypes of the outputs that they arrive at."""
    kept = [(o, g.to(o.dtype)) for o, g in zip(outputs, arriving, strict=True) if g is not None]
    reached, given = zip(*kept, strict=True)
    return torch.autograd.grad(reached, leaves(inputs), given, allow_unused=True)


def leaves(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Those that ask for a gradient."""
    return [t for t in inputs if t.requires_grad]
