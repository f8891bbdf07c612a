"""What a call costs on a CUDA device besides its time: launches, host time, and in a CUDA graph."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bench import trace
from bench.timing import Contestant, CudaClock

WARM_UPS = 3
REPLAYS = 10
HOST_CALLS, HOST_SECONDS = 50, 0.3


def kernels(contestant: Contestant, device: torch.device) -> int:
    """Kernels, fills and copies that one call gives to the device."""
    with contestant.context(), torch.cuda.device(device):
        [item] = contestant.prepare(1)
        return _seen(trace.kernels(contestant.call, item))


def _seen(count: int) -> int:
    if not count:
        raise RuntimeError("the profiler saw nothing run on the device")
    return count


def host_seconds(contestant: Contestant, device: torch.device) -> float:
    """Median time of the host in one call, the device idle and not waited for."""
    samples: list[float] = []
    with contestant.context(), torch.cuda.device(device):
        deadline = time.perf_counter() + HOST_SECONDS
        while len(samples) < 5 or (len(samples) < HOST_CALLS and time.perf_counter() < deadline):
            [item] = contestant.prepare(1)
            torch.cuda.synchronize()
            start = time.perf_counter()
            kept = contestant.call(item)
            samples.append(time.perf_counter() - start)
            torch.cuda.synchronize()
            del kept
    return statistics.median(samples)


Replay = Callable[[Any], object]


@contextmanager
def captured(contestant: Contestant, device: torch.device) -> Iterator[Replay]:
    """What replays a CUDA graph of one call.

    Raises:
        RuntimeError: the call waits for the device, or can't be captured.
    """
    with contestant.context(), torch.cuda.device(device):
        before = torch.cuda.current_stream()
        try:
            graph, kept = _captured(contestant)
        finally:
            # A capture that fails leaves its stream behind as the current one.
            torch.cuda.set_stream(before)

        def replay(_: object) -> None:
            graph.replay()

        try:
            replay(None)
            torch.cuda.synchronize()
            yield replay
        finally:
            del kept
            graph.reset()


def replay_seconds(replay: Replay, clock: CudaClock) -> float:
    """Median device time of one replay."""
    return statistics.median(clock.seconds(replay, range(1)) for _ in range(REPLAYS))


def replay_kernels(replay: Replay) -> int:
    """Kernels, fills and copies in the graph that is replayed."""
    return _seen(trace.kernels_in_graph(replay))


def _captured(contestant: Contestant) -> tuple[torch.cuda.CUDAGraph, object]:
    """A graph of one call, and what must stay alive while it is replayed."""
    # Autograd runs a backward pass on the stream of its forward pass: all is done on one stream.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            contestant.call(contestant.prepare(1)[0])
        _refuse_waiting(contestant)
        [item] = contestant.prepare(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        # A backward pass gives back what its graph kept. Nobody takes new memory of this stream
        # until the last replay, so replays find it as it was.
        outputs = contestant.call(item)
    return graph, (item, outputs)


def _refuse_waiting(contestant: Contestant) -> None:
    """Raises where the call waits for the device: capturing it would fail and leave a mess."""
    # An item of its own: a backward pass can't have its graph a second time.
    [item] = contestant.prepare(1)
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, that this mode does not see everything
        torch.cuda.set_sync_debug_mode("error")
        try:
            contestant.call(item)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
