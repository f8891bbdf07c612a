"""Tables in Markdown, made from results so that no figure in them is typed by hand.

A table is a list of columns, each of which has a heading and says what stands in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from bench import targets
from bench.ops import BOTH, Op
from bench.report import duration
from bench.results import (
    CALLS,
    LATENT,
    STEPS,
    Band,
    Result,
    Rivals,
    Row,
    backend_of,
    largest,
    machine_words,
    most_work,
    rivals,
    thread_words,
    times_faster,
)
from bench.targets import Verdict
from bench.variants import COMPILE, DISTRIBUTIONS, EAGER, UNCHECKED

TARGETS_HEADER = ("op", "what", "at", "dtype", "must be", "measured", "met")
BYTES_HEADER = ("op", "noise", "bytes forward, float32", "16-bit", "backward, float32", "16-bit",
                "noise forward", "backward")  # fmt: skip
NOT_MEASURED = "-"
SPREAD = "In brackets: what the quartiles of both times make of the ratio, at worst and at best."
# Elements from which on a share of copy speed says something.
MEBI = 1 << 20


class Column(NamedTuple):
    heading: str
    text: Callable[[Rivals], str]
    figure: bool = True


def _given(text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: NOT_MEASURED if value is None else text(value)


_time = _given(lambda row: duration(row["median_s"]))
_fused = _given(lambda row: f"{duration(row['median_s'])} ({backend_of(row)})")
_times = _given(lambda ratio: f"**{ratio.value:.1f}x** ({ratio.low:.1f}-{ratio.high:.1f})")


def _count(row: Row | None, name: str) -> str:
    return NOT_MEASURED if row is None or row.get(name) is None else f"{row[name]:,}"


def _memory(row: Row | None) -> str:
    """Peak memory in binary units, three figures."""
    value = None if row is None else row.get("peak_bytes")
    if value is None:
        return NOT_MEASURED
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value} B"


def _share(one: Rivals) -> str:
    """Share of copy speed; below a million elements what calls cost decides, the copy's too."""
    own = one.own
    if own is None or own["of_copy"] is None or one.elements < MEBI:
        return NOT_MEASURED
    return f"{own['of_copy']:.0%}"


def _asked(one: Rivals) -> list[tuple[targets.Target, Band | None]]:
    """What is asked of the ratios to eager and to torch.compile, and these."""
    asked = targets.asked(one)
    ratios = {"vs_eager": against_eager(one), "vs_compile": against_compile(one)}
    return [(asked[name], ratio) for name, ratio in ratios.items() if name in asked]


def against_eager(one: Rivals) -> Band | None:
    return times_faster(one.own, one.named(EAGER))


def against_compile(one: Rivals) -> Band | None:
    return times_faster(one.own, one.compiled)


def _per_element(name: str) -> Callable[[Rivals], str]:
    """Nanoseconds of our row's figure for an element."""

    def text(one: Rivals) -> str:
        value = None if one.own is None else one.own.get(name)
        return NOT_MEASURED if value is None else f"{value / one.elements * 1e9:.3g}"

    return text


OP = Column("op", lambda one: f"`{one.case.op}`", False)
SIZE = Column("size", lambda one: one.case.size, False)
SHAPE = Column("latent", lambda one: str(one.rows[0]["shape"]).replace("x", " x "), False)
DTYPE = Column("dtype", lambda one: one.case.dtype, False)
WORK = Column("work", lambda one: one.case.work, False)
RIVALS = [
    Column("eager", lambda one: _time(one.named(EAGER))),
    Column(COMPILE, lambda one: _time(one.compiled)),
]
BY_DISTRIBUTIONS = [
    Column("torch.distributions", lambda one: _time(one.named(DISTRIBUTIONS))),
    Column("unchecked", lambda one: _time(one.named(UNCHECKED))),
]
FUSED = Column("fused", lambda one: _fused(one.own))
RATIOS = [
    Column("against eager", lambda one: _times(against_eager(one))),
    Column("against compile", lambda one: _times(against_compile(one))),
]
KEPT = [
    Column("bytes kept, eager", lambda one: _count(one.named(EAGER), "saved_bytes")),
    Column("fused", lambda one: _count(one.own, "saved_bytes")),
]
PEAKS = [
    Column("peak memory, eager", lambda one: _memory(one.named(EAGER))),
    Column("fused", lambda one: _memory(one.own)),
]
MEASURED = [SHAPE, DTYPE, *RIVALS, *BY_DISTRIBUTIONS, FUSED, *RATIOS,
            Column("of copy speed", _share), *KEPT]  # fmt: skip
