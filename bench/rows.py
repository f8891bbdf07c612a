"""What those who show results ask of them: which rows belong together, and who is fastest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import files

STEPS = "training_step"
BOTH = "forward+backward"
# What a GPU report keeps beside its results; not a result of the bench.
TESTS_FILE = "tests.json"

Row = dict[str, Any]
Result = dict[str, Any]


class Case(NamedTuple):
    """What rows must share to be rivals."""

    op: str
    dtype: str
    size: str
    work: str


def load(folder: Path) -> list[Result]:
    """The results in a machine's folder, by file name.

    Raises:
        ValueError: a JSON file in it is none of this bench's results.
    """
    paths = sorted(path for path in folder.glob("*.json") if path.name != TESTS_FILE)
    return [files.read(path) for path in paths]


def digest(results: Iterable[Result]) -> str:
    """Tells whether a picture was made from these results."""
    texts = sorted(json.dumps(result, sort_keys=True) for result in results)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def rows_of(results: Iterable[Result]) -> list[Row]:
    return [row for result in results for row in result["rows"]]


def cases(rows: Iterable[Row]) -> dict[Case, list[Row]]:
    """The rows of each case, in the order in which cases first come up."""
    found: dict[Case, list[Row]] = {}
    for row in rows:
        found.setdefault(Case(*(row[name] for name in Case._fields)), []).append(row)
    return found


def named(rows: Iterable[Row], variant: str) -> Row | None:
    """The timed row of a variant."""
    return next((r for r in rows if r["variant"] == variant and r["status"] == "ok"), None)


def fastest(rows: Iterable[Row], rival: str) -> Row | None:
    """The fastest timed row of a variant in any of its modes: `torch.compile reduce-overhead`."""
    timed = [
        row
        for row in rows
        if row["status"] == "ok" and not row["ours"] and row["variant"].startswith(rival)
    ]
    return min(timed, key=lambda row: row["median_s"], default=None)


def best(rows: Iterable[Row]) -> Row | None:
    """The fastest timed row of ours."""
    timed = [row for row in rows if row["status"] == "ok" and row["ours"]]
    return min(timed, key=lambda row: row["median_s"], default=None)


def times_faster(own: Row | None, rival: Row | None) -> float | None:
    if own is None or rival is None:
        return None
    return float(rival["median_s"] / own["median_s"])


def most_work(rows: Sequence[Row]) -> str:
    """Forward and backward where an op has both, else all that it has."""
    works = [row["work"] for row in rows]
    return BOTH if BOTH in works else works[-1]


def machine_words(machine: dict[str, Any]) -> str:
    """Device, versions, commit and day, in one line."""
    words = machine["device"]
    if machine["device_type"] == "cpu":
        words += f", {machine['threads']} threads, {machine['simd']}"
        words += ", freed memory kept" if machine.get("keeps_freed_memory") else ""
    elif machine.get("driver"):
        words += f", driver {machine['driver']}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{words}; {versions}; commit {machine['commit']}, {str(machine['time'])[:10]}"
