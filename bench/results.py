"""Result files: what is in them, and what a machine is called."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.machine import folder_name

FORMAT = 2
LATENT, STEPS, CALLS = "gaussian_latent", "training_step", "calls"
# What a result has at least.
PARTS = {"machine", "settings", "limits", "missing", "rows"}
# What rows must share to be rivals.
CASE = ["op", "dtype", "size", "work"]

Row = dict[str, Any]
Result = dict[str, Any]


def path_of(result: Result, folder: Path) -> Path:
    """`<folder>/<machine>/<op>.json`."""
    return folder / folder_name(result["machine"]) / f"{result['settings']['op']}.json"


def write(result: Result, folder: Path) -> list[Path]:
    """Writes a result's JSON and a table of its rows, `.csv`; returns their paths."""
    path = path_of(result, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path, path.with_suffix(".csv")]
    replace(paths[0], json.dumps(result, indent=1) + "\n")
    about = result["machine"]
    where = {name: about[name] for name in ("device", "cpu", "commit", "time")}
    where["versions"] = " ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [row | where for row in result["rows"]]
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
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected a result of python -m bench, got {error}") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT or not result.keys() >= PARTS:
        wanted = f"format {FORMAT} with {', '.join(sorted(PARTS))}"
        raise ValueError(f"{path}: expected a result of python -m bench, {wanted}")
    return result


def load(*paths: Path) -> list[Result]:
    """Result files, and those in folders by their names.

    Raises:
        ValueError: there is none, or a JSON file is none of this bench's results.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.json")) or [path])]
    found = [read(file) for file in files if not file.is_dir()]
    if not found:
        raise ValueError(f"no result of python -m bench in {', '.join(map(str, paths))}")
    return found


def digest(results: Iterable[Result]) -> str:
    """Tells whether a picture was made from these results."""
    texts = sorted(json.dumps(result, sort_keys=True) for result in results)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def merged(first: Result, second: Result) -> Result:
    """Both results' rows of one op as one; where both have one, the last that was timed.

    A size that `second` has in another shape (a quick run's models are smaller) is that one only.
    Machine and limits are the first's: ratios within a row are to what was measured beside it.
    """
    shapes = {row["size"]: row["shape"] for row in second["rows"]}
    kept = [r for r in first["rows"] if shapes.get(r["size"], r["shape"]) == r["shape"]]
    rows: dict[tuple[str, ...], Row] = {}
    for row in (*kept, *second["rows"]):
        key = (*(row[name] for name in CASE), row["variant"])
        if row["status"] == "ok" or rows.get(key, row)["status"] != "ok":
            rows[key] = row
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows.values()))
    ordered = sorted(rows.values(), key=lambda r: (dtypes.index(r["dtype"]), r["elements"]))
    complete = all(result.get("complete", True) for result in (first, second))
    sizes = list(dict.fromkeys(row["size"] for row in ordered))
    made = {"rows": ordered, "settings": first["settings"] | {"dtypes": dtypes, "sizes": sizes}}
    return first | made | {"complete": complete}


def spread(row: Row) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    return float((row["high_s"] - row["low_s"]) / 2 / row["median_s"])


# --- words ----------------------------------------------------------------------------------------


def machine_words(machine: dict[str, Any]) -> str:
    """Device, versions, commit and day, in one line."""
    return f"{where_words(machine)}; commit {machine['commit']}, {str(machine['time'])[:10]}"


def where_words(machine: dict[str, Any]) -> str:
    """Device and versions."""
    words = machine["device"]
    if machine["device_type"] == "cpu":
        words += f", {thread_words(machine['threads'])}, {machine['simd']}"
    elif machine.get("driver"):
        words += f", driver {machine['driver']}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{words}; {versions}"


def thread_words(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
