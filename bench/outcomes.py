"""How tests ended: a plugin of pytest that writes it down as each ends, and what is made of that.

So a run that is cut short has lost none.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

FILE = "BENCH_OUTCOMES"
"""The environment variable that names the file."""


def pytest_runtest_logreport(report: Any) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ and (report.when == "call" or not report.passed):
        _keep(report)


def pytest_collectreport(report: Any) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ and report.failed:
        _keep(report)


def _keep(report: Any) -> None:
    told = report.longrepr
    crash = getattr(told, "reprcrash", None)
    why = told[2] if isinstance(told, tuple) else crash.message if crash else str(told or "")
    first = (why.strip().splitlines() or [""])[0]
    with open(os.environ[FILE], "a") as file:
        file.write(json.dumps([report.nodeid, report.outcome, first]) + "\n")


def read(path: Path) -> tuple[int, dict[str, str], dict[str, int]]:
    """How many passed, which failed and why, and how many were skipped for each reason."""
    lines = path.read_text().splitlines() if path.exists() else []
    ended = [json.loads(line) for line in lines if line.endswith("]")]
    failed = {name: why for name, outcome, why in ended if outcome == "failed"}
    # One that passed may fail in its tear-down.
    passed = {name for name, outcome, _ in ended if outcome == "passed"} - failed.keys()
    skipped = Counter(why for _, outcome, why in ended if outcome == "skipped")
    return len(passed), failed, dict(skipped.most_common())
