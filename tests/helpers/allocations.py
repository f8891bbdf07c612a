"""How much memory a call takes."""

import itertools

import torch
from torch.profiler import ProfilerActivity, profile


def allocated(device, call):
    """Bytes that a call allocates, whether it frees them or not."""
    if device.type == "cuda":
        before = torch.cuda.memory_stats()["allocated_bytes.all.allocated"]
        call()
        return torch.cuda.memory_stats()["allocated_bytes.all.allocated"] - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    return sum(max(e.self_cpu_memory_usage, 0) for e in found.events())


def peak(call):
    """Bytes of PyTorch's on the CPU that a call adds at most to those that are there before it."""
    return max(itertools.accumulate(_changes(call)[1], initial=0))


def held(call):
    """What a call returns, and the bytes of PyTorch's on the CPU that it leaves allocated."""
    result, changes = _changes(call)
    return result, sum(changes)


def _changes(call):
    """What a call returns, and the bytes that it allocates and frees (below 0), in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        result = call()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    return result, [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
