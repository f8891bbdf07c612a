"""Result files, which of their rows belong together, and who is fastest among them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import folder_name
from bench.ops import BOTH
from bench.variants import COMPILE, REFERENCE

FORMAT = 2
LATENT, STEPS, CALLS = "gaussian_latent", "training_step", "calls"
# What a GPU report keeps beside its results; not a result of the bench.
TESTS_FILE = "tests.json"
# What a result has at least.
PARTS = ("machine", "settings", "limits", "missing", "rows")
# More of them are not named in a picture's head.
MOST_COMMITS = 5
# A machine was not steady when of this share of the rows the quartiles are further apart than that.
SHARE, FAR = 0.25, 0.25

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


# --- files ----------------------------------------------------------------------------------------


def write(result: Result, folder: Path) -> list[Path]:
    """Writes `<folder>/<machine>/<op>.json` and `.csv`; returns their paths."""
    target = folder / folder_name(result["machine"])
    target.mkdir(parents=True, exist_ok=True)
    paths = [target / f"{result['settings']['op']}.{ending}" for ending in ("json", "csv")]
    replace(paths[0], json.dumps(result, indent=1) + "\n")
    about = result["machine"]
    versions = " ".join(f"{name} {version}" for name, version in about["versions"].items())
    where = {name: about[name] for name in ("device", "cpu", "commit", "time")}
    lines = [row | where | {"versions": versions} for row in result["rows"]]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(k for line in lines for k in line)))
    writer.writeheader()
    writer.writerows(lines)
    replace(paths[1], text.getvalue())
    return paths


def replace(path: Path, text: str) -> None:
    """Puts `text` into the file at once: whoever dies here leaves the old file, or the new one."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, newline="")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path) -> Result:
    """A result from its JSON file.

    Raises:
        ValueError: there is no such file, or it is none of this bench's results; one sentence.
    """
    expected = f"{path}: expected a result of python -m bench"
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{expected}, found no JSON ({error})") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise ValueError(f"{expected}, format {FORMAT}")
    lacking = [name for name in PARTS if name not in result]
    if lacking:
        raise ValueError(f"{expected}, found none of its {', '.join(lacking)}")
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


