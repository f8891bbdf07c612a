"""Tables in Markdown, made from results so that no figure in them is typed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from bench import frames, targets
from bench.report import duration
from bench.results import Result, machine_words, thread_words
from bench.targets import Verdict
from bench.variants import COMPILE, EAGER, EAGER_KEPT

NOT_MEASURED = "-"
SPREAD = "In brackets: the worst and the best ratio that the quartiles of both times leave."
STEPS = (
    f"Against {EAGER} stands the fused op in an eager model, against {COMPILE} in a compiled one."
)
# Elements from which on a share of copy speed says something.
MEBI = 1 << 20
# Columns of words, which stand to the left; figures stand to the right.
WORDS = ("op", "size", "latent", "dtype", "work", "model", "threads", "call", "by", "what", "at")
Columns = dict[str, pd.Series]


def show(columns: Columns) -> str:
    header, lines = list(columns), zip(*columns.values(), strict=True)
    rule = ["---" if heading in WORDS else "---:" for heading in header]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in (header, rule, *lines))


# --- columns, of `frames.cases` -------------------------------------------------------------------


def cells(figures: pd.Series, text: Callable[[Any], str]) -> pd.Series:
    return figures.map(text, na_action="ignore").astype(object).fillna(NOT_MEASURED)


def about(found: pd.DataFrame, *names: str) -> Columns:
    words = found.assign(op="`" + found.op + "`", latent=found["shape"].str.replace("x", " x "))
    return {name: words[name] for name in names}


def times(found: pd.DataFrame, **headings: str) -> Columns:
    return {h: cells(found[f"{who}_median_s"], duration) for who, h in headings.items()}


def rivals(found: pd.DataFrame, distributions: bool = False) -> Columns:
    kept = {"kept": EAGER_KEPT} if with_kept(found) else {}
    more = {"distributions": "torch.distributions", "unchecked": "unchecked"}
    more = more if distributions else {}
    return times(found, **{"eager": EAGER} | kept | {"compile": COMPILE} | more)


def with_kept(found: pd.DataFrame) -> bool:
    return bool(found.kept_median_s.notna().any())


def fused(found: pd.DataFrame, who: str = "own") -> pd.Series:
    """A time, and whose it is."""
    made = found[f"{who}_median_s"].map(duration, na_action="ignore").astype(object)
    return (made + " (" + found[f"{who}_backend"] + ")").fillna(NOT_MEASURED)


def ratio(found: pd.DataFrame, rival: str, own: str = "own") -> pd.Series:
    bands = pd.Series(list(zip(*targets.times(found, rival, own), strict=True)), found.index)
    text = "**{:.1f}x** ({:.1f}-{:.1f})".format
    return cells(bands.where(bands.str[0].notna()), lambda band: text(*band))


def ours(found: pd.DataFrame) -> Columns:
    kept = {f"against {EAGER_KEPT}": ratio(found, "kept")} if with_kept(found) else {}
    return {"fused": fused(found), "against eager": ratio(found, "eager"), **kept,
            "against compile": ratio(found, "compile")}  # fmt: skip


def kept(found: pd.DataFrame) -> Columns:
    return {"bytes kept, eager": cells(found.eager_saved_bytes, "{:,.0f}".format),
            "bytes kept, fused": cells(found.own_saved_bytes, "{:,.0f}".format)}  # fmt: skip


def memory(value: float) -> str:
    """Binary units, three figures."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"


# --- tables ---------------------------------------------------------------------------------------


def latent(result: Result) -> str:
    """One line for each size and dtype, with the fastest of our backends, and where it was run."""
    found = frames.most_work(frames.cases([result]))
    # Below a million elements what calls cost decides, the copy's too.
    share = found.own_of_copy.where(found.elements >= MEBI)
    more = {"of copy speed": cells(share, "{:.0%}".format)} | kept(found)
    more |= {"peak memory, eager": cells(found.eager_peak_bytes, memory),
             "peak memory, fused": cells(found.own_peak_bytes, memory)}  # fmt: skip
    caption = f"`{result['settings']['op']}`, {found.work.iloc[0]}, medians of interleaved runs on "
    caption += machine_words(result["machine"]) + _effort(result) + f". {SPREAD} "
    caption += f"Copy speed on this machine: {result['limits']['copy_gb_per_s']:.1f} GB/s."
    made = about(found, "latent", "dtype") | rivals(found, True) | ours(found) | more
    return f"{show(made)}\n\n{caption}"


def ops(results: Sequence[Result]) -> str:
    """One line for each op, dtype and size, and where they come from."""
    found = frames.most_work(frames.cases(results))
    made = about(found, "op", "size", "dtype", "work") | rivals(found) | ours(found) | kept(found)
    return f"{show(made)}\n\n{SPREAD} {origin(results)}"


def steps(result: Result) -> str:
    """Whole training steps: the op in an eager model, and in a compiled one."""
    found = frames.cases([result])
    made = {"model": found["size"]} | about(found, "latent", "dtype") | rivals(found, True)
    made |= {"fused": fused(found), "fused, compiled model": fused(found, "model")}
    return f"{show(made | step_ratios(found))}\n\n{STEPS} {SPREAD} {origin([result])}"


