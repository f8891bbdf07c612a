"""What changed between two results."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from bench.report import duration, print_table

COLUMNS = ("variant", "before", "after", "faster", "vs eager", "saved", "peak", "kernels", "")

# Peak memory grows by so much before it counts: allocators round.
NOISE = 1.01


def print_comparison(before: dict[str, Any], after: dict[str, Any]) -> None:
    """A table of both results' rows, with a word on each that differs beyond its spread."""
    for name in ("device", "threads", "commit", "time", "versions"):
        old, new = before["machine"][name], after["machine"][name]
        print(f"{name}: {old}" if old == new else f"{name}: {old} -> {new}")
    lines: list[list[str]] = []
    for case, same in groupby(comparison(before, after), lambda line: line[0]):
        lines.append([case])
        lines += [["  " + line[1], *line[2:]] for line in same]
    print_table("before and after", COLUMNS, lines)


def comparison(before: dict[str, Any], after: dict[str, Any]) -> list[list[str]]:
    """Case, then the cells of COLUMNS; in the order of `after`, then what only `before` has."""
    old = {_key(row): row for row in before["rows"]}
    lines = [_line(old.pop(_key(row), None), row) for row in after["rows"]]
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
        return [*head, *times, *[""] * 5, word]
    faster = old["median_s"] / new["median_s"]
    eager = ["" if r["vs_eager"] is None else f"{r['vs_eager']:.2f}x" for r in (old, new)]
    word = ""
    if new["high_s"] < old["low_s"]:
        word = "faster"
    elif new["low_s"] > old["high_s"]:
        word = "SLOWER"
    if _grown(old, new, "saved_bytes", 1.0) or _grown(old, new, "peak_bytes", NOISE):
        word = f"{word} MORE MEMORY".strip()
    if _grown(old, new, "kernels", 1.0):
        word = f"{word} MORE KERNELS".strip()
    saved, peak = ([_bytes(r[name]) for r in (old, new)] for name in ("saved_bytes", "peak_bytes"))
    kernels = ["" if r["kernels"] is None else str(r["kernels"]) for r in (old, new)]
    changes = [_arrow(pair) for pair in (eager, saved, peak, kernels)]
    return [*head, *times, f"{faster:.2f}x", *changes, word]


def _grown(old: dict[str, Any], new: dict[str, Any], name: str, by: float) -> bool:
    pair = old[name], new[name]
    return None not in pair and pair[1] > by * pair[0]


def _bytes(count: int | None) -> str:
    """All digits: a difference is to be seen."""
    return "" if count is None else f"{count:,}"


def _time(row: dict[str, Any] | None) -> str:
    if row is None:
        return "absent"
    return duration(row["median_s"]) if row["status"] == "ok" else row["status"]


def _arrow(pair: list[str]) -> str:
    return pair[0] if pair[0] == pair[1] else " -> ".join(pair)
