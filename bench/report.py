"""The terminal: tables and a progress bar, through rich where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from bench import calls
from bench.calls import CALLS
from bench.rows import rows_of, where_words
from bench.steadiness import spread
from bench.variants import EAGER

try:
    import rich.box
    import rich.console
    import rich.progress
    import rich.table
except ImportError:
    HAVE_RICH = False
else:
    HAVE_RICH = True

COLUMNS = ("variant", "time", "spread", "ns/elem", "GB/s", "of copy", "of fresh", "of limit",
           "vs eager", "vs compile", "saved", "peak", "kernels", "host", "graph")  # fmt: skip
LEGEND = """\
time         median of interleaved samples; spread: half the distance of the quartiles
forward      with the graph recorded, as in training
GB/s         for the bytes that the op must read and write
of copy      against a plain copy of as many bytes, measured in the same rounds
of fresh     against copying as many bytes as the op makes into new memory, likewise
of limit     against the larger of that plain copy and making the noise alone, measured likewise;
             blank where that is not timed: on a GPU, and without the CPU's compiled library
vs ...       times faster
saved        kept for the backward pass beyond the inputs (MB = 1e6 bytes)
peak         most memory in use during the call beyond what was before it, results included; the
             compiled library's own scratch memory, of each thread, is not seen"""
# Of a table that goes into a file: more than any needs.
WIDTH = 320
DEVICE_LEGEND = """\
time         of the device; the caches are empty and the host is ahead
kernels      that one call launches, fills and copies of memory included
host         time of the host for one call, the device idle
graph        time of the device for one replay of a CUDA graph of the call, and kernels in it"""


def print_result(result: dict[str, Any], use_rich: bool = HAVE_RICH) -> None:
    """Everything measured, one table for each dtype and size."""
    machine, limits, found = result["machine"], result["limits"], rows_of([result])
    print(f"{where_words(machine)}; commit {machine['commit']}; {machine['time']}")
    print(f"copy {limits['copy_gb_per_s']:.1f} GB/s, into fresh memory "
          f"{limits['fresh_copy_gb_per_s']:.1f} GB/s")  # fmt: skip
    for dtype, times in limits["normal_ns"].items():
        print(f"ns per {dtype} normal: " + ", ".join(f"{k} {v:.2f}" for k, v in times.items()))
    for missing in result["missing"]:
        print(f"not here: {missing['name']}: {missing['reason']}")
    if result["settings"]["op"] == CALLS:
        print(f"\n{calls.tables(found)}")
    else:
        _print_cases(result, found, use_rich)
        _print_reasons(found)
    if not result.get("complete", True):
        print("NOT ALL: the run ended before it had measured all that it was to")
    for warning in result.get("warnings", ()):
        print(f"WARNING: {warning}")
    if result["settings"]["op"] != CALLS:
        print(f"\n{LEGEND}")
    if machine["device_type"] == "cuda":
        print(DEVICE_LEGEND)


def _print_cases(result: dict[str, Any], found: Sequence[dict[str, Any]], use_rich: bool) -> None:
    for (dtype, name, shape), rows in groupby(found, lambda r: (r["dtype"], r["size"], r["shape"])):
        lines: list[list[str]] = []
        for work, same in groupby(rows, lambda r: str(r["work"])):
            lines.append([work])
            lines += [["  " + cell if not i else cell for i, cell in enumerate(cells(r))]
                      for r in same]  # fmt: skip
        title = f"{result['settings']['op']}, {dtype}, {shape}"
        title += "" if name == shape else f" ({name})"
        print_table(title, *without_blanks(COLUMNS, lines), use_rich)


def without_blanks(
    columns: Sequence[str], lines: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """The table without the columns in which no line says anything."""
    full = [i for i in range(len(columns)) if any(len(line) > i and line[i] for line in lines)]
    return [columns[i] for i in full], [[line[i] for i in full if i < len(line)] for line in lines]


def _print_reasons(rows: Sequence[dict[str, Any]]) -> None:
    """Each reason for a missing time once, then those for missing figures."""
    words = {"failed": "NOT TIMED, for its result is wrong", "skipped": "skipped"}
    reasons: dict[str, None] = {}
    for row in rows:
        where = f"{row['variant']}, {row['dtype']}, {row['size']}"
        if row["status"] != "ok":
            reasons[f"{words[row['status']]}: {where}: {row['reason']}"] = None
        for name in ("peak", "kernels", "host", "graph", "graph_kernels"):
            if f"{name}_reason" in row:
                reasons[f"no {name}: {where}, {row['work']}: {row[f'{name}_reason']}"] = None
    for reason in reasons:
        print(reason)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the result as text, one cell for each of COLUMNS."""
    if row["status"] != "ok":
        return [row["variant"], row["status"].upper()]
    eager = None if row["variant"] == EAGER else row["vs_eager"]
    graph = _or_blank(row["graph_s"], duration)
    return [
        row["variant"],
        duration(row["median_s"]),
        f"±{spread(row):.0%}",
        f"{row['ns_per_element']:.2f}",
        _or_blank(row["gb_per_s"], "{:.1f}".format),
        *(_or_blank(row[name], "{:.0%}".format) for name in ("of_copy", "of_fresh", "of_limit")),
        *(_or_blank(ratio, "{:.2f}x".format) for ratio in (eager, row["vs_compile"])),
        *(_or_blank(row[name], size) for name in ("saved_bytes", "peak_bytes")),
        _or_blank(row["kernels"], str),
        _or_blank(row["host_s"], duration),
        f"{graph} ({row['graph_kernels']})" if graph else "",
    ]


def _or_blank(value: Any, text: Callable[[Any], str]) -> str:
    return "" if value is None else text(value)


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


def print_table(
    title: str, columns: Sequence[str], lines: Sequence[Sequence[str]], use_rich: bool = HAVE_RICH
) -> None:
    """A table, figures to the right. A line of a single cell heads a section."""
    rows = [[*line, *[""] * (len(columns) - len(line))] for line in lines]
    print()
    if use_rich:
        table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=True)
        for line, row in zip(lines, rows, strict=True):
            table.add_row(*row, style="bold" if len(line) == 1 else None)
        rich.console.Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
        return
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    print(title)
    for row in ([*columns], ["-" * width for width in widths], *rows):
        texts = [f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(row)]
        print("  ".join(texts).rstrip())


@contextmanager
def progress(use_rich: bool = HAVE_RICH) -> Iterator[Callable[[str, float], None]]:
    """Yields a function that shows what is going on and which share of the whole is done."""
    if use_rich and sys.stderr.isatty():
        console = rich.console.Console(stderr=True)
        with rich.progress.Progress(console=console, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda what, done: bar.update(task, description=what, completed=done)
        return
    shown = ""

    def plain(what: str, done: float) -> None:
        nonlocal shown
        if what != shown:
            print(f"{done:4.0%}  {what}", file=sys.stderr, flush=True)
            shown = what

    yield plain
