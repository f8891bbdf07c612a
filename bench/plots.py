"""Pictures of results, PNG and SVG, through matplotlib: the same files from the same results.

Each is one chart of horizontal bars: of every op and dtype, at the largest size that was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import targets
from bench.ops import OPS
from bench.report import duration
from bench.results import (
    CALLS,
    STEPS,
    Band,
    Result,
    Rivals,
    Row,
    backend_of,
    commit_words,
    digest,
    largest,
    load,
    most_work,
    read,
    rivals,
    times_faster,
    where_words,
)
from bench.variants import COMPILE, EAGER, REFERENCE

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
    asked: float | None = None
    """Where a target stands."""


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench plots", description="PNG and SVG into the folder of the results."
    )
    parser.add_argument("results", nargs="+", type=Path, help="a machine's folder, or result JSONs")
    options = parser.parse_args(words)
    try:
        folders = _folders(options.results)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    try:
        made = [one for folder, results in folders.items() for one in draw(results, folder)]
    except ImportError as error:
        print(f"no plots: matplotlib can't be imported here ({error})")
        return 1
    for one in made:
        print(f"wrote {one}")
    for folder in filter(Path.is_dir, options.results):
        for path in sorted(folder.glob("*.svg")):
            if path not in made and made_from(path.read_text()):
                print(f"removed {path} and .png, which are of no result here")
                path.unlink()
                path.with_suffix(".png").unlink(missing_ok=True)
    return 0


def _folders(paths: Sequence[Path]) -> dict[Path, list[Result]]:
    """The results of each machine's folder.

    Raises:
        ValueError: there are none, or a file is no result; one sentence.
    """
    folders: dict[Path, list[Result]] = {}
    for path in paths:
        found = load(path) if path.is_dir() else [read(path)]
        folders.setdefault(path if path.is_dir() else path.parent, []).extend(found)
    if not any(folders.values()):
        raise ValueError(f"no result of python -m bench in {', '.join(map(str, paths))}")
    return folders


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draws one machine's results; returns the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

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
    shown = sorted((r for r in results if r["settings"]["op"] not in (STEPS, CALLS)), key=place)
    ops = largest(most_work(rivals(shown)))
    steps = rivals(result for result in results if result["settings"]["op"] == STEPS)
    found = {
        "speedup_eager": [*_each(ops, "vs_eager", "{:.1f}x")],
        "speedup_compile": [*_each(ops, "vs_compile", "{:.1f}x")],
        "copy": [*_each(ops, "of_copy", "{:.0%}")],
        "memory_kept": [bar for one in ops for bar in _memory(one, "saved_bytes")],
        "memory_peak": [bar for one in ops for bar in _memory(one, "peak_bytes")],
        "steps": [bar for one in steps for bar in _steps(one)],
    }
    return {name: bars for name, bars in found.items() if bars}


def colour_of(row: Row) -> str:
    return GREEN if row["ours"] and backend_of(row) != REFERENCE else GREY


def _label(one: Rivals) -> str:
    return f"{one.case.op}, {one.case.dtype}, {one.case.size}"


def _each(ops: Sequence[Rivals], measure: str, text: str) -> list[Bar]:
    """A bar for each op that has the measure, and what is asked of it."""
    bars = []
    for one in ops:
        band = targets.MEASURES[measure](one.own, one, {}) if one.own else None
        if one.own and band is not None:
            target = targets.asked(one).get(measure)
            words, bound = text.format(band.value), target.bound if target else None
            bars.append(Bar(_label(one), band, words, colour_of(one.own), bound))
    return bars


def _memory(one: Rivals, measure: str) -> list[Bar]:
    """Bytes for an element, of eager, of torch.compile and of ours."""
    bars = []
    rows = ((one.named(EAGER), ORANGE, EAGER), (one.compiled, BLUE, COMPILE), (one.own, None, ""))
    for row, colour, name in rows:
        if row is not None and row.get(measure) is not None:
            value = row[measure] / one.elements
            words = f"{value:.3g} bytes an element, {name or backend_of(row)}"
            band = Band(value, value, value)
            bars.append(Bar(_label(one), band, words, colour or colour_of(row)))
    return bars


def _steps(one: Rivals) -> list[Bar]:
    """Times as fast as the eager model."""
    bars, eager = [], one.named(EAGER)
    for row in one.rows:
        band = times_faster(row, eager) if row["status"] == "ok" else None
        if band is not None:
            words = f"{band.value:.2f}x, {duration(row['median_s'])}, {row['variant']}"
            bars.append(Bar(f"{one.case.size}, {one.case.dtype}", band, words, colour_of(row)))
    return bars


def _figure(title: str, words: str, bars: Sequence[Bar], log: bool) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

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
