"""Tables in Markdown, made from results so that no figure in them is typed by hand.

A table is a list of columns, each of which has a heading and says what stands in it, of a line of
`frames.cases`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bench import frames, targets
from bench.ops import BOTH, Op
from bench.report import duration
from bench.results import LATENT, Result, machine_words, thread_words
from bench.targets import Band, Verdict
from bench.variants import COMPILE, EAGER

TARGETS_HEADER = ("op", "what", "at", "dtype", "must be", "measured", "met")
BYTES_HEADER = ("op", "noise", "bytes forward, float32", "16-bit", "backward, float32", "16-bit",
                "noise forward", "backward")  # fmt: skip
CALLS_HEADER = ("call", "size", "by", "ours", "formula", "ours / formula", "at most")
NOT_MEASURED = "-"
SPREAD = "In brackets: what the quartiles of both times make of the ratio, at worst and at best."
# Elements from which on a share of copy speed says something.
MEBI = 1 << 20
Text = Callable[[Any], str]


class Column(NamedTuple):
    heading: str
    text: Text
    figure: bool = True


def given(value: float, text: Callable[[float], str]) -> str:
    return NOT_MEASURED if math.isnan(value) else text(value)


def of(name: str) -> Text:
    return lambda case: str(getattr(case, name))


def time(who: str) -> Text:
    return lambda case: given(getattr(case, f"{who}_median_s"), duration)


def fused(who: str) -> Text:
    """A time, and whose it is."""

    def text(case: Any) -> str:
        backend = getattr(case, f"{who}_backend")
        return given(getattr(case, f"{who}_median_s"), lambda s: f"{duration(s)} ({backend})")

    return text


def ratio(rival: str, own: str = "own") -> Text:
    return lambda case: _ratio(targets.times(case, rival, own))


def _ratio(found: Band) -> str:
    return given(found.value, lambda value: f"**{value:.1f}x** ({found.low:.1f}-{found.high:.1f})")


def count(who: str) -> Text:
    return lambda case: given(getattr(case, f"{who}_saved_bytes"), "{:,.0f}".format)


def memory(who: str) -> Text:
    """Peak memory in binary units, three figures."""
    return lambda case: given(getattr(case, f"{who}_peak_bytes"), _memory)


def _memory(value: float) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"


def per_element(name: str) -> Text:
    """Nanoseconds of our row's figure for an element."""
    return lambda case: given(getattr(case, f"own_{name}") / case.elements * 1e9, "{:.3g}".format)


def share(case: Any) -> str:
    """Of copy speed; below a million elements what calls cost decides, the copy's too."""
    return given(case.own_of_copy if case.elements >= MEBI else math.nan, "{:.0%}".format)


def asked(case: Any) -> list[Verdict]:
    """On what is asked of the ratios to eager and to torch.compile."""
    found = targets.asked(case)
    return [Verdict.of(found[n], case) for n in ("vs_eager", "vs_compile") if n in found]


OP, SIZE = Column("op", lambda case: f"`{case.op}`", False), Column("size", of("size"), False)
SHAPE = Column("latent", lambda case: str(case.shape).replace("x", " x "), False)
DTYPE, WORK = Column("dtype", of("dtype"), False), Column("work", of("work"), False)
RIVALS = [Column(EAGER, time("eager")), Column(COMPILE, time("compile"))]
BY_DISTRIBUTIONS = [
    Column("torch.distributions", time("distributions")), Column("unchecked", time("unchecked"))
]  # fmt: skip
FUSED = Column("fused", fused("own"))
RATIOS = [Column("against eager", ratio("eager")), Column("against compile", ratio("compile"))]
KEPT = [Column("bytes kept, eager", count("eager")), Column("fused", count("own"))]
PEAKS = [Column("peak memory, eager", memory("eager")), Column("fused", memory("own"))]
MEASURED = [SHAPE, DTYPE, *RIVALS, *BY_DISTRIBUTIONS, FUSED, *RATIOS,
            Column("of copy speed", share), *KEPT]  # fmt: skip
OPS_COLUMNS = [
    OP, SIZE, DTYPE, WORK, *RIVALS, FUSED, *RATIOS,
    Column("asked", lambda case: " / ".join(f"{one.target.bound:g}x" for one in asked(case))),
    Column("met", lambda case: " / ".join(map(_met, asked(case)))),
    *KEPT,
]  # fmt: skip
STEPS_COLUMNS = [
    Column("model", of("size"), False), SHAPE, DTYPE, *RIVALS, *BY_DISTRIBUTIONS, FUSED,
    Column("fused, compiled model", fused("model")), RATIOS[0],
    Column("against compile", ratio("compile", "model")),
]  # fmt: skip
LIMITS_COLUMNS = [
    OP, SIZE, DTYPE, WORK,
    Column("bytes", lambda case: f"{case.moved_bytes / case.elements:g}"),
    Column("by copying", per_element("copy_s")),
    Column("by noise", per_element("noise_s")),
    Column("fused", per_element("median_s")),
    Column("of the limit", lambda case: given(case.own_of_limit, "{:.0%}".format)),
]  # fmt: skip


def show(columns: Sequence[Column], found: pd.DataFrame) -> str:
    lines = [[column.text(case) for column in columns] for case in found.itertuples()]
    texts = sum(not column.figure for column in columns)
    return grid([column.heading for column in columns], lines, texts)


