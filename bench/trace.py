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

    def body() -> object:
        kept = call(item)
        torch.cuda.synchronize()
        return kept

    torch.cuda.synchronize()
    events = _events(body, [ProfilerActivity.CPU, ProfilerActivity.CUDA])
    return sum(e.get("cat") in _ON_DEVICE for e in events)


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
