"""Tables in Markdown, made from results so that no figure in them is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench import targets
from bench.ops import Op
from bench.report import duration
from bench.rows import (
    BOTH,
    STEPS,
    Band,
    Case,
    Result,
    Row,
    backend_of,
    best,
    cases,
    fastest,
    machine_words,
    most_work,
    named,
    rows_of,
    thread_words,
    times_faster,
)
from bench.targets import Verdict
from bench.variants import COMPILE, DISTRIBUTIONS, EAGER, UNCHECKED

BY_DISTRIBUTIONS = ("torch.distributions", "unchecked")
HEADER = ("latent", "dtype", "eager", COMPILE, *BY_DISTRIBUTIONS, "fused",
          "against eager", "against compile", "of copy speed",
          "bytes kept, eager", "fused")  # fmt: skip
STEPS_HEADER = ("model", "latent", "dtype", "eager", COMPILE, *BY_DISTRIBUTIONS, "fused",
                "fused, compiled model", "against eager", "against compile")  # fmt: skip
OPS_HEADER = ("op", "size", "dtype", "work", "eager", COMPILE, "fused",
              "against eager", "against compile", "asked", "met",
              "bytes kept, eager", "fused")  # fmt: skip
TARGETS_HEADER = ("op", "what", "at", "dtype", "must be", "measured", "met")
BYTES_HEADER = ("op", "noise", "bytes forward, float32", "16-bit", "backward, float32", "16-bit",
                "noise forward", "backward")  # fmt: skip
LIMITS_HEADER = ("op", "size", "dtype", "work", "bytes", "by copying", "by noise", "fused",
                 "of the limit")  # fmt: skip
NOT_MEASURED = "-"
SPREAD = "In brackets: what the quartiles of both times make of the ratio, at worst and at best."
# Elements from which on a share of copy speed says something.
MEBI = 1 << 20


def only_table(result: Result, work: str | None = None) -> str:
    """The table of any result, of one kind of work; of the most where none is named.

    Raises:
        ValueError: the result has no row of that work.
    """
    op, works = result["settings"]["op"], dict.fromkeys(row["work"] for row in result["rows"])
    if not works or work not in (None, *works):
        found = f"found those of {', '.join(works)}" if works else "found none at all"
        raise ValueError(f"{op}: expected rows of {work or 'some work'}, {found}")
    return steps(result) if op == STEPS else table(result, work or most_work(result["rows"]))


def table(result: Result, work: str = BOTH) -> str:
    """One line for each size and dtype, with the fastest of our backends, and where it was run."""
    found = {case: rows for case, rows in cases(result["rows"]).items() if case.work == work}
    peaks = any(row.get("peak_bytes") is not None for rows in found.values() for row in rows)
    header = [*HEADER, "peak memory, eager", "fused"] if peaks else HEADER
    lines = [_case(rows)[: len(header)] for rows in found.values()]
    caption = f"`{result['settings']['op']}`, {work}, medians of interleaved runs on "
    caption += machine_words(result["machine"]) + _effort(result) + f". {SPREAD} "
    caption += f"Copy speed on this machine: {result['limits']['copy_gb_per_s']:.1f} GB/s."
    return "\n".join([grid(header, lines, texts=2), "", caption])


def _case(rows: list[Row]) -> list[str]:
    own, eager, compiled = best(rows), named(rows, EAGER), fastest(rows, COMPILE)
    return [
        _shape(rows[0]),
        rows[0]["dtype"],
        _time(eager),
        _time(compiled),
        *(_time(named(rows, name)) for name in (DISTRIBUTIONS, UNCHECKED)),
        _fused(own),
        _times(times_faster(own, eager)),
        _times(times_faster(own, compiled)),
        _share(own),
        _count(eager, "saved_bytes"),
        _count(own, "saved_bytes"),
        _memory(eager),
        _memory(own),
    ]


def ops(results: Sequence[Result], short: bool) -> str:
    """One line for each op, dtype and size, and where they come from; `short`: only those at the
    largest size, and those of which something is asked."""
    device_type = str(results[0]["machine"]["device_type"])
    found = _with_most_work(results)
    largest = _largest(found)
    lines = []
    for case, rows in found.items():
        asked = targets.asked(device_type, case, rows[0]["elements"])
        if asked or not short or case in largest:
            lines.append(_op_cells(case, rows, asked))
    return "\n".join([grid(OPS_HEADER, lines, texts=4), "", f"{SPREAD} {origin(results)}"])


def _with_most_work(results: Sequence[Result]) -> dict[Case, list[Row]]:
    """The cases of each op's most work."""
    found = {}
    for result in results:
        rows = rows_of([result])
        if rows:
            work = most_work(rows)
            found |= {case: same for case, same in cases(rows).items() if case.work == work}
    return found


def _largest(found: dict[Case, list[Row]]) -> set[Case]:
    """Those at the largest size of their op and dtype."""
    by_elements = sorted(found, key=lambda case: found[case][0]["elements"])
    return set({(case.op, case.dtype): case for case in by_elements}.values())


