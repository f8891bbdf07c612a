"""Pictures of results, PNG and SVG, through matplotlib: the same files from the same results.

Each is one chart of horizontal bars: of every op and dtype, at the largest size that was measured.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bench import frames, targets
from bench.ops import OPS
from bench.report import duration
from bench.results import STEPS, Result, digest, load, where_words
from bench.targets import Band
from bench.variants import COMPILE, EAGER, REFERENCE

# A palette that colour-blind readers can tell apart (Okabe and Ito); ours in green, but the
# specification, which is not meant to be fast, as grey as what is not ours.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#7f7f7f"
# Inches for a bar, for the page and its head, dots for an inch: a page shows text in its size.
BAR, WIDTH, HEAD, DOTS = 0.2, 9.2, 1.0, 150
# More commits are not named in a picture's head.
MOST_COMMITS = 5
PICTURES = {
    "speedup_eager": "times as fast as eager PyTorch",
    "speedup_compile": "times as fast as torch.compile",
    "copy": "share of copy bandwidth",
    "memory_kept": "memory kept for the backward pass",
    "memory_peak": "peak memory",
    "steps": "training steps, times as fast as eager",
}


class Bar(NamedTuple):
    """Of bars of one label only the first is labelled."""

    label: str
    band: Band
    text: str
    colour: str
    asked: float | None = None
    """Where a target stands."""


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench plots", description="PNG and SVG into the folder of the results."
    )
    parser.add_argument("folders", nargs="+", type=Path, help="each of one machine's results")
    options = parser.parse_args(words)
    try:
        found = {folder: load(folder) for folder in options.folders}
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    for folder, results in found.items():
        made = draw(results, folder)
        print("\n".join(f"wrote {path}" for path in made))
        for path in sorted(folder.glob("*.svg")):
            if path not in made and made_from(path.read_text()):
                print(f"removed {path} and .png, which are of no result here")
                path.unlink()
                path.with_suffix(".png").unlink(missing_ok=True)
    return 0


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draws one machine's results; returns the files."""
    settings = {"svg.hashsalt": "fused_reparam", "svg.fonttype": "none", "font.size": 9}
    settings |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    about = {"Description": f"results {digest(results)}"}
    words = f"{where_words(results[0]['machine'])}; {commit_words(results)}".replace("; ", "\n")
    paths = []
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        for name, bars in charts(results).items():
            figure = _figure(PICTURES[name], words, bars, log=name.startswith("speedup"))
            for ending, silent in (("png", "Software"), ("svg", "Date")):
                paths.append(folder / f"{name}.{ending}")
                figure.savefig(paths[-1], dpi=DOTS, metadata=about | {silent: None})
    return paths


def commit_words(results: Iterable[Result]) -> str:
    """The commits and days that results are of."""
    machines = [result["machine"] for result in results]
    commits = sorted({str(machine["commit"]) for machine in machines})
    days = sorted({str(machine["time"])[:10] for machine in machines})
    words = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"
    return ", ".join([words if len(commits) <= MOST_COMMITS else "several commits", *days])


def made_from(svg: str) -> str | None:
    """The digest of the results that an SVG of ours was made from."""
    before, found, rest = svg.partition("results ")
    return rest[:16] if found and "description" in before[-40:] else None


def place(result: Result) -> tuple[int, str]:
    """Ops in the bench's order, then those that it no longer knows."""
    op = result["settings"]["op"]
    return (list(OPS).index(op) if op in OPS else len(OPS), op)


# --- what is drawn --------------------------------------------------------------------------------


def charts(results: Sequence[Result]) -> dict[str, list[Bar]]:
    """The bars of each picture that there is something to show in."""
    found = frames.cases(sorted(results, key=place))
    models = found.op == STEPS
    ops = frames.largest(frames.most_work(found[~models]))
    bars = {
        "speedup_eager": _each(ops, "vs_eager", "{:.1f}x"),
        "speedup_compile": _each(ops, "vs_compile", "{:.1f}x"),
        "copy": _each(ops, "of_copy", "{:.0%}"),
        "memory_kept": _memory(ops, "saved_bytes"),
        "memory_peak": _memory(ops, "peak_bytes"),
        "steps": _steps(found[models]),
    }
    return {name: some for name, made in bars.items() if (some := list(made))}


