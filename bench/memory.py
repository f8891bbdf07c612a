"""Memory: what autograd keeps, the highest amount in use during a call, and what is free."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bench import profiles
from bench.ops import Compute, Tensors
from bench.timing import Contestant

# Part of the free memory that an estimate may take.
USABLE = 0.9


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
            return max(accumulate(profiles.allocations(contestant), initial=0))
        [item] = contestant.prepare(1)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = contestant.call(item)
        torch.cuda.synchronize(device)
        del kept
        return torch.cuda.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """Memory that new tensors can have."""
    if device.type == "cuda":
        # What the caching allocator holds and nobody uses is free too.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return min(_system_free(), _cgroup_free())


def too_little(need: int, device: torch.device) -> str | None:
    """None where `need` bytes can be had, else a sentence."""
    free = free_bytes(device)
    if need <= USABLE * free:
        return None
    return f"needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _system_free() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        [line] = [line for line in lines if line.startswith("MemAvailable:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return 1 << 62  # unknown: the allocator will tell


def _cgroup_free() -> int:
    """What a container may still use; files in memory that are not in use count as free."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = int((root / "memory.max").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return limit - int((root / "memory.current").read_text()) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 1 << 62