def grid(header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose first `texts` columns are text, and whose others are figures."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


# --- tables ---------------------------------------------------------------------------------------


def table(result: Result) -> str:
    """One line for each size and dtype, with the fastest of our backends, and where it was run."""
    found = frames.most_work(frames.cases([result]))
    columns = MEASURED + PEAKS if found.own_peak_bytes.notna().any() else MEASURED
    caption = f"`{result['settings']['op']}`, {found.work.iloc[0]}, medians of interleaved runs on "
    caption += machine_words(result["machine"]) + _effort(result) + f". {SPREAD} "
    caption += f"Copy speed on this machine: {result['limits']['copy_gb_per_s']:.1f} GB/s."
    return f"{show(columns, found)}\n\n{caption}"


def ops(results: Sequence[Result], short: bool) -> str:
    """One line for each op, dtype and size, and where they come from; `short`: only those at the
    largest size, and those of which something is asked."""
    found = frames.most_work(frames.cases(results))
    if short:
        last = set(frames.largest(found).index)
        shown = [case.Index in last or bool(asked(case)) for case in found.itertuples()]
        found = found[shown]
    return f"{show(OPS_COLUMNS, found)}\n\n{SPREAD} {origin(results)}"


def steps(result: Result) -> str:
    """Whole training steps: the op in an eager model, and in a compiled one."""
    words = f"Against {EAGER} stands ours in the eager model, against {COMPILE} our compiled model."
    return f"{show(STEPS_COLUMNS, frames.cases([result]))}\n\n{words} {SPREAD} {origin([result])}"


def limits(results: Sequence[Result]) -> str:
    """Of each op and dtype at its largest size: ns per element by each limit, and ours."""
    found = frames.largest(frames.most_work(frames.cases(results)))
    return show(LIMITS_COLUMNS, found[found.own_copy_s.notna()])


def scaling(by_threads: dict[int, list[Result]]) -> str:
    """`gaussian_latent` on one processor with several numbers of threads, each in a run of its own.

    Args:
        by_threads: a CPU's results by its number of threads.
    """
    threads = sorted(by_threads)
    parts = []
    for number in threads:
        some = frames.cases(by_threads[number])
        some = some[(some.op == LATENT) & (some.work == BOTH)].set_index(["dtype", "size"])
        parts.append(some.filter(regex="^(own|eager)_").add_prefix(f"t{number}_"))
    found = pd.concat([part.reindex(parts[0].index) for part in parts], axis=1)
    few, many = f"t{threads[0]}", f"t{threads[-1]}"
    columns = [Column("latent", of("size"), False), DTYPE]
    columns += [Column(f"fused, {thread_words(n)}", fused(f"t{n}_own")) for n in threads]
    columns += [Column("gain", ratio(f"{few}_own", f"{many}_own")),
                Column("eager's gain", ratio(f"{few}_eager", f"{many}_eager"))]  # fmt: skip
    origins = [origin(by_threads[n], thread_words(n).capitalize()) for n in threads]
    return "\n".join([show(columns, found.reset_index()), "", " ".join([SPREAD, *origins])])


def calls(result: Result, shown: int = 8) -> str:
    """The worst small calls, each as a part of what it may take at most, and how many keep that."""
    timed = [row for row in result["rows"] if row["status"] == "ok"]
    worst = sorted(timed, key=lambda row: row["ratio"] / row["most"], reverse=True)[:shown]
    lines = [[row["work"], row["size"], row["variant"],
              *(duration(row[name]) for name in ("median_s", "formula_s")),
              f"**{row['ratio']:.2f}** ({row['low_ratio']:.2f}-{row['high_ratio']:.2f})",
              f"{row['most']:g}"] for row in worst]  # fmt: skip
    kept = sum(row["ratio"] <= row["most"] for row in timed)
    words = f"The {len(lines)} worst of {len(result['rows'])} small calls, forward and backward, in"
    words += f" processor time of one thread; {kept} take at most what they may."
    return f"{grid(CALLS_HEADER, lines, texts=3)}\n\n{words} {origin([result])}"


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


def verdicts(found: Iterable[Verdict], tests: dict[str, bool | None]) -> str:
    """Each target with what was measured, and what only tests can show."""
    lines = [verdict_cells(one) for one in found]
    for what, shown in tests.items():
        answer = "not run" if shown is None else "yes" if shown else "**no**"
        lines.append(["", what, "", "", "shown by GPU tests", "", answer])
    return grid(TARGETS_HEADER, lines, texts=4)


def verdict_cells(verdict: Verdict) -> list[str]:
    target = verdict.target
    bound = f"at {'least' if target.at_least else 'most'} {_value(target.measure, target.bound)}"
    value = NOT_MEASURED
    if verdict.band is not None:  # the value, and its range in brackets where it has one
        value, low, high = (_value(target.measure, one) for one in verdict.band)
        value += "" if low == high else f" ({low.rstrip('%x')}-{high.rstrip('%x')})"
    what, at = f"{target.work}: {targets.WHAT[target.measure]}", verdict.size or target.at
    return [f"`{target.op}`", what, at, target.dtype, bound, value, _met(verdict)]


def _met(verdict: Verdict) -> str:
    word = {True: "yes", False: "**no**", None: "not measured"}[verdict.met]
    return f"{word} (within spread)" if verdict.within_spread else word


def _value(measure: str, value: float) -> str:
    if measure in ("of_copy", "of_limit"):
        return f"{100 * value:.3g}%"
    return f"{value:.3g}" + ("x" if measure in ("vs_eager", "vs_compile") else "")