def colour_of(backend: str) -> str:
    return GREY if backend == REFERENCE else GREEN


def _label(case: Any) -> str:
    return f"{case.op}, {case.dtype}, {case.size}"


def _each(ops: pd.DataFrame, measure: str, text: str) -> Iterator[Bar]:
    """A bar for each op that has the measure, and what is asked of it."""
    for case in ops.itertuples():
        band = targets.MEASURES[measure](case)
        if not math.isnan(band.value):
            target = targets.asked(case).get(measure)
            bound = target.bound if target else None
            colour = colour_of(str(case.own_backend))
            yield Bar(_label(case), band, text.format(band.value), colour, bound)


def _memory(ops: pd.DataFrame, measure: str) -> Iterator[Bar]:
    """Bytes for an element, of eager, of torch.compile and of ours."""
    for case in ops.itertuples():
        own = str(case.own_backend)
        for who, colour, name in (("eager", ORANGE, EAGER), ("compile", BLUE, COMPILE),
                                  ("own", colour_of(own), own)):  # fmt: skip
            value = getattr(case, f"{who}_{measure}") / case.elements
            if not math.isnan(value):
                words = f"{value:.3g} bytes an element, {name}"
                yield Bar(_label(case), Band(value, value, value), words, colour)


def _steps(models: pd.DataFrame) -> Iterator[Bar]:
    """Times as fast as the eager model."""
    for case in models.itertuples():
        for who in frames.WHO:
            band, seconds = targets.times(case, "eager", who), getattr(case, f"{who}_median_s")
            if not math.isnan(band.value):
                words = f"{band.value:.2f}x, {duration(seconds)}, {getattr(case, f'{who}_variant')}"
                own = who in ("own", "model")
                colour = colour_of(getattr(case, f"{who}_backend")) if own else GREY
                yield Bar(f"{case.size}, {case.dtype}", band, words, colour)


def _figure(title: str, words: str, bars: Sequence[Bar], log: bool) -> Any:
    height = len(bars) * BAR + HEAD + 0.6
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - HEAD / height))
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels = [bar.label if i == 0 or bars[i - 1].label != bar.label else ""
              for i, bar in enumerate(bars)]  # fmt: skip
    places = range(len(bars))
    values, lows, highs = zip(*(bar.band for bar in bars), strict=True)
    left = 0.5 if log else 0.0
    axes.barh(places, [value - left for value in values], left=left, height=0.75,
              color=[bar.colour for bar in bars])  # fmt: skip
    errors = [[max(v - low, 0) for v, low in zip(values, lows, strict=True)],
              [max(high - v, 0) for v, high in zip(values, highs, strict=True)]]  # fmt: skip
    axes.errorbar(values, places, xerr=errors, fmt="none", ecolor="black", elinewidth=0.8)
    for i, bar in enumerate(bars):
        axes.annotate(bar.text, (max(highs[i], values[i]), i), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
        if bar.asked is not None:
            axes.plot([bar.asked] * 2, [i - 0.45, i + 0.45], color="black", linewidth=2)
    axes.set_yticks(places, labels)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    if log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_xlim(left, max(highs) * (3 if log else 1.45) or 1)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    note = "lines: quartiles; a thick line is what is asked for"
    bold: dict[str, Any] = {"fontsize": 12, "weight": "bold"}
    figure.text(0.5, 1 - 0.1 / height, title[0].upper() + title[1:], ha="center", va="top", **bold)
    figure.text(0.5, 1 - 0.37 / height, f"{words}\n{note}", ha="center", va="top", fontsize=8)
    return figure
