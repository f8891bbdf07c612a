"""Whether what is to be measured fits into memory."""

from __future__ import annotations

from pathlib import Path

import torch

# Part of the free memory that an estimate may take.
USABLE = 0.9


def free_bytes(device: torch.device) -> int:
    """Memory that new tensors can have, of the system and of a container."""
    if device.type == "cuda":
        # What the caching allocator holds and nobody uses is free too.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    free, root = [1 << 62], Path("/sys/fs/cgroup")  # unknown: the allocator will tell
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(facts["MemAvailable"].split()[0]) * 1024)
        # Files in memory that are not in use count as free.
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        used = int((root / "memory.current").read_text()) - int(stat["inactive_file"])
        free.append(int((root / "memory.max").read_text()) - used)
    except (OSError, ValueError, KeyError):
        pass
    return min(free)


def too_little(need: int, device: torch.device) -> str | None:
    """None where `need` bytes can be had, else a sentence."""
    free = free_bytes(device)
    if need <= USABLE * free:
        return None
    return f"needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"


def is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
