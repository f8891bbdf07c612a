"""The check: a variant is timed only after its outputs and gradients were found right.

Ours must be, element by element, what the formula makes in float64 of the very noise that the call
drew: the generator is set, the key that it gives is drawn, the generator is set again. Noise comes
from the package's specification. What is PyTorch's draws noise of its own, so it must agree in
distribution (Kolmogorov and Smirnov's test of two samples), and in what has no noise, as a KL.
What is held in float64 at any time is a slice of dim 0, of which at most MOST_SLICES are looked at,
evenly spread from the first to the last; sums are added up from all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.draws import of_key
from bench.ops import Op, Tensors

if TYPE_CHECKING:
    from bench.cases import OpCase
    from bench.variants import Variant

SEED = 22
# What noise may be off by, relative to an output's size, and roundings of the output's dtype: of
# ours, and of a sum that plain PyTorch adds up.
NOISE_ERROR = {torch.float64: 1e-10}
ROUNDINGS, RIVAL_ROUNDINGS = 4, 16
# Elements of a slice: in a CPU's cache, and enough to keep a GPU busy.
SLICE = {"cpu": 1 << 18, "cuda": 1 << 24}
MOST_SLICES = 64
# Elements of each sample of a two-sample test, and what sqrt(n m / (n + m)) D stays below but for
# one test in two million.
KS_SAMPLES, KS_LIMIT = 1 << 16, 2.75
# Where the noise decides between two classes that are nearly alike, either may be drawn.
FLIPPED, FLIPPED_SHARE = 3, 1e-5

Rows = tuple[int, int]


def verdict(case: OpCase, variant: Variant) -> str | None:
    """None when the variant's results are right, else one sentence: what is wrong.

    Raises:
        What the variant raises.
    """
    from fused_reparam import noise

    with variant.context():
        for _ in range(variant.warm_ups):
            _run(case, variant)
        torch.manual_seed(SEED + 1)
        again = _run(case, variant)[0][0].flatten()[: SLICE["cpu"]].clone()
        torch.manual_seed(SEED)
        key = noise.draw_key(case.device)
        torch.manual_seed(SEED)
        outputs, gradients = _run(case, variant)
    problem = _form(case, outputs)
    if problem:
        return problem
    if case.op.base is not None and torch.equal(outputs[0].flatten()[: len(again)], again):
        return "two calls drew the same noise"
    if variant.ours:
        return _sums(case, outputs, ROUNDINGS) or _exact(case, outputs, gradients, key)
    return _sums(case, outputs, RIVAL_ROUNDINGS) or _alike(case, outputs, gradients)


def _run(case: OpCase, variant: Variant) -> tuple[Tensors, Tensors]:
    """Outputs and gradients; copies, where a CUDA graph writes its next results over them."""

    def keep(tensors: Tensors) -> Tensors:
        return tuple(t.detach().clone() if variant.overwrites else t.detach() for t in tensors)

    outputs = variant.compute(*case.inputs)
    kept = keep(outputs)
    if not case.has_backward:
        return kept, ()
    return kept, keep(torch.autograd.grad(outputs, case.inputs, case.incoming(outputs)))


def _form(case: OpCase, outputs: Tensors) -> str | None:
    got, expected = (tuple(tuple(t.shape) for t in some) for some in (outputs, case.shapes))
    if got != expected:
        return f"outputs of shapes {got}, expected {expected}"
    # Of an op that has one, it is the first output; values such as a KL may be of a wider dtype.
    if outputs[0].ndim and outputs[0].dtype != case.torch_dtype:
        return f"a sample of {outputs[0].dtype}, expected {case.torch_dtype}"
    return None


def slices(case: OpCase, size: int) -> list[Rows]:
    """Rows of dim 0 that cut a latent into parts of about `size` elements."""
    count = case.shape[0]
    step = max(1, size * count // case.elements)
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def spread(parts: Sequence[Rows], most: int) -> list[Rows]:
    """At most so many of them, from the first to the last."""
    most = min(most, len(parts))
    chosen = {round(i * (len(parts) - 1) / max(most - 1, 1)) for i in range(most)}
    return [parts[i] for i in sorted(chosen)]


def _part(case: OpCase, tensor: Tensor, rows: Rows) -> Tensor:
    """What belongs to these rows: of several samples the part of each, of a sum all of it."""
    index = slice(*rows)
    if tensor.ndim > len(case.shape):
        return tensor[:, index]
    return tensor[index] if tensor.ndim else tensor


def _weight(case: OpCase, rows: Rows) -> float:
    """What a scalar output of these rows alone counts in that of all."""
    return (rows[1] - rows[0]) / case.shape[0] if case.op.mean else 1.0


def _noise(case: OpCase, rows: Rows, key: Tensor) -> Tensor | None:
    """The noise of these rows, as the op draws it in the order of memory."""
    op = case.op
    if op.base is None:
        return None
    shape = (rows[1] - rows[0], *case.shape[1:])
    count, inner = math.prod(shape), math.prod(case.shape[1:])
    samples = case.shapes[0].numel() // case.elements
    starts = [(sample * case.shape[0] + rows[0]) * inner for sample in range(samples)]
    made = [of_key(op.base, key, start, count, case.torch_dtype, case.device).view(shape)
            for start in starts]  # fmt: skip
    return made[0] if case.shapes[0].ndim == len(case.shape) else torch.stack(made)


def _truth(case: OpCase, rows: Rows, key: Tensor) -> tuple[Tensors, Tensors]:
    """Outputs and gradients in float64 of some rows alone; scalars are not those of all rows."""
    leaves = [_part(case, t.detach(), rows).double() for t in case.inputs]
    noise = _noise(case, rows, key)
    if not case.has_backward:
        return case.op.formula(noise, *leaves), ()
    leaves = [leaf.requires_grad_() for leaf in leaves]
    outputs = case.op.formula(noise, *leaves)
    incoming = [
        _part(case, grad, rows).double() * (1.0 if grad.ndim else _weight(case, rows))
        for grad in case.incoming(case.shapes)
    ]
    return outputs, torch.autograd.grad(outputs, leaves, incoming)


def _sums(case: OpCase, outputs: Tensors, roundings: int) -> str | None:
    """What is wrong with a scalar output, which no noise is in."""
    for name, (got, value) in enumerate(zip(outputs, case.scalars, strict=True)):
        if value is None:
            continue
        off = abs(got.item() - value) / abs(value)
        if not off <= _allowed(got.dtype, roundings):
            return f"output {name}: {got.item():.6g}, expected {value:.6g}"
    return None


def scalars(case: OpCase) -> list[float | None]:
    """The scalar outputs in float64; None for each other output."""
    totals: list[float | None] = [None if t.ndim else 0.0 for t in case.shapes]
    if not any(total == 0.0 for total in totals):
        return totals
    for rows in slices(case, SLICE[case.device.type]):
        inputs = [_part(case, t.detach(), rows).double() for t in case.inputs]
        # Any noise will do.
        noise = torch.zeros((), dtype=torch.float64, device=case.device)
        for i, output in enumerate(case.op.formula(noise, *inputs)):
            if totals[i] is not None:
                totals[i] += output.item() * _weight(case, rows)  # type: ignore[operator]
    return totals


def _allowed(dtype: torch.dtype, roundings: int) -> float:
    return NOISE_ERROR.get(dtype, 4e-5) + roundings * torch.finfo(dtype).eps / 2


def _named(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    """All that has elements."""
    found = {f"output {i}": t for i, t in enumerate(outputs) if t.ndim}
    return found | {f"gradient {i}": t for i, t in enumerate(gradients)}


def _exact(case: OpCase, outputs: Tensors, gradients: Tensors, key: Tensor) -> str | None:
    flipped = seen = 0
    for rows in spread(slices(case, SLICE[case.device.type]), MOST_SLICES):
        got = _named(*([_part(case, t, rows) for t in some] for some in (outputs, gradients)))
        truth = _named(*_truth(case, rows, key))
        for name, want in truth.items():
            one = got[name]
            # Of two infinities, where the dtype ends before float64 does, nothing is subtracted.
            off = torch.where(one == want.to(one.dtype), 0.0, (one.double() - want).abs())
            if case.op.hard and name == "output 0":
                if not (torch.equal(one, one.round()) and (one.sum(1) == 1).all()):
                    return f"{name}: not one class of each row"
                flipped += int((off.amax(1) > 0).sum())
                seen += off.numel() // off.shape[1]
                continue
            # Relative to the number itself, or to their usual size where it is smaller, which is no
            # mean where a few large numbers make it.
            size, roundings = want.abs(), ROUNDINGS
            mean, median = size.mean().item(), size.median().item()
            size = size.clamp_min(mean if case.op.classes else min(mean, 3 * median))
            if case.op.classes and name.startswith("gradient"):
                # y times a difference of two sums over the classes: y was rounded, and they cancel.
                largest = _part(case, case.incoming(case.shapes)[0], rows).abs().amax(1, True)
                size, roundings = torch.maximum(size, truth["output 0"] * largest), RIVAL_ROUNDINGS
            worst = torch.where(off == 0, 0.0, off / size).max().item()
            allowed = _allowed(one.dtype, roundings)
            if not worst <= allowed:
                return f"{name}: an element is off by {worst:.2g}, allowed {allowed:.2g}"
    if flipped > FLIPPED + FLIPPED_SHARE * seen:
        return f"output 0: {flipped} of {seen} classes differ"
    return None


def _alike(case: OpCase, outputs: Tensors, gradients: Tensors) -> str | None:
    for name, got in pooled(case, (outputs, gradients)).items():
        want = case.pooled[name]
        if not got.isfinite().all():
            return f"{name}: not finite"
        both = torch.cat([got, want])
        shares = [torch.searchsorted(one.sort().values, both, right=True) / len(one)
                  for one in (got, want)]  # fmt: skip
        distance = (shares[0] - shares[1]).abs().max().item() * math.sqrt(len(got) / 2)
        if not distance <= KS_LIMIT:
            return f"{name}: not distributed as it should be, sqrt(n / 2) D = {distance:.2f}"
    return None


def pooled(case: OpCase, tensors: tuple[Tensors, Tensors] | None = None) -> dict[str, Tensor]:
    """Some elements of all outputs and gradients; the truth's where no tensors are given."""
    from fused_reparam import noise

    parts = spread(slices(case, 1 << 11), MOST_SLICES // 2)
    key = noise.key(SEED, device=case.device)
    found: dict[str, list[Tensor]] = {}
    for rows in parts:
        if tensors is None:
            named = _named(*_truth(case, rows, key))
        else:
            named = _named(*([_part(case, t, rows) for t in some] for some in tensors))
        for name, tensor in named.items():
            flat = tensor.detach().flatten()
            if case.op.classes and tensor.ndim > 1:
                # Only one of a row: those beside it depend on it.
                by_class = tensor.detach().movedim(1, 0).flatten(1)
                row = torch.arange(by_class.shape[1], device=flat.device)
                flat = by_class[row * 7919 % len(by_class), row]
            every = max(1, len(flat) * len(parts) // KS_SAMPLES)
            # All in one dtype: a rounding moves much of a distribution to where it ends.
            found.setdefault(name, []).append(flat[::every].to(case.torch_dtype).double())
    return {name: torch.cat(some) for name, some in found.items()}


# --- training steps -------------------------------------------------------------------------------

Figures = dict[str, float]

LEAST, MOST = 8, 64
SECONDS = 5.0
# Standard errors, were there many draws, that a figure may be off by: a chance of 6e-7 for each.
SIGMAS = 5.0
# Part of a figure that rounding may change, convolutions with 11-bit factors (TF32) included.
ROUNDING = {"loss": 1e-3, "gradient": 1e-2}
# Draws with the same noise may differ by this part of eager's standard deviation: sums that a
# device adds up in another order each time.
SAME = 1e-3


def draws(
    compute: Callable[[], Tensor], parameters: dict[str, Tensor], direction: Sequence[Tensor]
) -> list[Figures]:
    """For each of several draws the loss, and each gradient's norm and its part in `direction`."""
    found: list[Figures] = []
    deadline = time.perf_counter() + SECONDS
    while len(found) < LEAST or (len(found) < MOST and time.perf_counter() < deadline):
        loss = compute()
        figures = {"loss": loss.item()}
        grads = torch.autograd.grad(loss, tuple(parameters.values()))
        for name, grad, along in zip(parameters, grads, direction, strict=True):
            flat, way = grad.detach().flatten(), along.flatten()
            figures[f"gradient {name}, its norm"] = flat.norm().item()
            figures[f"gradient {name}, its part"] = (flat @ way / way.norm()).item()
        found.append(figures)
    return found


def difference(expected: Sequence[Figures], got: Sequence[Figures]) -> str | None:
    """None where each draw is a new one, and the means agree within their statistical error."""
    allowed = {
        name: SAME * statistics.stdev(figures[name] for figures in expected) for name in expected[0]
    }
    for first, second in combinations(got, 2):
        if all(abs(first[name] - second[name]) <= allowed[name] for name in allowed):
            return "two calls drew the same noise"
    for name in expected[0]:
        a, b = ([figures[name] for figures in side] for side in (expected, got))
        if not all(map(math.isfinite, b)):
            return f"{name} is not finite"
        rounding = ROUNDING[name.split()[0]] * abs(statistics.fmean(a))
        error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
        most = rounding + student(SIGMAS, len(a) + len(b) - 2) * error
        off = statistics.fmean(b) - statistics.fmean(a)
        if not abs(off) <= most:
            return (
                f"{name}: mean {statistics.fmean(b):.6g}, eager's {statistics.fmean(a):.6g}, "
                f"off by {abs(off):.2g}, more than {most:.2g}"
            )
    return None


def student(z: float, freedom: int) -> float:
    """The quantile of Student's t that is as rare as `z` of a normal (Cornish and Fisher)."""
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def shapes_of(op: Op, inputs: Tensors) -> Tensors:
    """The outputs' shapes, as tensors without memory."""
    with torch.no_grad():
        return op.formula(op.like(*(t.to("meta") for t in inputs)), *(t.to("meta") for t in inputs))
