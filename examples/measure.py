"""Two measurements for the examples: time of things run in turns, and bytes that autograd keeps."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable

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