def gains(result: Result) -> str:
    """The training steps of the front page, in few columns."""
    found = frames.front(frames.cases([result]))
    made = {"model": found["size"]} | rivals(found)
    made |= times(found, own="fused", model="fused, compiled") | step_ratios(found)
    backends = " and ".join(found[["own_backend", "model_backend"]].stack().unique())
    words = f"Fused is by the {backends} backend. {STEPS} {SPREAD}"
    return f"{show(made)}\n\n{words} {origin([result])}"


def step_ratios(found: pd.DataFrame) -> Columns:
    return {"against eager": ratio(found, "eager"),
            "against compile": ratio(found, "compile", "model")}  # fmt: skip


def limits(results: Sequence[Result]) -> str:
    """Of each op and dtype at its largest size: ns per element by each limit, and ours."""
    found = frames.largest(frames.most_work(frames.cases(results)))
    found = found[found.own_copy_s.notna()]
    made = about(found, "op", "size", "dtype", "work")
    made["bytes"] = (found.moved_bytes / found.elements).map("{:g}".format)
    for heading, name in (("by copying", "copy_s"), ("by noise", "noise_s"), ("fused", "median_s")):
        made[heading] = cells(found[f"own_{name}"] / found.elements * 1e9, "{:.3g}".format)
    return show(made | {"of the limit": cells(found.own_of_limit, "{:.0%}".format)})


def threads(results: Sequence[Result]) -> str:
    """An op on one processor with several numbers of threads, each in a run of its own."""
    parts = [frames.most_work(frames.cases([result])) for result in results]
    sizes = set.intersection(*(set(part.elements) for part in parts))
    found = pd.concat(parts, ignore_index=True).sort_values(["elements", "dtype", "threads"])
    found = found[found.elements.isin(sizes)]
    made = about(found, "latent", "dtype") | {"threads": found.threads.map(thread_words)}
    words = origin(results, lambda result: thread_words(result["machine"]["threads"]))
    return f"{show(made | rivals(found) | ours(found))}\n\n{SPREAD} {words}"


def calls(result: Result, shown: int = 8) -> str:
    """The worst small calls, each as a part of what it may take at most, and how many keep that."""
    every = pd.DataFrame(result["rows"])
    timed = every[every.status == "ok"]
    within = (timed.ratio <= timed.most).sum()
    worst = timed.loc[(timed.ratio / timed.most).sort_values(ascending=False).index][:shown]
    bands = zip(worst.ratio, worst.low_ratio, worst.high_ratio, strict=True)
    made = {
        "call": worst.work, "size": worst["size"], "by": worst.variant,
        "ours": worst.median_s.map(duration), "formula": worst.formula_s.map(duration),
        "ours / formula": ["**{:.2f}** ({:.2f}-{:.2f})".format(*band) for band in bands],
        "at most": worst.most.map("{:g}".format),
    }  # fmt: skip
    words = f"The {len(worst)} worst of {len(every)} small calls, forward and backward, in"
    words += f" processor time of one thread; {within} take at most what they may."
    return f"{show(made)}\n\n{words} {origin([result])}"


def verdicts(found: Iterable[Verdict]) -> str:
    """Each target with what was measured."""
    header = ("op", "what", "at", "dtype", "must be", "measured", "met")
    return show(dict(zip(header, zip(*map(verdict_cells, found), strict=True), strict=True)))


def verdict_cells(verdict: Verdict) -> list[str]:
    target, measure = verdict.target, targets.MEASURES[verdict.target.measure]
    scale = 100 if measure.unit == "%" else 1
    bound, value, low, high = (f"{scale * one:.3g}" for one in (target.bound, *verdict.band))
    value += measure.unit + ("" if low == high else f" ({low}-{high})")
    return [
        f"`{target.op}`", f"{target.work}: {measure.what}", verdict.size, target.dtype,
        f"at {'least' if measure.at_least else 'most'} {bound}{measure.unit}",
        NOT_MEASURED if verdict.met is None else value,
        {True: "yes", False: "**no**", None: "not measured"}[verdict.met],
    ]  # fmt: skip


def origin(
    results: Sequence[Result],
    named: Callable[[Result], str] = lambda result: f"`{result['settings']['op']}`",
) -> str:
    """The commits and days that results are of, and which are of each where they are several."""
    ops_of: dict[str, list[str]] = {}
    for result in results:
        machine = result["machine"]
        words = f"commit {machine['commit']}, {str(machine['time'])[:10]}{_effort(result)}"
        ops_of.setdefault(words, []).append(named(result))
    if len(ops_of) == 1:
        return f"Measured at {next(iter(ops_of))}."
    parts = [f"{', '.join(names)} at {words}" for words, names in ops_of.items()]
    return f"Measured at several commits or with several efforts: {'; '.join(parts)}."


def _effort(result: Result) -> str:
    words = ", a rough run (`--quick`)" if result["settings"].get("quick") else ""
    return words + (
        "" if result.get("complete", True) else ", **not all that the run was to measure**"
    )
