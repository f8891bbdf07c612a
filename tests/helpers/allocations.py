"""How much memory a call takes."""

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
