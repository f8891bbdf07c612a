"""What those who show results ask of them: which rows belong together, and who is fastest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import files
from bench.limits import CACHED_BY
from bench.variants import REFERENCE

STEPS = "training_step"
BOTH = "forward+backward"
# What a GPU report keeps beside its results; not a result of the bench.
TESTS_FILE = "tests.json"
# More of them are not named in a picture's head.
MOST_COMMITS = 5
# What a result has at least.
PARTS = ("machine", "settings", "limits", "missing", "rows")

Row = dict[str, Any]
Result = dict[str, Any]


class Case(NamedTuple):
    """What rows must share to be rivals."""

    op: str
    dtype: str
    size: str
    work: str


class Band(NamedTuple):
    """A figure that medians make, and the range that the quartiles of their samples leave it."""

    value: float
    low: float
    high: float


def read(path: Path) -> Result:
    """A result from its JSON file.

    Raises:
        ValueError: there is no such file, or it is none of this bench's results; one sentence.
    """
    try:
        result = files.read(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        words = "expected a result of python -m bench, found no JSON"
        raise ValueError(f"{path}: {words} ({error})") from None
    lacking = [name for name in PARTS if name not in result]
    if lacking:
        words = "expected a result of python -m bench, found none of its"
        raise ValueError(f"{path}: {words} {', '.join(lacking)}")
    return result


def load(folder: Path) -> list[Result]:
    """The results in a machine's folder, by file name.

    Raises:
        ValueError: a JSON file in it is none of this bench's results.
    """
    paths = sorted(path for path in folder.glob("*.json") if path.name != TESTS_FILE)
    return [read(path) for path in paths]


def digest(results: Iterable[Result]) -> str:
    """Tells whether a picture was made from these results."""
    texts = sorted(json.dumps(result, sort_keys=True) for result in results)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def rows_of(results: Iterable[Result]) -> list[Row]:
    """All rows; without the machine's limit where the noise was not timed by itself."""
    unknown = {"of_limit": None, "noise_s": None}
    return [
        row if _noise_was_timed(result, row["dtype"]) else row | unknown
        for result in results
        for row in result["rows"]
    ]


def _noise_was_timed(result: Result, dtype: str) -> bool:
    """Only the CPU's library makes noise that stays in the caches; elsewhere it is written out, and
    its time is another one of memory."""
    return CACHED_BY in result["limits"].get("normal_ns", {}).get(dtype, {})


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
    """The fastest timed row of ours; the specification's only where it is all that there is."""
    ours = [row for row in rows if row["ours"]]
    fused = [row for row in ours if backend_of(row) != REFERENCE]
    timed = [row for row in fused or ours if row["status"] == "ok"]
    return min(timed, key=lambda row: row["median_s"], default=None)


def backend_of(row: Row) -> str:
    """Of a row of ours: `native` of `native, compiled model`."""
    return str(row["variant"]).split(",")[0]


def times_faster(own: Row | None, rival: Row | None) -> Band | None:
    if own is None or rival is None:
        return None
    pairs = (("median_s", "median_s"), ("low_s", "high_s"), ("high_s", "low_s"))
    return Band(*(float(rival[theirs] / own[ours]) for theirs, ours in pairs))


def most_work(rows: Sequence[Row]) -> str:
    """Forward and backward where an op has both, else all that it has."""
    works = [row["work"] for row in rows]
    return BOTH if BOTH in works else works[-1]


def machine_words(machine: dict[str, Any]) -> str:
    """Device, versions, commit and day, in one line."""
    return f"{where_words(machine)}; commit {machine['commit']}, {str(machine['time'])[:10]}"


def where_words(machine: dict[str, Any]) -> str:
    """Device and versions."""
    words = machine["device"]
    if machine["device_type"] == "cpu":
        words += f", {thread_words(machine['threads'])}, {machine['simd']}"
        words += ", freed memory kept" if machine.get("keeps_freed_memory") else ""
    elif machine.get("driver"):
        words += f", driver {machine['driver']}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{words}; {versions}"


def thread_words(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def commit_words(results: Iterable[Result]) -> str:
    """The commits and days that results are of."""
    machines = [result["machine"] for result in results]
    commits = sorted({str(machine["commit"]) for machine in machines})
    days = sorted({str(machine["time"])[:10] for machine in machines})
    words = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"
    return ", ".join([words if len(commits) <= MOST_COMMITS else "several commits", *days])
