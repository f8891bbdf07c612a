"""Measurements for the examples: time of things run in turns, and bytes that autograd keeps."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.progress import track
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Times = dict[str, list[float]]


def times_in_turns(calls: dict[str, Callable[[], object]], rounds: Iterable[int]) -> Times:
    """Seconds of each call, once a round, in turns: so all of them meet the same busy machine."""
    times: Times = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for turn in rounds:
            names = list(calls) if turn % 2 else list(reversed(calls))
            for name in names:
                start = time.perf_counter()
                calls[name]()
                times[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return times


def timed(calls: dict[str, Callable[[], object]], rounds: int, what: str) -> Times:
    """The same after a warm-up, with a progress bar."""
    times_in_turns(calls, range(min(rounds, 20)))
    return times_in_turns(calls, track(range(rounds), f"timing the {what}", transient=True))


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """The median, and half the distance between the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (high - low) / 2


def bytes_saved(function: Callable[..., object], *inputs: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of `function`, beyond its inputs."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function(*inputs)
    del result
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    return sum(size for pointer, size in kept.items() if pointer not in given)


@dataclass(frozen=True)
class Measured:
    """Of a latent: median and spread in seconds of a training step and of itself, bytes kept."""

    step: tuple[float, float]
    latent: tuple[float, float]
    saved: int


def measured(
    steps: dict[str, Callable[[], object]],
    alone: dict[str, Callable[[], object]],
    saved: dict[str, int],
    rounds: int,
) -> dict[str, Measured]:
    """Training steps of the variants in turns; then the latent alone, forward and backward."""
    step_times = timed(steps, rounds, "training step")
    times = timed(alone, rounds, "latent alone")
    return {
        name: Measured(median_and_spread(step_times[name]), median_and_spread(times[name]), count)
        for name, count in saved.items()
    }
