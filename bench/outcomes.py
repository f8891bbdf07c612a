"""How tests ended, from what pytest says of each: a run that is cut short has lost none."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from bench import targets

# As `pytest -v` says it of each test, with and without workers, and `-ra` at the end with a reason.
OUTCOME = re.compile(
    r"^(?:\[gw\d+\] (?:\[ *\d+%\] )?)?(?:(?P<first>PASSED|FAILED|ERROR) "
    r"(?P<name>[^\s\[]+(?:\[.*?\](?= - |\s*$))?)(?: - (?P<why>.*))?\s*"
    r"|(?P<test>\S+::.+?) (?P<last>PASSED|FAILED|ERROR)\b.*)$", re.MULTILINE
)  # fmt: skip
SKIPS = re.compile(r"^SKIPPED \[(\d+)\] \S+: (.*)$", re.MULTILINE)


def read(said: str) -> dict[str, Any]:
    """How many tests passed, which failed and why, and how many were skipped for each reason.

    And `shown`: of each of `targets.TESTED` whether tests of all its names ran, and all passed.
    """
    words: dict[str, str] = {}
    failed: dict[str, str] = {}
    for one in OUTCOME.finditer(said):
        name = one["name"] or one["test"]
        words[name] = one["first"] or one["last"]  # the last counts: it may fail in its tear-down
        if words[name] != "PASSED":
            failed[name] = one["why"] or failed.get(name, "")
    skipped: Counter[str] = Counter()
    for count, reason in SKIPS.findall(said):
        skipped[reason] += int(count)
    passed = [name for name, word in words.items() if word == "PASSED"]

    def shown(patterns: str) -> bool | None:
        if any(re.search(patterns, name) for name in failed):
            return False
        some = [any(re.search(one, name) for name in passed) for one in patterns.split("|")]
        return all(some) or None

    return {
        "passed": len(passed),
        "failed": failed,
        "skipped": dict(skipped.most_common()),
        "shown": {what: shown(patterns) for what, patterns in targets.TESTED.items()},
    }
