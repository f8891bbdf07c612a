"""Result files: JSON with everything, CSV with one line for each row, for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from bench import steadiness
from bench.machine import folder_name
from bench.measure import FORMAT

Result = dict[str, Any]


def write(result: Result, folder: Path) -> list[Path]:
    """Writes `<folder>/<machine>/<op>.json` and `.csv`; returns their paths."""
    target = folder / folder_name(result["machine"])
    target.mkdir(parents=True, exist_ok=True)
    paths = [target / f"{result['settings']['op']}.{ending}" for ending in ("json", "csv")]
    replace(paths[0], json.dumps(result, indent=1) + "\n")
    replace(paths[1], _csv(result))
    return paths


def replace(path: Path, text: str) -> None:
    """Puts `text` into the file at once: whoever dies here leaves the old file, or the new one."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, newline="")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


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
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in (*kept, *second["rows"]):
        if row["status"] == "ok" or rows.get(_key(row), row)["status"] != "ok":
            rows[_key(row)] = row
    dtypes, sizes, works = (
        list(dict.fromkeys(row[name] for row in rows.values()))
        for name in ("dtype", "size", "work")
    )
    elements = {row["size"]: row["elements"] for row in rows.values()}
    ordered = sorted(rows.values(), key=lambda r: (dtypes.index(r["dtype"]), elements[r["size"]]))
    settings = first["settings"] | {"dtypes": dtypes, "works": works}
    settings["sizes"] = sorted(sizes, key=elements.__getitem__)
    made = first | {"rows": ordered, "settings": settings}
    made["complete"] = all(result.get("complete", True) for result in (first, second))
    return made | {"warnings": steadiness.warnings(ordered)}


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("dtype", "size", "work", "variant"))


def read(path: Path) -> Result:
    """A result from its JSON file."""
    result = json.loads(path.read_text())
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a result of python -m bench, format {FORMAT}")
    return result


def _csv(result: Result) -> str:
    text, lines = io.StringIO(newline=""), _lines(result)
    writer = csv.DictWriter(text, list(dict.fromkeys(k for line in lines for k in line)))
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(result: Result) -> list[dict[str, object]]:
    machine = result["machine"]
    versions = " ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = {"device": machine["device"], "cpu": machine["cpu"], "versions": versions}
    where |= {"commit": machine["commit"], "time": machine["time"]}
    return [row | where for row in result["rows"]]