def _op_cells(case: Case, rows: list[Row], asked: dict[str, targets.Target]) -> list[str]:
    own, eager, compiled = best(rows), named(rows, EAGER), fastest(rows, COMPILE)
    ratios = {"vs_eager": times_faster(own, eager), "vs_compile": times_faster(own, compiled)}
    held = {asked[name]: ratio for name, ratio in ratios.items() if name in asked}
    judged = [Verdict.of(target, case.size, ratio) if ratio else Verdict(target)
              for target, ratio in held.items()]  # fmt: skip
    return [
        f"`{case.op}`",
        case.size,
        case.dtype,
        case.work,
        *map(_time, (eager, compiled)),
        _fused(own),
        *map(_times, ratios.values()),
        " / ".join(f"{target.bound:g}x" for target in held),
        " / ".join(_met(verdict.met, verdict.within_spread) for verdict in judged),
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
        others = [named(rows, name) for name in (DISTRIBUTIONS, UNCHECKED)]
        times = [*map(_time, (eager, compiled, *others)), *map(_fused, (own, own_compiled))]
        lines.append([*head, *times, *map(_times, ratios)])
    words = f"Against {EAGER} stands ours in the eager model, against {COMPILE} our compiled model."
    return "\n".join(
        [grid(STEPS_HEADER, lines, texts=3), "", f"{words} {SPREAD} {origin([result])}"]
    )


def origin(results: Sequence[Result], what: str = "Measured") -> str:
    """The commits and days that results are of, and the ops of each where they are several."""
    ops_of: dict[str, list[str]] = {}
    for result in results:
        machine = result["machine"]
        words = f"commit {machine['commit']}, {str(machine['time'])[:10]}{_effort(result)}"
        ops_of.setdefault(words, []).append(f"`{result['settings']['op']}`")
    if len(ops_of) == 1:
        return f"{what} at {next(iter(ops_of))}."
    parts = [f"{', '.join(names)} at {words}" for words, names in ops_of.items()]
    return f"{what} at several commits or with several efforts: {'; '.join(parts)}."


def _effort(result: Result) -> str:
    words = ", a rough run (`--quick`)" if result["settings"].get("quick") else ""
    words += "" if result.get("complete", True) else ", **not all that the run was to measure**"
    return words + "".join(f", **{warning}**" for warning in result.get("warnings", ()))


def bytes_and_noise(ops: Iterable[Op]) -> str:
    """What each op must read and write for an element of its latent, and the numbers it makes."""
    lines = []
    for op in ops:
        moved, noise = [NOT_MEASURED] * 4, [NOT_MEASURED] * 2
        for i, work in enumerate(op.works[:2]):
            moved[2 * i : 2 * i + 2] = [str(op.moved(work) * size) for size in (4, 2)]
            noise[i] = str(op.noise_passes(work))
        lines.append([f"`{op.name}`", (op.base or "").replace("_", " "), *moved, *noise])
    return grid(BYTES_HEADER, lines, texts=2)


def limits(results: Sequence[Result]) -> str:
    """Of each op and dtype at its largest size: ns per element by each limit, and ours."""
    found = _with_most_work(results)
    largest = _largest(found)
    lines = []
    for case, rows in found.items():
        own = best(rows)
        if case not in largest or own is None or own.get("copy_s") is None:
            continue
        count = own["elements"]
        times = [own["copy_s"], own.get("noise_s"), own["median_s"]]
        lines.append(
            [
                f"`{case.op}`",
                case.size,
                case.dtype,
                case.work,
                f"{own['moved_bytes'] / count:g}",
                *(NOT_MEASURED if t is None else f"{t / count * 1e9:.3g}" for t in times),
                NOT_MEASURED if own["of_limit"] is None else f"{own['of_limit']:.0%}",
            ]
        )
    return grid(LIMITS_HEADER, lines, texts=4)


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
        times = [_fused(own[count]) for count in threads]
        lines.append([case.size, case.dtype, *times, *map(_times, gains)])
    named_threads = [thread_words(count) for count in threads]
    header = ("latent", "dtype", *(f"fused, {name}" for name in named_threads))
    table = grid((*header, "gain", "eager's gain"), lines, texts=2)
    origins = [origin(by_threads[count], name.capitalize())
               for name, count in zip(named_threads, threads, strict=True)]  # fmt: skip
    return "\n".join([table, "", " ".join([SPREAD, *origins])])


def verdicts(found: Iterable[Verdict]) -> str:
    """Each target with what was measured, worst size first to be blamed."""
    return grid(TARGETS_HEADER, [verdict_cells(verdict) for verdict in found], texts=4)


def verdict_cells(verdict: Verdict) -> list[str]:
    target = verdict.target
    bound = f"at {'least' if target.at_least else 'most'} {_value(target.measure, target.bound)}"
    value = NOT_MEASURED if verdict.band is None else _measured(target.measure, verdict.band)
    size = verdict.size or target.at
    what = f"{target.work}: {target.what}"
    met = _met(verdict.met, verdict.within_spread)
    return [f"`{target.op}`", what, size, target.dtype, bound, value, met]


def tested_cells(what: str, shown: bool | None) -> list[str]:
    """A line of the same table, of what only tests can show."""
    met = "not run" if shown is None else _met(shown)
    return ["", what, "", "", "shown by GPU tests", "", met]


def _met(met: bool | None, within_spread: bool = False) -> str:
    word = {True: "yes", False: "**no**", None: "not measured"}[met]
    return f"{word} (within spread)" if within_spread else word


def _measured(measure: str, band: Band) -> str:
    """The value, and where it has one the range in brackets, both in one unit."""
    value, low, high = (_value(measure, one) for one in band)
    return value if band.low == band.high else f"{value} ({low.rstrip('%x')}-{high.rstrip('%x')})"


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


def _fused(row: Row | None) -> str:
    """The time, and who took it."""
    return NOT_MEASURED if row is None else f"{_time(row)} ({backend_of(row)})"


def _times(ratio: Band | None) -> str:
    if ratio is None:
        return NOT_MEASURED
    return f"**{ratio.value:.1f}x** ({ratio.low:.1f}-{ratio.high:.1f})"


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
