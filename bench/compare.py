"""What changed between two results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.report import duration, print_table
from bench.results import CASE, Result, Row

# The figures of a row, and how each is written. Of bytes all digits: a difference is to be seen.
FIGURES: dict[str, Callable[[Any], str]] = {
    "vs_eager": "{:.2f}x".format,
    "saved_bytes": "{:,}".format,
    "peak_bytes": "{:,}".format,
    "kernels": str,
    "graph_kernels": str,
    "host_s": duration,
    "graph_s": duration,
    "of_copy": "{:.0%}".format,
    "of_limit": "{:.0%}".format,
}
# Those that are shown where they did not change, too.
ALWAYS = ("vs_eager", "saved_bytes", "peak_bytes", "kernels")
COLUMNS = ("variant", "before", "after", "faster", "", "vs eager", "saved", "peak", "kernels",
           "graph kernels", "host", "graph", "of copy", "of limit")  # fmt: skip
# What grew by more than that share is told. Peak memory: allocators round.
MORE = {"MEMORY": {"saved_bytes": 1.0, "peak_bytes": 1.01},
        "KERNELS": {"kernels": 1.0, "graph_kernels": 1.0}}  # fmt: skip


def print_comparison(before: Result, after: Result, wide: bool = False) -> None:
    """A table of both results' rows, with a word on each that differs beyond its spread.

    Raises:
        ValueError: they are of two ops.
    """
    ops = [result["settings"]["op"] for result in (before, after)]
    if ops[0] != ops[1]:
        raise ValueError(f"expected two results of one op, got {ops[0]} and {ops[1]}")
    for (name, old), new in zip(_facts(before).items(), _facts(after).values(), strict=True):
        print(f"{name}: {old}" if old == new else f"{name}: {old} -> {new}")
    sides = [{tuple(row[name] for name in (*CASE, "variant")): row for row in result["rows"]}
             for result in (before, after)]  # fmt: skip
    lines: list[list[str]] = []
    heading = None
    for key in sides[0] | sides[1]:
        case = " ".join(key[1:4])
        lines += [[case]] if case != heading else []
        lines.append([f"  {key[4]}", *_cells(*(side.get(key) for side in sides))])
        heading = case
    print_table("before and after", COLUMNS, lines, wide)


def _facts(result: Result) -> dict[str, Any]:
    """What must be alike, or times can't be compared."""
    about = result["machine"]
    facts = {name: about[name] for name in ("device", "threads", "commit", "time", "versions")}
    facts["freed memory"] = "kept" if about.get("keeps_freed_memory") else "given back"
    facts["effort"] = "quick" if result["settings"].get("quick") else "thorough"
    return facts


def _cells(old: Row | None, new: Row | None) -> list[str]:
    times = ["absent" if one is None else duration(one["median_s"]) if one["status"] == "ok"
             else one["status"] for one in (old, new)]  # fmt: skip
    if old is None or new is None or not old["status"] == new["status"] == "ok":
        return [*times, "", "" if times[0] == times[1] else "changed"]
    words = ["faster"] if new["high_s"] < old["low_s"] else []
    words += ["SLOWER"] if new["low_s"] > old["high_s"] else []
    words += [f"MORE {what}" for what, names in MORE.items()
              if any(None not in (old.get(n), new.get(n)) and new[n] > by * old[n]
                     for n, by in names.items())]  # fmt: skip
    cells = []
    for name, text in FIGURES.items():
        pair = ["" if one.get(name) is None else text(one[name]) for one in (old, new)]
        alike = pair[0] if name in ALWAYS else ""
        cells.append(alike if pair[0] == pair[1] else " -> ".join(one or "none" for one in pair))
    return [*times, f"{old['median_s'] / new['median_s']:.2f}x", " ".join(words), *cells]