def check_alike(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Raises a ValueError where the results of two machines can't stand side by side."""
    for name in ("device", "threads", "keeps_freed_memory", "versions", "commit"):
        one, other = first.get(name), second.get(name)
        if one != other:
            raise ValueError(f"results of one {name} can be merged, got {one!r} and {other!r}")


def merged(first: Result, second: Result) -> Result:
    """Both results' rows as one; where both have one, the last that was timed.

    A size that `second` has in another shape (a quick run's models are smaller) is that one only.
    Machine and limits are the first's: ratios within a row are to what was measured beside it.

    Raises:
        ValueError: they are not of one op, machine, commit and set of versions.
    """
    check_alike(first["machine"], second["machine"])
    ops = [result["settings"]["op"] for result in (first, second)]
    if ops[0] != ops[1]:
        raise ValueError(f"results of one op can be merged, got {ops[0]} and {ops[1]}")
    shapes = {row["size"]: row["shape"] for row in second["rows"]}
    kept = [r for r in first["rows"] if shapes.get(r["size"], r["shape"]) == r["shape"]]
    rows: dict[tuple[str, ...], Row] = {}
    for row in (*kept, *second["rows"]):
        key = (*case_of(row), row["variant"])
        if row["status"] == "ok" or rows.get(key, row)["status"] != "ok":
            rows[key] = row
    dtypes, works = (
        list(dict.fromkeys(r[name] for r in rows.values())) for name in ("dtype", "work")
    )
    ordered = sorted(rows.values(), key=lambda r: (dtypes.index(r["dtype"]), r["elements"]))
    sizes = list(dict.fromkeys(r["size"] for r in sorted(ordered, key=lambda r: r["elements"])))
    settings = first["settings"] | {"dtypes": dtypes, "works": works, "sizes": sizes}
    complete = all(result.get("complete", True) for result in (first, second))
    made = {"rows": ordered, "settings": settings, "complete": complete}
    return first | made | {"warnings": warnings(ordered)}


def spread(row: Row) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    return float((row["high_s"] - row["low_s"]) / 2 / row["median_s"])


def warnings(rows: Sequence[Row]) -> list[str]:
    """Whether the machine was steady: one that is busy otherwise yields absurd ratios."""
    timed = [row for row in rows if row["status"] == "ok"]
    far = [row for row in timed if spread(row) > FAR]
    if not far or len(far) < SHARE * len(timed):
        return []
    return [
        f"the machine was not steady: {len(far)} of {len(timed)} times have a spread of more than "
        f"±{FAR:.0%}"
    ]


# --- rows that belong together --------------------------------------------------------------------


def case_of(row: Row) -> Case:
    return Case(*(row[name] for name in Case._fields))


def rows_of(results: Iterable[Result]) -> list[Row]:
    return [row for result in results for row in result["rows"]]


@dataclass(frozen=True)
class Rivals:
    """The rows of one case; None stands for one that was not timed."""

    case: Case
    rows: list[Row]
    device_type: str

    def _fastest(self, rows: Iterable[Row]) -> Row | None:
        timed = [row for row in rows if row["status"] == "ok"]
        return min(timed, key=lambda row: row["median_s"], default=None)

    def named(self, variant: str) -> Row | None:
        return self._fastest(row for row in self.rows if row["variant"] == variant)

    @property
    def compiled(self) -> Row | None:
        """The fastest of torch.compile's modes: `torch.compile reduce-overhead`."""
        return self._fastest(
            row for row in self.rows if not row["ours"] and row["variant"].startswith(COMPILE)
        )

    def _best(self, in_compiled_model: bool) -> Row | None:
        """Our fastest; the specification's only where it is all that there is."""
        ours = [r for r in self.rows if r["ours"]
                and r["variant"].endswith("compiled model") == in_compiled_model]  # fmt: skip
        fused = [row for row in ours if backend_of(row) != REFERENCE]
        return self._fastest(fused or ours)

    @cached_property
    def own(self) -> Row | None:
        return self._best(in_compiled_model=False)

    @cached_property
    def own_compiled(self) -> Row | None:
        return self._best(in_compiled_model=True)

    @property
    def elements(self) -> int:
        return int(self.rows[0]["elements"])


def rivals(results: Iterable[Result]) -> list[Rivals]:
    """The cases of all results but those of small calls, in the order of their rows."""
    found: dict[Case, Rivals] = {}
    for result in results:
        if result["settings"]["op"] != CALLS:
            for row in rows_of([result]):
                one = Rivals(case_of(row), [], result["machine"]["device_type"])
                found.setdefault(one.case, one).rows.append(row)
    return list(found.values())


def most_work(found: Sequence[Rivals]) -> list[Rivals]:
    """Of each op the cases of forward and backward where it has both, else of all that it has."""
    works: dict[str, str] = {}
    for one in found:
        if works.get(one.case.op) != BOTH:
            works[one.case.op] = one.case.work
    return [one for one in found if one.case.work == works[one.case.op]]


def largest(found: Iterable[Rivals]) -> list[Rivals]:
    """Of each op, dtype and work that at the largest size."""
    by_kind = {(one.case.op, one.case.dtype, one.case.work): one
               for one in sorted(found, key=lambda one: one.elements)}  # fmt: skip
    return [one for one in found if one in by_kind.values()]


def backend_of(row: Row) -> str:
    """Of a row of ours: `native` of `native, compiled model`."""
    return str(row["variant"]).split(",")[0]


def times_faster(own: Row | None, rival: Row | None) -> Band | None:
    if own is None or rival is None:
        return None
    pairs = (("median_s", "median_s"), ("low_s", "high_s"), ("high_s", "low_s"))
    return Band(*(float(rival[theirs] / own[ours]) for theirs, ours in pairs))


# --- words ----------------------------------------------------------------------------------------


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
