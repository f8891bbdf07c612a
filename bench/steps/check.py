"""Whether two variants train the same model: loss and gradients agree over several draws."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

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


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(g.detach() for g in torch.autograd.grad(loss, parameters))


def draws(
    compute: Callable[[], Tensor], parameters: dict[str, Tensor], direction: Sequence[Tensor]
) -> list[Figures]:
    """For each of several draws the loss, and each gradient's norm and its part in `direction`."""
    found: list[Figures] = []
    deadline = time.perf_counter() + SECONDS
    while len(found) < LEAST or (len(found) < MOST and time.perf_counter() < deadline):
        loss = compute()
        figures = {"loss": loss.item()}
        grads = gradients(loss, tuple(parameters.values()))
        for name, grad, along in zip(parameters, grads, direction, strict=True):
            flat, way = grad.flatten(), along.flatten()
            figures[f"gradient {name}, its norm"] = flat.norm().item()
            figures[f"gradient {name}, its part"] = (flat @ way / way.norm()).item()
        found.append(figures)
    return found


def repeated(expected: Sequence[Figures], got: Sequence[Figures]) -> str | None:
    """None where each draw is a new one, else a sentence."""
    allowed = {
        name: SAME * statistics.stdev(figures[name] for figures in expected) for name in expected[0]
    }
    for first, second in combinations(got, 2):
        if all(abs(first[name] - second[name]) <= allowed[name] for name in allowed):
            return "two calls drew the same noise"
    return None


def difference(expected: Sequence[Figures], got: Sequence[Figures]) -> str | None:
    """None where the means agree within their statistical error, else a sentence."""
    for name in expected[0]:
        a, b = ([figures[name] for figures in side] for side in (expected, got))
        if not all(map(math.isfinite, b)):
            return f"{name} is not finite"
        rounding = ROUNDING[name.split()[0]] * abs(statistics.fmean(a))
        error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
        allowed = rounding + student(SIGMAS, len(a) + len(b) - 2) * error
        off = statistics.fmean(b) - statistics.fmean(a)
        if not abs(off) <= allowed:
            return (
                f"{name}: mean {statistics.fmean(b):.6g}, eager's {statistics.fmean(a):.6g}, "
                f"off by {abs(off):.2g}, more than {allowed:.2g}"
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
