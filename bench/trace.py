"""What PyTorch's profiler saw of one call: every allocation, every kernel."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before the profiler's library is loaded: it would chat on stderr.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.timing import Contestant

Event = dict[str, Any]
_CALL = "bench: the call"
_ON_DEVICE = ("kernel", "gpu_memset", "gpu_memcpy")
_CALLS = ("cuda_runtime", "cuda_driver")


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


def kernels(call: Callable[[Any], object], item: Any) -> int:
    """Things that the device is given to do: kernels, and fills and copies of memory."""
    return sum(e.get("cat") in _ON_DEVICE for e in _device_events(call, item))


def kernels_in_graph(replay: Callable[[Any], object]) -> int:
    """As `kernels`, of a CUDA graph: what its replay does besides is not counted."""
    events = _device_events(replay, None)
    # Before it launches a graph, a replay fills in the generator's seed and offset. The call that
    # was captured may fill memory too, so names tell nothing; but what is in a graph shares the
    # graph's launch, and has no launch of its own.
    alone = {_launch(e) for e in events if e.get("cat") in _CALLS and "LaunchKernel" in e["name"]}
    return sum(e.get("cat") in _ON_DEVICE and _launch(e) not in alone - {None} for e in events)


def _launch(event: Event) -> int | None:
    """The number that a launch and all that it launched have in common."""
    number: int | None = event.get("args", {}).get("correlation")
    return number


def _device_events(call: Callable[[Any], object], item: Any) -> list[Event]:
    def body() -> object:
        kept = call(item)
        torch.cuda.synchronize()
        return kept

    torch.cuda.synchronize()
    return _events(body, [ProfilerActivity.CPU, ProfilerActivity.CUDA])


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
