"""What becomes of freed memory, which decides what new memory costs on a CPU."""

from __future__ import annotations

import ctypes

# Of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_kept = False


def keep_freed_memory() -> None:
    """Let the process keep what it frees, as allocators with caches do.

    glibc gives large blocks back to the system, so that each page of the next one is cleared on its
    first use: by default a copy into new memory takes several times as long as one into old.

    Raises:
        OSError: the C library has no such setting.
    """
    global _kept
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        raise OSError("this C library has no mallopt: --keep-memory is for glibc") from None
    largest = (1 << 31) - 1
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: largest}
    if not all(mallopt(name, value) for name, value in settings.items()):
        raise OSError("the C library refused to keep freed memory")
    _kept = True


def kept() -> bool:
    """Whether `keep_freed_memory` was called."""
    return _kept
