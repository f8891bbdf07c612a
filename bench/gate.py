"""The gate: a variant is timed only after its sample, KL and gradients were found right."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.ops.base import Expected, Op, Tensors
from bench.variants import Variant

# An element may be off by this many roundings of the terms it is made of.
ROUNDINGS = 16
# A factor common to all elements, such as 1.01, hides in the rounding of 16-bit elements but not
# in their projection on the expected ones, where roundings average out.
GAIN = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2**-8, torch.bfloat16: 2**-8}
KS_SAMPLES = 1 << 16
# Kolmogorov-Smirnov: sqrt(n) D beyond this has a probability of 7e-6.
KS_LIMIT = 2.5


def verdict(op: Op, variant: Variant, inputs: Tensors) -> str | None:
    """None when the variant's results are right, else one sentence: what is wrong."""
    try:
        with variant.context():
            first, second = (_run(op, variant, inputs) for _ in range(2))
    except Exception as error:  # whatever it dies of, the others are to be measured
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    outputs, incoming, gradients = first
    oracle = op.oracle(inputs, outputs, incoming)
    problem = _noise_problem(oracle.noise)
    if problem:
        return problem
    if torch.equal(outputs[0], second[0][0]):
        return "two calls drew the same noise"
    dtype = inputs[0].dtype
    for name, got in op.checked(outputs, gradients).items():
        problem = _value_problem(got, oracle.expected[name], dtype)
        if problem:
            return f"{name}: {problem}"
    return None


def _run(op: Op, variant: Variant, inputs: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    outputs = variant.compute(*inputs)
    # Clones, for a compiled form may write its next outputs over these.
    kept = tuple(t.detach().clone() for t in outputs)
    incoming = op.incoming(kept)
    gradients = torch.autograd.grad(outputs, inputs, incoming)
    return kept, incoming, tuple(t.clone() for t in gradients)


def _value_problem(got: Tensor, expected: Expected, dtype: torch.dtype) -> str | None:
    got = got.detach().double()
    if got.shape != expected.value.shape:
        return f"shape {tuple(got.shape)}, expected {tuple(expected.value.shape)}"
    unit = torch.finfo(dtype).eps / 2
    excess = ((got - expected.value).abs() / (ROUNDINGS * unit * expected.scale)).max().item()
    if not excess <= 1:  # NaN fails too
        return f"an element is off by {excess:.3g} times the tolerance"
    if got.ndim:
        square = (expected.value**2).sum()
        gain = ((got * expected.value).sum() / square).item()
        if not abs(gain - 1) <= GAIN[dtype]:
            return f"scaled by {gain:.6f}"
    return None


def _noise_problem(noise: Tensor) -> str | None:
    """Whether the noise is standard normal, by its moments and Kolmogorov-Smirnov's distance."""
    noise = noise.flatten()
    count = noise.numel()
    # Standard errors of the mean, and of the mean square, of `count` normals.
    mean = noise.mean().item() * math.sqrt(count)
    square = ((noise**2).mean().item() - 1) * math.sqrt(count / 2)
    if not max(abs(mean), abs(square)) <= 6:
        return f"noise: mean off by {mean:.1f} and mean square by {square:.1f} standard errors"
    some = noise[:KS_SAMPLES].sort().values
    steps = torch.arange(len(some) + 1, device=noise.device, dtype=noise.dtype) / len(some)
    uniform = torch.special.ndtr(some)
    distance = torch.maximum((uniform - steps[:-1]).max(), (steps[1:] - uniform).max())
    score = distance.item() * math.sqrt(len(some))
    return None if score <= KS_LIMIT else f"noise is not normal: KS sqrt(n) D = {score:.2f}"
