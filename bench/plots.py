"""Pictures of results, PNG and SVG, through matplotlib: the same files from the same results.

Times and shares are horizontal bars and bytes are marks on a line: of every op and dtype at the
largest size that was measured, and of whole training steps.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bench import frames, targets
from bench.ops import OPS
from bench.report import duration
from bench.results import STEPS, Result, digest, load, where_words
from bench.targets import Band
from bench.variants import REFERENCE


class Style(NamedTuple):
    """Who a bar or a mark is of. No two share a colour, a hatch or a mark."""

    name: str
    colour: str
    hatch: str
    mark: str


# The palette is Okabe and Ito's, which colour-blind readers can tell apart. Ours is green, but the
# specification, which is not meant to be fast, grey.
EAGER = Style("eager PyTorch", "#E69F00", "\\\\", "^")
COMPILE = Style("torch.compile", "#56B4E9", "//", "s")
OURS = Style("fused_reparam", "#009E73", "", "o")
OURS_COMPILED = Style("fused_reparam, compiled model", "#0072B2", "..", "D")
SPECIFICATION = Style("fused_reparam in plain PyTorch", "#7f7f7f", "xx", "v")
# Inches for a bar, for the least width of the page, and for a line of its head; dots for an inch.
BAR, WIDTH, LINE, DOTS = 0.2, 9.2, 0.15, 150
QUARTILES = "The lines through the ends of the bars go from quartile to quartile."


class Chart(NamedTuple):
    """What a picture is called, and what its horizontal axis shows."""

    title: str
    axis: str
    log: bool = False
    marks: bool = False
    """Marks on a line for each label in place of bars: exact numbers, which have no quartiles."""


PICTURES = {
    "speedup_eager": Chart("times as fast as eager PyTorch", "eager's time over ours", log=True),
    "speedup_compile": Chart(
        "times as fast as torch.compile", "torch.compile's time over ours", log=True),
    "copy": Chart("share of copy bandwidth", "time to copy as many bytes over our time"),
    "memory_kept": Chart("memory kept for the backward pass",
                         "bytes of each element, beyond the inputs", marks=True),
    "memory_peak": Chart("peak memory", "bytes of each element, beyond the inputs", marks=True),
    "steps": Chart("a whole training step, times as fast as in eager PyTorch",
                   "eager PyTorch's time over each one's time"),
}  # fmt: skip


class Bar(NamedTuple):
    """A bar, or a mark without words. Bars of one label stand together."""

    label: str
    band: Band
    text: str
    style: Style


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
    words = f"{where_words(results[0]['machine'])}; {commits(results)}".split("; ")
    paths = []
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        for name, bars in charts(results).items():
            figure = _figure(PICTURES[name], words, bars)
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
    models = found.op == STEPS  # of which the front page shows some
    ops = list(frames.largest(frames.most_work(found[~models])).itertuples())
    bars = {
        "speedup_eager": _shares(ops, "vs_eager", "{:.1f}x"),
        "speedup_compile": _shares(ops, "vs_compile", "{:.1f}x"),
        "copy": _shares(ops, "of_copy", "{:.0%}"),
        "memory_kept": _memory(ops, "saved_bytes"),
        "memory_peak": _memory(ops, "peak_bytes"),
        "steps": _steps(frames.front(found[models]).itertuples()),
    }
    shown = {name: [bar for bar in made if not math.isnan(bar.band.value)]
             for name, made in bars.items()}  # fmt: skip
    return {name: some for name, some in shown.items() if some}


def _own(case: Any, who: str = "own", style: Style = OURS) -> Style:
    return SPECIFICATION if getattr(case, f"{who}_backend") == REFERENCE else style


def _label(case: Any) -> str:
    return f"{case.op}, {case.dtype}, {case.size}"


def _shares(ops: Iterable[Any], measure: str, text: str) -> Iterator[Bar]:
    for case in ops:
        band = targets.MEASURES[measure].of(case)
        yield Bar(_label(case), band, text.format(band.value), _own(case))


def _memory(ops: Iterable[Any], measure: str) -> Iterator[Bar]:
    """Bytes for an element, of eager, of torch.compile and of ours."""
    for case in ops:
        for who, style in (("eager", EAGER), ("compile", COMPILE), ("own", _own(case))):
            value = getattr(case, f"{who}_{measure}") / case.elements
            yield Bar(_label(case), Band(value, value, value), "", style)


def _steps(models: Iterable[Any]) -> Iterator[Bar]:
    """Times as fast as the eager model."""
    for case in models:
        label = f"{case.size}, {case.dtype}\nlatent {case.shape.replace('x', ' x ')}"
        own = (("own", _own(case)), ("model", _own(case, "model", OURS_COMPILED)))
        for who, style in (("eager", EAGER), ("compile", COMPILE), *own):
            band, seconds = targets.times(case, "eager", who), getattr(case, f"{who}_median_s")
            yield Bar(label, band, f"{band.value:.2f}x, {duration(seconds)}", style)


def _figure(chart: Chart, words: Sequence[str], bars: Sequence[Bar]) -> Figure:
    """Labels down, a legend beside the bars, and of what they were made over them."""
    labels = list(dict.fromkeys(bar.label for bar in bars))
    styles = [style for style in (EAGER, COMPILE, OURS, OURS_COMPILED, SPECIFICATION)
              if any(bar.style == style for bar in bars)]  # fmt: skip
    single = chart.marks or len(labels) == len(bars)
    # Between labels with several bars each there is room of half a bar.
    places = [labels.index(bar.label) if single else at + labels.index(bar.label) / 2
              for at, bar in enumerate(bars)]  # fmt: skip
    words = [*words, *([] if chart.marks else [QUARTILES])]
    head = LINE * (len(words) + 3)
    height = (places[-1] + 1) * BAR + head + 0.8
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - head / height))
    figure = Figure(figsize=(max(WIDTH, height), height), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    left = 0.5 if chart.log else 0.0
    for style in styles:
        mine = [(at, bar) for at, bar in zip(places, bars, strict=True) if bar.style == style]
        _marks(axes, style, mine) if chart.marks else _bars(axes, style, mine, left)
    at_label = pd.Series(places).groupby([bar.label for bar in bars], sort=False).mean()
    axes.set_yticks(at_label, list(at_label.index))
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlabel(chart.axis)
    if chart.log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    elif chart is PICTURES["copy"]:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    room = 1.05 if chart.marks else 3 if chart.log else 1.25  # for the words at the bars' ends
    axes.set_xlim(left, max(bar.band.high for bar in bars) * room or 1)
    if not chart.marks:
        axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    if len(styles) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    middle: dict[str, Any] = {"ha": "center", "va": "top"}
    title = chart.title[0].upper() + chart.title[1:]
    figure.text(0.5, 1 - LINE / 2 / height, title, fontsize=12, weight="bold", **middle)
    text = "\n".join(words)
    figure.text(0.5, 1 - 2.5 * LINE / height, text, fontsize=8, linespacing=1.25, **middle)
    return figure


Placed = Sequence[tuple[float, Bar]]


def _bars(axes: Axes, style: Style, mine: Placed, left: float) -> None:
    bands = [bar.band for _, bar in mine]
    drawn = axes.barh(
        [at for at, _ in mine], [band.value - left for band in bands], left=left, height=0.8,
        color=style.colour, hatch=style.hatch, edgecolor="white", linewidth=0, label=style.name,
        xerr=[[max(band.value - band.low, 0) for band in bands],
              [max(band.high - band.value, 0) for band in bands]],
        error_kw={"elinewidth": 0.8},
    )  # fmt: skip
    axes.bar_label(drawn, [bar.text for _, bar in mine], padding=4, fontsize=8)


def _marks(axes: Axes, style: Style, mine: Placed) -> None:
    """Ours are full and small, so that an open mark that they coincide with is seen around them."""
    own = style in (OURS, SPECIFICATION)
    axes.plot(
        [bar.band.value for _, bar in mine], [at for at, _ in mine], style.mark, label=style.name,
        color=style.colour, fillstyle="full" if own else "none", markersize=4 if own else 8,
        zorder=3, clip_on=False,
    )  # fmt: skip
