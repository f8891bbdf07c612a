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
from bench.variants import REFERENCE

# A palette that colour-blind readers can tell apart (Okabe and Ito); ours in green, but the
# specification, which is not meant to be fast, as grey as what is not ours.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#7f7f7f"
# Inches for a bar, for the page and its head, dots for an inch: a page shows text in its size.
BAR, WIDTH, HEAD, DOTS = 0.2, 9.2, 1.0, 150
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
    words = f"{where_words(results[0]['machine'])}; {commits(results)}".replace("; ", "\n")
    paths = []
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        for name, bars in charts(results).items():
            figure = _figure(PICTURES[name], words, bars, log=name.startswith("speedup"))
            for ending, silent in (("png", "Software"), ("svg", "Date")):
                paths.append(folder / f"{name}.{ending}")
                figure.savefig(paths[-1], dpi=DOTS, metadata=about | {silent: None})
    return paths


def commits(results: Iterable[Result]) -> str:
    """Those that results are of, and the days."""
    found = {(str(one["machine"]["commit"]), str(one["machine"]["time"])[:10]) for one in results}
    return ", ".join(f"commit {commit}, {day}" for commit, day in sorted(found))


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
    ops = list(frames.largest(frames.most_work(found[~models])).itertuples())
    bars = {
        "speedup_eager": _shares(ops, "vs_eager", "{:.1f}x"),
        "speedup_compile": _shares(ops, "vs_compile", "{:.1f}x"),
        "copy": _shares(ops, "of_copy", "{:.0%}"),
        "memory_kept": _memory(ops, "saved_bytes"),
        "memory_peak": _memory(ops, "peak_bytes"),
        "steps": _steps(found[models].itertuples()),
    }
    shown = {name: [bar for bar in made if not math.isnan(bar.band.value)]
             for name, made in bars.items()}  # fmt: skip
    return {name: some for name, some in shown.items() if some}


def _colour(backend: object, other: str = GREEN) -> str:
    return GREY if backend == REFERENCE else other


def _label(case: Any) -> str:
    return f"{case.op}, {case.dtype}, {case.size}"


def _shares(ops: Iterable[Any], measure: str, text: str) -> Iterator[Bar]:
    for case in ops:
        band = targets.MEASURES[measure].of(case)
        yield Bar(_label(case), band, text.format(band.value), _colour(case.own_backend))


def _memory(ops: Iterable[Any], measure: str) -> Iterator[Bar]:
    """Bytes for an element, of eager, of torch.compile and of ours."""
    for case in ops:
        for who, colour in (("eager", ORANGE), ("compile", BLUE), ("own", GREEN)):
            backend = getattr(case, f"{who}_backend")
            value = getattr(case, f"{who}_{measure}") / case.elements
            words = f"{value:.3g} bytes an element, {backend}"
            yield Bar(_label(case), Band(value, value, value), words, _colour(backend, colour))


def _steps(models: Iterable[Any]) -> Iterator[Bar]:
    """Times as fast as the eager model."""
    for case in models:
        for who in frames.WHO:
            band, seconds = targets.times(case, "eager", who), getattr(case, f"{who}_median_s")
            words = f"{band.value:.2f}x, {duration(seconds)}, {getattr(case, f'{who}_variant')}"
            own = _colour(getattr(case, f"{who}_backend"))
            yield Bar(f"{case.size}, {case.dtype}", band, words,
                      own if who in ("own", "model") else GREY)  # fmt: skip


def _figure(title: str, words: str, bars: Sequence[Bar], log: bool) -> Figure:
    height = len(bars) * BAR + HEAD + 0.6
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - HEAD / height))
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values, lows, highs = map(pd.Series, zip(*(bar.band for bar in bars), strict=True))
    left, labels = 0.5 if log else 0.0, pd.Series([bar.label for bar in bars])
    drawn = axes.barh(
        values.index, values - left, left=left, height=0.75, color=[bar.colour for bar in bars],
        xerr=[(values - lows).clip(lower=0), (highs - values).clip(lower=0)],
        error_kw={"elinewidth": 0.8},
    )  # fmt: skip
    axes.bar_label(drawn, [bar.text for bar in bars], padding=4, fontsize=8)
    axes.set_yticks(values.index, labels.where(labels != labels.shift(), ""))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    if log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_xlim(left, highs.max() * (3 if log else 1.45) or 1)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    head: dict[str, Any] = {"ha": "center", "va": "top"}
    title = title[0].upper() + title[1:]
    figure.text(0.5, 1 - 0.1 / height, title, fontsize=12, weight="bold", **head)
    figure.text(0.5, 1 - 0.37 / height, f"{words}\nlines: quartiles", fontsize=8, **head)
    return figure
