"""Memory of large results on the CPU, which is kept for the next ones.

The extension does that (``kernels/torch/memory.h``). Where there is none, results get their memory
as all other tensors do, and nothing is kept. ``docs/memory.md`` has the rules.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

ENVIRONMENT_VARIABLE = "FUSED_REPARAM_KEPT_MEMORY"
# What may be kept where nobody has said it: one part in so many of the machine's memory.
_PART = 4
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# A container's limit, in the two versions of control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def empty_cache() -> None:
    """Give the memory of large results that is kept, and not in use, back to the system.

    Results of 1 MB and more on the CPU get their memory from freed ones before them; see
    :func:`memory_stats` for how much is kept, and ``docs/memory.md`` for how long. Nothing that is
    in use moves. Of a GPU's memory, ``torch.cuda.empty_cache`` does the same.

    Example:
        >>> import torch, fused_reparam
        >>> mu = torch.zeros(1024, 1024)
        >>> z = fused_reparam.gaussian_rsample(mu, mu)
        >>> del z
        >>> fused_reparam.empty_cache()
        >>> fused_reparam.memory_stats()["kept_bytes"]
        0
    """
    if _module is not None:
        _module.empty_cache()


def memory_stats() -> dict[str, int]:
    """How much memory large results take on the CPU, and how much is kept for the next ones.

    Returns:
        By name, for this process, the bytes in units of 2 MB:

        - ``bound_bytes``: what may be kept at most; 0 where nothing is ever kept (the environment
          says so, or the package's extension is not loaded, as before the first call);
        - ``in_use_bytes``: of results that are alive;
        - ``kept_bytes``: of freed ones, kept for the next;
        - ``recent_peak_bytes``: the most that was in use at once in the last 10 to 20 seconds. What
          is in use and what is kept are together not more than this;
        - ``results``, ``reused``: how many results of 1 MB and more there were, and how many of
          them got memory that was kept.

    Example:
        >>> import torch, fused_reparam
        >>> mu = torch.zeros(1024, 1024)
        >>> z = fused_reparam.gaussian_rsample(mu, mu)  # 4 MB
        >>> sorted(fused_reparam.memory_stats())  # doctest: +NORMALIZE_WHITESPACE
        ['bound_bytes', 'in_use_bytes', 'kept_bytes', 'recent_peak_bytes', 'results', 'reused']
    """
    names = (
        "bound_bytes", "in_use_bytes", "kept_bytes", "recent_peak_bytes", "results", "reused"
    )  # fmt: skip
    values = (0,) * len(names) if _module is None else _module.memory_stats()
    return dict(zip(names, values, strict=True))


def _asked() -> int | None:
    """The bytes that the environment asks for."""
    text = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if found is None:
        raise ValueError(
            f"the environment variable {ENVIRONMENT_VARIABLE} must be a number of bytes, such as "
            f"0, 512M or 2G, got {text!r}"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _of_machine() -> int:
    """A part of the memory that this process may have at all."""
    limits = []
    with contextlib.suppress(ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        with contextlib.suppress(ValueError, OSError):  # "max", or no such file
            limits.append(int(Path(path).read_text()))
    with contextlib.suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            limits.append(limit)
    return min(limits, default=0) // _PART


_asked_for = _asked()
_module: Any = None


def start(module: Any) -> None:
    """Have the extension keep memory, once it is loaded."""
    global _module
    module.bound_cache(_of_machine() if _asked_for is None else _asked_for)
    _module = module
