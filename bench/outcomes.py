"""Outcomes of tests, kept one by one, so that a run that is cut short has lost none.

As a pytest plugin, `python -m pytest -p bench.outcomes`, this writes a line of JSON for each test
to the file that BENCH_OUTCOMES names; `summary` reads it.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

VARIABLE = "BENCH_OUTCOMES"


def pytest_runtest_logreport(report: Any) -> None:
    # Set-up and tear-down say something only when a test did not get through them.
    if report.when == "call" or report.outcome != "passed":
        _write(report)


def pytest_collectreport(report: Any) -> None:
    if report.outcome != "passed":
        _write(report)


def _write(report: Any) -> None:
    # With xdist, reports of all workers come to the process that started them.
    if VARIABLE not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
        return
    line = {"name": report.nodeid, "outcome": report.outcome, "reason": _reason(report)}
    with Path(os.environ[VARIABLE]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _reason(report: Any) -> str:
    """Why a test was skipped, or the last line of what it failed with."""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longrepr or "").strip().splitlines()
    return (lines[0] if crash else lines[-1])[:300] if lines else ""


def summary(path: Path, shown: Mapping[str, str]) -> dict[str, Any]:
    """What a run's file says: how many passed, which failed and why, how many were skipped and why.

    Args:
        shown: patterns between bars; for each set, whether tests ran whose names match each of
            them, and all of these passed.
    """
    text = path.read_text() if path.exists() else ""
    # What follows the last line's end was cut while it was written.
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    outcomes = {line["name"]: line["outcome"] for line in lines}
    failed = {line["name"]: line["reason"] for line in lines if line["outcome"] == "failed"}
    # Of a test that passes and then fails in its tear-down, the last line counts.
    passed = [name for name in outcomes if outcomes[name] == "passed"]
    skips = Counter(line["reason"] for line in lines if line["outcome"] == "skipped")
    return {
        "passed": len(passed),
        "failed": failed,
        "skipped": dict(skips.most_common()),
        "shown": {what: _shown(pattern, passed, failed) for what, pattern in shown.items()},
    }


def _shown(patterns: str, passed: Sequence[str], failed: Iterable[str]) -> bool | None:
    """None where a test is lacking."""
    if any(re.search(patterns, name) for name in failed):
        return False
    found = [any(re.search(one, name) for name in passed) for one in patterns.split("|")]
    return all(found) or None
