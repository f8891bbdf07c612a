"""Sizes as a user writes them: `128x20`, `1M`, `16M`, `1e9`."""

from __future__ import annotations

import math
import re

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
        shape = _matrix(int(float(match[1]) * _UNITS[match[2]]))
    if math.prod(shape) == 0:
        raise ValueError(f"size {text!r} has no elements")
    return shape


def _matrix(count: int) -> tuple[int, int]:
    rows = math.isqrt(count)
    while count % max(rows, 1):
        rows -= 1
    return max(rows, 1), count // max(rows, 1)
