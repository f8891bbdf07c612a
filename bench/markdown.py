"""Tables in Markdown, made from results so that no figure in them is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench import targets
from bench.report import duration
from bench.rows import (
    BOTH,
    Case,
    Result,
    Row,
    best,
    cases,
    fastest,
    machine_words,
    most_work,
    named,
    rows_of,
    times_faster,
)
from bench.targets import Verdict
from bench.variants import COMPILE, EAGER

HEADER = ("latent", "dtype", "eager", COMPILE, "torch.distributions", "fused",
          "against eager", "against compile", "of copy speed",
          "bytes kept, eager", "fused")  # fmt: skip
STEPS_HEADER = ("model", "latent", "dtype", "eager", COMPILE, "fused", "fused, compiled model",
                "against eager", "against compile")  # fmt: skip
OPS_HEADER = ("op", "size", "dtype", "work", "eager", COMPILE, "fused",
              "against eager", "against compile", "asked", "met",
              "bytes kept, eager", "fused")  # fmt: skip
TARGETS_HEADER = ("op", "what", "at", "dtype", "must be", "measured", "met")
NOT_MEASURED = "-"
# Elements from which on a share of copy speed says something.
MEBI = 1 << 20


def table(result: Result, work: str = BOTH) -> str:
    """One line for each size and dtype, with the fastest of our backends, and where it was run."""
    found = {case: rows for case, rows in cases(result["rows"]).items() if case.work == work}
    peaks = any(row.get("peak_bytes") is not None for rows in found.values() for row in rows)
    header = [*HEADER, "peak memory, eager", "fused"] if peaks else HEADER
    lines = [_case(rows)[: len(header)] for rows in found.values()]
    caption = f"`{result['settings']['op']}`, {work}, medians of interleaved runs on "
    caption += machine_words(result["machine"]) + ". "
    caption += f"Copy speed on this machine: {result['limits']['copy_gb_per_s']:.1f} GB/s."
    return "\n".join([grid(header, lines, texts=2), "", caption])


def _case(rows: list[Row]) -> list[str]:
    own, eager, compiled = best(rows), named(rows, EAGER), fastest(rows, COMPILE)
    fused = NOT_MEASURED if own is None else f"{duration(own['median_s'])} ({own['variant']})"
    return [
        _shape(rows[0]),
        rows[0]["dtype"],
        _time(eager),
        _time(compiled),
        _time(named(rows, "distributions")),
        fused,
        _times(times_faster(own, eager)),
        _times(times_faster(own, compiled)),
        _share(own),
        _count(eager, "saved_bytes"),
        _count(own, "saved_bytes"),
        _memory(eager),
        _memory(own),
    ]


def ops(results: Sequence[Result], short: bool) -> str:
    """One line for each op, dtype and size; `short`: only those at the largest size, and those of
    which something is asked."""
    device_type = str(results[0]["machine"]["device_type"])
    found = cases(rows_of(results))
    largest = {(case.op, case.dtype): case.size for case in _by_elements(found)}
    works = {op: most_work(rows_of([r for r in results if r["settings"]["op"] == op]))
             for op in dict.fromkeys(case.op for case in found)}  # fmt: skip
    lines = []
    for case, rows in found.items():
        asked = targets.asked(device_type, case, rows[0]["elements"])
        shown = asked or not short or largest[case.op, case.dtype] == case.size
        if case.work == works[case.op] and shown:
            lines.append(_op_cells(case, rows, asked))
    return grid(OPS_HEADER, lines, texts=4)


def _by_elements(found: dict[Case, list[Row]]) -> list[Case]:
    return sorted(found, key=lambda case: found[case][0]["elements"])


def _op_cells(case: Case, rows: list[Row], asked: dict[str, targets.Target]) -> list[str]:
    own, eager, compiled = best(rows), named(rows, EAGER), fastest(rows, COMPILE)
    ratios = {"vs_eager": times_faster(own, eager), "vs_compile": times_faster(own, compiled)}
    held = {asked[name]: ratio for name, ratio in ratios.items() if name in asked}
    met = [_met(None if ratio is None else target.met_by(ratio)) for target, ratio in held.items()]
    return [
        f"`{case.op}`",
        case.size,
        case.dtype,
        case.work,
        *map(_time, (eager, compiled, own)),
        *map(_times, ratios.values()),
        " / ".join(f"{target.bound:g}x" for target in held),
        " / ".join(met),
        _count(eager, "saved_bytes"),
        _count(own, "saved_bytes"),
    ]


def steps(result: Result) -> str:
    """Whole training steps: the op in an eager model, and in a compiled one."""
    lines = []
    for rows in cases(result["rows"]).values():
        eager, compiled = named(rows, EAGER), fastest(rows, COMPILE)
        inside = [row for row in rows if "compiled" in row["variant"]]
        own = best(row for row in rows if row not in inside)
        own_compiled = best(inside)
        ratios = [times_faster(own, eager), times_faster(own_compiled, compiled)]
        head = [rows[0]["size"], _shape(rows[0]), rows[0]["dtype"]]
        times = [_time(row) for row in (eager, compiled, own, own_compiled)]
        lines.append([*head, *times, *map(_times, ratios)])
    return grid(STEPS_HEADER, lines, texts=3)


def scaling(by_threads: dict[int, list[Result]]) -> str:
    """`gaussian_latent` on one processor with several numbers of threads, each in a run of its own.

    Args:
        by_threads: a CPU's results by its number of threads.
    """
    threads = sorted(by_threads)
    found = {count: cases(rows_of(results)) for count, results in by_threads.items()}
    ends = (threads[0], threads[-1])
    lines = []
    for case in found[threads[0]]:
        if case.op != "gaussian_latent" or case.work != BOTH:
            continue
        rows = {count: found[count].get(case, []) for count in threads}
        own = {count: best(rows[count]) for count in threads}
        eager = {count: named(rows[count], EAGER) for count in threads}
        gains = [times_faster(who[ends[1]], who[ends[0]]) for who in (own, eager)]
        times = [_time(own[count]) for count in threads]
        lines.append([case.size, case.dtype, *times, *map(_times, gains)])
    named_threads = [f"{count} thread{'s' if count > 1 else ''}" for count in threads]
    header = ("latent", "dtype", *(f"fused, {name}" for name in named_threads))
    return grid((*header, "gain", "eager's gain"), lines, texts=2)


def verdicts(found: Iterable[Verdict]) -> str:
    """Each target with what was measured, worst size first to be blamed."""
    return grid(TARGETS_HEADER, [verdict_cells(verdict) for verdict in found], texts=4)


def verdict_cells(verdict: Verdict) -> list[str]:
    target = verdict.target
    bound = f"at {'least' if target.at_least else 'most'} {_value(target.measure, target.bound)}"
    value = NOT_MEASURED if verdict.value is None else _value(target.measure, verdict.value)
    size = verdict.size or target.at
    what = f"{target.work}: {target.what}"
    return [f"`{target.op}`", what, size, target.dtype, bound, value, _met(verdict.met)]


def tested_cells(what: str, shown: bool | None) -> list[str]:
    """A line of the same table, of what only tests can show."""
    met = "not run" if shown is None else _met(shown)
    return ["", what, "", "", "shown by GPU tests", "", met]


def _met(met: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "not measured"}[met]


def _value(measure: str, value: float) -> str:
    if measure in ("of_copy", "of_limit"):
        return f"{100 * value:.3g}%"
    return f"{value:.3g}" + ("x" if measure in ("vs_eager", "vs_compile") else "")


def grid(header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose first `texts` columns are text, and whose others are figures."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def _shape(row: Row) -> str:
    return str(row["shape"]).replace("x", " x ")


def _time(row: Row | None) -> str:
    return NOT_MEASURED if row is None else duration(row["median_s"])


def _times(ratio: float | None) -> str:
    return NOT_MEASURED if ratio is None else f"**{ratio:.1f}x**"


def _share(row: Row | None) -> str:
    """Share of copy speed; below a million elements what calls cost decides, the copy's too."""
    if row is None or row["of_copy"] is None or row["elements"] < MEBI:
        return NOT_MEASURED
    return f"{row['of_copy']:.0%}"


def _count(row: Row | None, name: str) -> str:
    return NOT_MEASURED if row is None or row.get(name) is None else f"{row[name]:,}"


def _memory(row: Row | None) -> str:
    """Peak memory in binary units, three figures."""
    value: Any = None if row is None else row.get("peak_bytes")
    if value is None:
        return NOT_MEASURED
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value} B"