OPS_COLUMNS = [
    OP, SIZE, DTYPE, WORK, *RIVALS, FUSED, *RATIOS,
    Column("asked", lambda one: " / ".join(f"{target.bound:g}x" for target, _ in _asked(one))),
    Column("met", lambda one: " / ".join(_answer(target, one.case.size, ratio)
                                         for target, ratio in _asked(one))),
    *KEPT,
]  # fmt: skip
STEPS_COLUMNS = [
    Column("model", lambda one: one.case.size, False), SHAPE, DTYPE, *RIVALS, *BY_DISTRIBUTIONS,
    FUSED, Column("fused, compiled model", lambda one: _fused(one.own_compiled)), RATIOS[0],
    Column("against compile", lambda one: _times(times_faster(one.own_compiled, one.compiled))),
]  # fmt: skip
LIMITS_COLUMNS = [
    OP, SIZE, DTYPE, WORK,
    Column("bytes", lambda one: f"{one.rows[0]['moved_bytes'] / one.elements:g}"),
    Column("by copying", _per_element("copy_s")),
    Column("by noise", _per_element("noise_s")),
    Column("fused", _per_element("median_s")),
    Column("of the limit", lambda one: _given("{:.0%}".format)(one.own and one.own["of_limit"])),
]  # fmt: skip


def show(columns: Sequence[Column], found: Iterable[Rivals]) -> str:
    lines = [[column.text(one) for column in columns] for one in found]
    texts = sum(not column.figure for column in columns)
    return grid([column.heading for column in columns], lines, texts)


