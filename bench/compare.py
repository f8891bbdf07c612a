"""What changed between two results."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from bench.report import duration, print_table, without_blanks
from bench.rows import rows_of

COLUMNS = ("variant", "before", "after", "faster", "vs eager", "saved", "peak", "kernels",
           "graph kernels", "host", "graph", "of copy", "of limit", "")  # fmt: skip

# The figures of a row, and how each is written. Of bytes all digits: a difference is to be seen.
ALWAYS: dict[str, Callable[[Any], str]] = {
    "vs_eager": "{:.2f}x".format,
    "saved_bytes": "{:,}".format,
    "peak_bytes": "{:,}".format,
    "kernels": str,
}
# Those of which only changes are shown.
CHANGED: dict[str, Callable[[Any], str]] = {
    "graph_kernels": str,
    "host_s": duration,
    "graph_s": duration,
    "of_copy": "{:.0%}".format,
    "of_limit": "{:.0%}".format,
}
# Peak memory grows by so much before it counts: allocators round.
NOISE = 1.01


def print_comparison(before: dict[str, Any], after: dict[str, Any]) -> None:
    """A table of both results' rows, with a word on each that differs beyond its spread.

    Raises:
        ValueError: they are of two ops.
    """
    ops = [result["settings"]["op"] for result in (before, after)]
    if ops[0] != ops[1]:
        raise ValueError(f"expected two results of one op, got {ops[0]} and {ops[1]}")
    for name, old, new in zip(_facts(before), *(_facts(r).values() for r in (before, after)),
                              strict=True):  # fmt: skip
        print(f"{name}: {old}" if old == new else f"{name}: {old} -> {new}")
    lines: list[list[str]] = []
    for case, same in groupby(comparison(before, after), lambda line: line[0]):
        lines.append([case])
        lines += [["  " + line[1], *line[2:]] for line in same]
    print_table("before and after", *without_blanks(COLUMNS, lines))


def _facts(result: dict[str, Any]) -> dict[str, Any]:
    """What must be alike, or times can't be compared."""
    about = result["machine"]
    facts = {name: about[name] for name in ("device", "threads", "commit", "time", "versions")}
    facts["freed memory"] = "kept" if about.get("keeps_freed_memory") else "given back"
    facts["effort"] = "quick" if result["settings"].get("quick") else "thorough"
    return facts


def comparison(before: dict[str, Any], after: dict[str, Any]) -> list[list[str]]:
    """Case, then the cells of COLUMNS; in the order of `after`, then what only `before` has."""
    old = {_key(row): row for row in rows_of([before])}
    lines = [_line(old.pop(_key(row), None), row) for row in rows_of([after])]
    return lines + [_line(row, None) for row in old.values()]


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("op", "dtype", "shape", "work", "variant"))


def _line(old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[str]:
    row = new or old
    assert row is not None
    head = [f"{row['dtype']} {row['size']} {row['work']}", row["variant"]]
    times = [_time(row) for row in (old, new)]
    if old is None or new is None or not old["status"] == new["status"] == "ok":
        word = "" if times[0] == times[1] else "changed"
        return [*head, *times, *[""] * (len(COLUMNS) - 4), word]
    faster = old["median_s"] / new["median_s"]
    word = ""
    if new["high_s"] < old["low_s"]:
        word = "faster"
    elif new["low_s"] > old["high_s"]:
        word = "SLOWER"
    if _grown(old, new, "saved_bytes", 1.0) or _grown(old, new, "peak_bytes", NOISE):
        word = f"{word} MORE MEMORY".strip()
    if _grown(old, new, "kernels", 1.0) or _grown(old, new, "graph_kernels", 1.0):
        word = f"{word} MORE KERNELS".strip()
    shown = [_arrow([_text(r, name, text) for r in (old, new)]) for name, text in ALWAYS.items()]
    changes = [[_text(r, name, text) for r in (old, new)] for name, text in CHANGED.items()]
    shown += [_arrow(pair) if pair[0] != pair[1] else "" for pair in changes]
    return [*head, *times, f"{faster:.2f}x", *shown, word]


def _text(row: dict[str, Any], name: str, text: Callable[[Any], str]) -> str:
    return "" if row.get(name) is None else text(row[name])


def _grown(old: dict[str, Any], new: dict[str, Any], name: str, by: float) -> bool:
    pair = old.get(name), new.get(name)
    return None not in pair and pair[1] > by * pair[0]


def _time(row: dict[str, Any] | None) -> str:
    if row is None:
        return "absent"
    return duration(row["median_s"]) if row["status"] == "ok" else row["status"]


def _arrow(pair: list[str]) -> str:
    return pair[0] if pair[0] == pair[1] else " -> ".join(text or "none" for text in pair)
