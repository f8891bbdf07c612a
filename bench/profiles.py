"""What a single call shows: the bytes that it keeps and takes, and its host's time."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

# Before the profiler's library is loaded: it would chat on stderr.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile, record_function

from bench.ops import Compute, Tensors
from bench.timing import Contestant

HOST_CALLS, HOST_SECONDS = 50, 0.3
_CALL = "bench: the call"


def saved_bytes(compute: Compute, inputs: Tensors) -> int:
    """Bytes that the graph of `compute(*inputs)` keeps alive beyond the inputs themselves.

    Counted by storage: a view costs what it is a view of, and nothing is counted twice.
    """
    # The tensors are held until the count is done, or a freed address could come up again.
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = compute(*inputs)
    known = {t.untyped_storage().data_ptr() for t in inputs}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    del outputs
    return sum(size for pointer, size in sizes.items() if pointer not in known)


def peak_bytes(contestant: Contestant, device: torch.device) -> int:
    """The most memory in use during one call, above what was in use before it; results count."""
    with contestant.context():
        if device.type == "cpu":
            return max(accumulate(_allocations(contestant), initial=0))
        [item] = contestant.prepare(1)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = contestant.call(item)
        torch.cuda.synchronize(device)
        del kept
        return torch.cuda.max_memory_allocated(device) - before


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


def _allocations(contestant: Contestant) -> list[int]:
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


def _events(body: Callable[[], object], activities: list[ProfilerActivity]) -> list[dict[str, Any]]:
    """The trace events of `body()`, in the order of time."""
    with profile(activities=activities, profile_memory=True) as profiler:
        kept = body()
    del kept
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return sorted((e for e in events if "ts" in e), key=lambda e: float(e["ts"]))
