"""What a single call shows: its host time, what the profiler saw of it, and its CUDA graph."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before the profiler's library is loaded: it would chat on stderr.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.timing import Contestant, CudaClock

WARM_UPS, REPLAYS = 3, 10
HOST_CALLS, HOST_SECONDS = 50, 0.3
Event = dict[str, Any]
_CALL = "bench: the call"
_ON_DEVICE = ("kernel", "gpu_memset", "gpu_memcpy")
_CALLS = ("cuda_runtime", "cuda_driver")


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


def allocations(contestant: Contestant) -> list[int]:
    """Bytes of host memory that one call takes (positive) and gives back, one after the other.

    The preparation is watched too: what was taken unseen would be given back unseen.
    """

    def body() -> object:
        [item] = contestant.prepare(1)
        with record_function(_CALL):
            return contestant.call(item)

    events = _events(body, [ProfilerActivity.CPU])
    [start] = [float(e["ts"]) for e in events if e.get("name") == _CALL and e.get("ph") == "X"]
    found = [e for e in events if e.get("name") == "[memory]" and float(e["ts"]) >= start]
    return [e["args"]["Bytes"] for e in found if e["args"]["Device Type"] == 0]


def kernels(contestant: Contestant, device: torch.device) -> int:
    """Kernels, fills and copies that one call gives to the device."""
    with contestant.context(), torch.cuda.device(device):
        [item] = contestant.prepare(1)
        return kernels_of(lambda: contestant.call(item))


def graph(contestant: Contestant, clock: CudaClock) -> dict[str, Any]:
    """Device time of one replay of a CUDA graph of the call, and kernels in it.

    Raises:
        RuntimeError: the call waits for the device, or can't be captured.
    """
    with contestant.context(), torch.cuda.device(clock.device):
        before = torch.cuda.current_stream()
        # Autograd runs a backward pass on the stream of its forward pass: all is on one stream.
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(before)
        try:
            with torch.cuda.stream(stream):
                for item in contestant.prepare(WARM_UPS):
                    contestant.call(item)
                _refuse_waiting(contestant)
                [item] = contestant.prepare(1)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                # Alive until the last replay, as is what a backward pass gives back.
                outputs = contestant.call(item)
        finally:
            # A capture that fails leaves its stream behind as the current one.
            torch.cuda.set_stream(before)
        samples = [clock.seconds(lambda _: graph.replay(), range(1)) for _ in range(REPLAYS)]
        row: dict[str, Any] = {"graph_s": statistics.median(samples)}
        try:
            row["graph_kernels"] = kernels_of(graph.replay, in_graph=True)
        except RuntimeError as error:  # profilers fail where clocks don't; the time is kept
            row["graph_kernels_reason"] = str(error)
        del outputs
        return row


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


def kernels_of(call: Callable[[], object], in_graph: bool = False) -> int:
    """Things that the device is given to do: kernels, and fills and copies of memory.

    Args:
        in_graph: the call replays a CUDA graph; what it does besides is not counted.

    Raises:
        RuntimeError: there were none.
    """

    def body() -> object:
        kept = call()
        torch.cuda.synchronize()
        return kept

    torch.cuda.synchronize()
    events = _events(body, [ProfilerActivity.CPU, ProfilerActivity.CUDA])
    found = [e for e in events if e.get("cat") in _ON_DEVICE]
    if in_graph:
        # Before it launches a graph, a replay fills in the generator's seed and offset. The call
        # that was captured may fill memory too, so names tell nothing; but what is in a graph
        # shares the graph's launch, and has no launch of its own.
        alone = {_launch(e) for e in events if e.get("cat") in _CALLS and "LaunchKern" in e["name"]}
        found = [e for e in found if _launch(e) not in alone - {None}]
    if not found:
        raise RuntimeError("the profiler saw nothing run on the device")
    return len(found)


def _launch(event: Event) -> int | None:
    """The number that a launch and all that it launched have in common."""
    number: int | None = event.get("args", {}).get("correlation")
    return number


def _events(body: Callable[[], object], activities: list[ProfilerActivity]) -> list[Event]:
    """The trace events of `body()`, in the order of time."""
    with profile(activities=activities, profile_memory=True) as profiler:
        kept = body()
    del kept
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[Event] = json.loads(path.read_text())["traceEvents"]
    return sorted((e for e in events if "ts" in e), key=lambda e: float(e["ts"]))
