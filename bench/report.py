"""The terminal: tables of 80 columns, or as wide as they are, and what is going on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from bench.results import CALLS, Result, Row, spread, where_words
from bench.variants import EAGER

WIDTH = 80
LEGEND = """\
time         median of interleaved samples; spread: half of what lies between
             their quartiles
forward      with the graph recorded, as in training
GB/s         for the bytes that the op must read and write
of copy      against a plain copy of as many bytes, measured in the same rounds
of limit     against the larger of that plain copy and making the noise alone,
             measured likewise; blank where that is not timed: on a GPU, and
             without the CPU's compiled library
vs ...       times faster
saved        kept for the backward pass beyond the inputs (MB = 1e6 bytes)
peak         most memory in use during the call beyond what was before it, with
             results; the compiled library's own scratch memory is not seen"""
DEVICE_LEGEND = """\
time         of the device; the caches are empty and the host is ahead
host         time of the host for one call, the device idle"""


def size(count: int) -> str:
    """Bytes in three figures and a unit of a power of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{_figures(count / scale)} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """Three figures and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{_figures(seconds / scale)} {unit}"
    return f"{_figures(seconds * 1e9)} ns"


def _figures(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def band(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f}-{high:.2f})"


def given(name: str, text: Callable[[Any], str]) -> Callable[[Row], str]:
    """A figure as text; blank where there is none."""
    return lambda row: "" if row.get(name) is None else text(row[name])


# What is left out first where a table is too wide stands last.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "variant": lambda row: f"  {row['variant']}",
    "time": given("median_s", duration),
    "spread": lambda row: f"±{spread(row):.0%}",
    "vs eager": lambda row: (
        "" if row["variant"] == EAGER else given("vs_eager", "{:.2f}x".format)(row)
    ),
    "vs compile": given("vs_compile", "{:.2f}x".format),
    "saved": given("saved_bytes", size),
    "of copy": given("of_copy", "{:.0%}".format),
    "host": given("host_s", duration),
    "of limit": given("of_limit", "{:.0%}".format),
    "peak": given("peak_bytes", size),
    "ns/elem": given("ns_per_element", "{:.2f}".format),
    "GB/s": given("gb_per_s", "{:.1f}".format),
}


def print_result(result: Result, wide: bool = False) -> None:
    """Everything measured, one table for each dtype and size."""
    machine, op = result["machine"], result["settings"]["op"]
    print("\n".join(where_words(machine).split("; ")))
    print(f"commit {machine['commit']}, {machine['time']}")
    print(f"copy {result['limits']['copy_gb_per_s']:.1f} GB/s")
    for missing in result["missing"]:
        print(f"not here: {missing['name']}: {missing['reason']}")
    if op == CALLS:
        _print_calls(result["rows"])
    else:
        _print_cases(op, result["rows"], wide)
    _print_reasons(result["rows"])
    if not result.get("complete", True):
        print("NOT ALL: the run ended before it had measured all that it was to")


def print_results(found: Sequence[Result], wide: bool = False) -> None:
    """All of them, and once what the columns say."""
    for result in found:
        print_result(result, wide)
    if any(result["settings"]["op"] != CALLS for result in found):
        print(f"\n{LEGEND}")
    if any(result["machine"]["device_type"] == "cuda" for result in found):
        print(DEVICE_LEGEND)


def _print_cases(op: str, found: Sequence[Row], wide: bool) -> None:
    for (dtype, name, shape), rows in groupby(found, lambda r: (r["dtype"], r["size"], r["shape"])):
        lines: list[list[str]] = []
        for work, same in groupby(rows, lambda r: str(r["work"])):
            lines += [[work], *map(_cells, same)]
        title = f"{op}, {dtype}, {shape}" + ("" if name == shape else f" ({name})")
        print_table(title, list(COLUMNS), lines, wide)


def _cells(row: Row) -> list[str]:
    if row["status"] != "ok":
        return [f"  {row['variant']}", row["status"].upper()]
    return [text(row) for text in COLUMNS.values()]


def _print_calls(found: Sequence[Row]) -> None:
    """For each variant and size its calls, the worst first; `!` flags what is above its bound."""
    for (variant, size), rows in groupby(found, lambda r: (r["variant"], r["size"])):
        every = list(rows)
        timed = sorted((r for r in every if r["status"] == "ok"), key=lambda r: -r["ratio"])
        lines = [[f"{'!' if r['ratio'] > r['most'] else ' '} {r['work']}", duration(r["median_s"]),
                  duration(r["formula_s"]), band(r["ratio"], r["low_ratio"], r["high_ratio"]),
                  f"{r['most']:g}"] for r in timed]  # fmt: skip
        title = f"{size}: ours ({variant}) and the formula in PyTorch, one thread"
        print_table(title, ("call", "ours", "formula", "ours / formula", "at most"), lines)
        kept = sum(row["ratio"] <= row["most"] for row in timed)
        print(f"{kept} of {len(every)} calls within their bound")


def _print_reasons(rows: Sequence[Row]) -> None:
    """Each reason for a missing time once, then those for missing figures."""
    words = {"failed": "NOT TIMED, for its result is wrong", "skipped": "skipped"}
    reasons: dict[str, None] = {}
    for row in rows:
        where = f"{row['variant']}, {row['dtype']}, {row['size']}"
        where += f", {row['work']}" if row["op"] == CALLS else ""
        if row["status"] != "ok":
            reasons[f"{words[row['status']]}: {where}: {row['reason']}"] = None
        for name in row:
            if name.endswith("_reason"):
                what = name.removesuffix("_reason")
                reasons[f"no {what}: {where}, {row['work']}: {row[name]}"] = None
    print("\n".join(reasons), end="\n" if reasons else "")


def print_table(
    title: str, columns: Sequence[str], lines: Sequence[Sequence[str]], wide: bool = False
) -> None:
    """A table, figures to the right, without columns in which no line says anything.

    A line of a single cell heads a section. Unless it may be wide, columns are left out from the
    end on until it fits.
    """
    rows = [[*line, *[""] * (len(columns) - len(line))] for line in lines]
    full = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    widths = {i: max(len(row[i]) for row in [columns, *rows]) for i in full}
    shown = full
    while not wide and len(shown) > 2 and sum(widths[i] + 2 for i in shown) - 2 > WIDTH:
        shown = shown[:-1]
    print(f"\n{title}" + (f" (--wide shows {len(full) - len(shown)} more columns)"
                          if shown != full else ""))  # fmt: skip
    for row in ([*columns], ["-" * widths.get(i, 0) for i in range(len(columns))], *rows):
        texts = [f"{row[i]:{'>' if i else '<'}{widths[i]}}" for i in shown]
        print("  ".join(texts).rstrip())


def say(words: str) -> None:
    """What is going on, on the error stream."""
    print(words, file=sys.stderr, flush=True)
