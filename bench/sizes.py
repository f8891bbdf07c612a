"""Sizes as a user writes them: `128x20`, `1M`, `16M`, `1e9`."""

from __future__ import annotations

import math
import re

# Elements: more than a computer holds, and few enough to be factored in seconds.
MOST = 1 << 50
_UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def shape_of(text: str) -> tuple[int, ...]:
    """The shape that a size names. A count, in powers of 1024, becomes a nearly square matrix."""
    if re.fullmatch(r"\d+(x\d+)+", text):
        shape = tuple(int(part) for part in text.split("x"))
    else:
        match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kMG]?)", text)
        if not match:
            raise ValueError(
                f"size {text!r}: expected a shape such as 128x20 or a count such as 16M"
            )
        shape = (int(min(float(match[1]) * _UNITS[match[2]], 2.0 * MOST)),)
    if not 0 < math.prod(shape) <= MOST:
        raise ValueError(f"size {text!r}: expected 1 to {MOST:,} elements")
    return shape if len(shape) > 1 else _matrix(*shape)


def _matrix(count: int) -> tuple[int, int]:
    rows = math.isqrt(count)
    while count % max(rows, 1):
        rows -= 1
    return max(rows, 1), count // max(rows, 1)
