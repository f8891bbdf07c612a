"""Result files: JSON with everything, CSV with one line for each row, for a spreadsheet."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from bench.machine import folder_name
from bench.measure import FORMAT

Result = dict[str, Any]


def write(result: Result, folder: Path) -> list[Path]:
    """Writes `<folder>/<machine>/<op>.json` and `.csv`; returns their paths."""
    target = folder / folder_name(result["machine"])
    target.mkdir(parents=True, exist_ok=True)
    paths = [target / f"{result['settings']['op']}.{ending}" for ending in ("json", "csv")]
    paths[0].write_text(json.dumps(result, indent=1) + "\n")
    with paths[1].open("w", newline="") as file:
        lines = _lines(result)
        writer = csv.DictWriter(file, list(dict.fromkeys(k for line in lines for k in line)))
        writer.writeheader()
        writer.writerows(lines)
    return paths


def read(path: Path) -> Result:
    """A result from its JSON file."""
    result = json.loads(path.read_text())
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a result of python -m bench, format {FORMAT}")
    return result


def _lines(result: Result) -> list[dict[str, object]]:
    machine = result["machine"]
    versions = " ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = {"device": machine["device"], "cpu": machine["cpu"], "versions": versions}
    where |= {"commit": machine["commit"], "time": machine["time"]}
    return [row | where for row in result["rows"]]