def grid(header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose first `texts` columns are text, and whose others are figures."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


# --- tables ---------------------------------------------------------------------------------------


def only_table(result: Result, work: str | None = None) -> str:
    """The table of any result, of one kind of work; of the most where none is named.

    Raises:
        ValueError: the result has no row of that work.
    """
    op, works = result["settings"]["op"], dict.fromkeys(row["work"] for row in result["rows"])
    if not works or work not in (None, *works):
        found = f"found those of {', '.join(works)}" if works else "found none at all"
        raise ValueError(f"{op}: expected rows of {work or 'some work'}, {found}")
    if op == CALLS:
        return calls(result, len(result["rows"]))
    return steps(result) if op == STEPS else table(result, work)


def table(result: Result, work: str | None = None) -> str:
    """One line for each size and dtype, with the fastest of our backends, and where it was run."""
    every = rivals([result])
    found = [one for one in every if one.case.work == work] if work else most_work(every)
    peaks = any(row.get("peak_bytes") is not None for one in found for row in one.rows)
    caption = f"`{result['settings']['op']}`, {found[0].case.work}, medians of interleaved runs on "
    caption += machine_words(result["machine"]) + _effort(result) + f". {SPREAD} "
    caption += f"Copy speed on this machine: {result['limits']['copy_gb_per_s']:.1f} GB/s."
    return f"{show(MEASURED + PEAKS if peaks else MEASURED, found)}\n\n{caption}"


def ops(results: Sequence[Result], short: bool) -> str:
    """One line for each op, dtype and size, and where they come from; `short`: only those at the
    largest size, and those of which something is asked."""
    found = most_work(rivals(results))
    last = largest(found)
    shown = [one for one in found if not short or one in last or _asked(one)]
    return f"{show(OPS_COLUMNS, shown)}\n\n{SPREAD} {origin(results)}"


def steps(result: Result) -> str:
    """Whole training steps: the op in an eager model, and in a compiled one."""
    words = f"Against {EAGER} stands ours in the eager model, against {COMPILE} our compiled model."
    return f"{show(STEPS_COLUMNS, rivals([result]))}\n\n{words} {SPREAD} {origin([result])}"


def limits(results: Sequence[Result]) -> str:
    """Of each op and dtype at its largest size: ns per element by each limit, and ours."""
    found = largest(most_work(rivals(results)))
    return show(LIMITS_COLUMNS, [one for one in found if one.own and one.own.get("copy_s")])


def scaling(by_threads: dict[int, list[Result]]) -> str:
    """`gaussian_latent` on one processor with several numbers of threads, each in a run of its own.

    Args:
        by_threads: a CPU's results by its number of threads.
    """
    threads = sorted(by_threads)
    found = {count: {one.case: one for one in rivals(by_threads[count])} for count in threads}

    def fused(count: int) -> Callable[[Rivals], str]:
        return lambda one: _fused(found[count][one.case].own if one.case in found[count] else None)

    def gain(who: Callable[[Rivals], Row | None]) -> Callable[[Rivals], str]:
        def text(one: Rivals) -> str:
            other = found[threads[-1]].get(one.case)
            return _times(times_faster(who(other), who(one)) if other else None)

        return text

    columns = [Column("latent", lambda one: one.case.size, False), DTYPE]
    columns += [Column(f"fused, {thread_words(count)}", fused(count)) for count in threads]
    columns += [Column("gain", gain(lambda one: one.own)),
                Column("eager's gain", gain(lambda one: one.named(EAGER)))]  # fmt: skip
    shown = [one for case, one in found[threads[0]].items() if case.op == LATENT
             and case.work == BOTH]  # fmt: skip
    origins = [origin(by_threads[count], thread_words(count).capitalize()) for count in threads]
    return "\n".join([show(columns, shown), "", " ".join([SPREAD, *origins])])


def calls(result: Result, shown: int = 8) -> str:
    """The worst small calls, each as a part of what it may take at most, and how many keep that."""
    timed = [row for row in result["rows"] if row["status"] == "ok"]
    worst = sorted(timed, key=lambda row: row["ratio"] / row["most"], reverse=True)[:shown]
    lines = [[row["work"], row["size"], row["variant"],
              *(duration(row[name]) for name in ("median_s", "formula_s")),
              f"**{row['ratio']:.2f}** ({row['low_ratio']:.2f}-{row['high_ratio']:.2f})",
              f"{row['most']:g}"] for row in worst]  # fmt: skip
    header = ("call", "size", "by", "ours", "formula", "ours / formula", "at most")
    kept = sum(row["ratio"] <= row["most"] for row in timed)
    words = f"The {len(lines)} worst of {len(result['rows'])} small calls, forward and backward, in"
    words += f" processor time of one thread; {kept} take at most what they may."
    return f"{grid(header, lines, texts=3)}\n\n{words} {origin([result])}"


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


# --- targets --------------------------------------------------------------------------------------


def verdicts(found: Iterable[Verdict]) -> str:
    """Each target with what was measured, worst size first to be blamed."""
    return grid(TARGETS_HEADER, [verdict_cells(verdict) for verdict in found], texts=4)


def verdict_cells(verdict: Verdict) -> list[str]:
    target = verdict.target
    bound = f"at {'least' if target.at_least else 'most'} {_value(target.measure, target.bound)}"
    value = NOT_MEASURED
    if verdict.band is not None:  # the value, and its range in brackets where it has one
        value, low, high = (_value(target.measure, one) for one in verdict.band)
        value += "" if low == high else f" ({low.rstrip('%x')}-{high.rstrip('%x')})"
    met = _met(verdict.met, verdict.within_spread)
    what = f"{target.work}: {target.what}"
    return [f"`{target.op}`", what, verdict.size or target.at, target.dtype, bound, value, met]


def tested_cells(what: str, shown: bool | None) -> list[str]:
    """A line of the same table, of what only tests can show."""
    met = "not run" if shown is None else _met(shown)
    return ["", what, "", "", "shown by GPU tests", "", met]


def _answer(target: targets.Target, size: str, ratio: Band | None) -> str:
    verdict = Verdict(target) if ratio is None else Verdict.of(target, size, ratio)
    return _met(verdict.met, verdict.within_spread)


def _met(met: bool | None, within_spread: bool = False) -> str:
    word = {True: "yes", False: "**no**", None: "not measured"}[met]
    return f"{word} (within spread)" if within_spread else word


def _value(measure: str, value: float) -> str:
    if measure in ("of_copy", "of_limit"):
        return f"{100 * value:.3g}%"
    return f"{value:.3g}" + ("x" if measure in ("vs_eager", "vs_compile") else "")
