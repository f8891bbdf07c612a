"""Whether the machine was steady: one that is busy with something else yields absurd ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A machine was not steady when of this share of the rows the quartiles are further apart than that.
SHARE, FAR = 0.25, 0.25


def spread(row: dict[str, Any]) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    return float((row["high_s"] - row["low_s"]) / 2 / row["median_s"])


def warnings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What is to be said of a result's rows, a sentence each."""
    # Small calls have the spread of their ratios, not of their times.
    timed = [row for row in rows if row["status"] == "ok" and "low_s" in row]
    far = [row for row in timed if spread(row) > FAR]
    if not far or len(far) < SHARE * len(timed):
        return []
    return [
        f"the machine was not steady: {len(far)} of {len(timed)} times have a spread of more than "
        f"±{FAR:.0%}"
    ]
