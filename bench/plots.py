"""Pictures of results, PNG and SVG, through matplotlib: the same files from the same results."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from bench import targets
from bench.calls import CALLS
from bench.ops import OPS, WORKS
from bench.report import duration
from bench.rows import (
    STEPS,
    Band,
    Result,
    Row,
    best,
    cases,
    commit_words,
    digest,
    fastest,
    load,
    most_work,
    named,
    read,
    rows_of,
    times_faster,
    where_words,
)
from bench.variants import COMPILE, EAGER, REFERENCE

# A palette that colour-blind readers can tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7f7f7f"
WORK_COLOURS = dict(zip(WORKS, (BLUE, ORANGE, GREEN), strict=True))
STYLES = {"float32": "-", "bfloat16": "--", "float16": ":", "float64": "-."}
# Where only one size was measured there are no lines to tell dtypes apart.
MARKERS = {"float32": "o", "bfloat16": "s", "float16": "^", "float64": "D"}
# Of memory lines, which often coincide: those before are to be seen behind those after.
FUSED = "fused"
MEMORY_STYLES = {
    COMPILE: {"color": BLUE, "linewidth": 5.0, "markersize": 8.0, "alpha": 0.6},
    EAGER: {"color": RED, "linewidth": 2.6, "markersize": 4.0},
    FUSED: {"color": GREEN, "linewidth": 1.0, "markersize": 11.0, "markerfacecolor": "none"},
}
# Panels side by side, inches for each, dots for an inch: so that a page shows the text in its size.
COLUMNS, PANEL, DOTS = 2, (4.6, 3.2), 150
# Inches for the title and what stands below it.
HEAD = 0.85


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
        left = [one for path in options.results if path.is_dir() for one in leftovers(path, made)]
    except ImportError as error:
        print(f"no plots: matplotlib can't be imported here ({error})")
        return 1
    for one in made:
        print(f"wrote {one}")
    for one in left:
        one.unlink()
        print(f"removed {one}, which is of no result here")
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

    settings = {"svg.hashsalt": "fused_reparam", "svg.fonttype": "none", "font.size": 10}
    settings |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
    settings |= {"grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True}
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        return _draw_all(results, folder)


def _draw_all(results: Sequence[Result], folder: Path) -> list[Path]:
    shown = sorted((r for r in results if r["rows"] and r["settings"]["op"] != CALLS), key=place)
    ops = [result for result in shown if result["settings"]["op"] != STEPS]
    steps = [result for result in shown if result["settings"]["op"] == STEPS]
    figures: dict[str, Any] = {}
    if ops:
        figures["speedup_eager"] = _speedup(ops, EAGER, "eager PyTorch")
        figures["speedup_compile"] = _speedup(ops, COMPILE, "torch.compile")
        figures["copy"] = _copy(ops)
        kept = "Kept for the backward pass beyond the inputs, bytes per element"
        peak = "Peak memory of a call, results included, bytes per element"
        memory = {"memory_kept": ("saved_bytes", kept), "memory_peak": ("peak_bytes", peak)}
        for name, (measure, title) in memory.items():
            some = [one for one in ops if any(row.get(measure) for row in one["rows"])]
            if some:
                figures[name] = _memory(some, measure, title)
    if steps:
        figures["steps"] = _steps(steps)
    paths = []
    made_from = {"Description": f"results {digest(results)}"}
    for name, figure in figures.items():
        for ending, silent in (("png", "Software"), ("svg", "Date")):
            path = folder / f"{name}.{ending}"
            figure.savefig(path, dpi=DOTS, metadata=made_from | {silent: None})
            paths.append(path)
    return paths


def leftovers(folder: Path, made: Sequence[Path]) -> list[Path]:
    """Pictures of ours in a folder that were not made with the others: of results that are gone."""
    pictures = [path for path in sorted(folder.glob("*.svg")) if path not in made]
    old = [path for path in pictures if made_from(path.read_text())]
    return [*old, *(png for path in old if (png := path.with_suffix(".png")).exists())]


def place(result: Result) -> tuple[int, str]:
    """Ops in the bench's order, then those that it no longer knows."""
    op = result["settings"]["op"]
    return (list(OPS).index(op) if op in OPS else len(OPS), op)


def made_from(svg: str) -> str | None:
    """The digest of the results that an SVG of ours was made from."""
    before, found, rest = svg.partition("results ")
    return rest[:16] if found and "description" in before[-40:] else None


# --- figures --------------------------------------------------------------------------------------


def _speedup(results: Sequence[Result], rival: str, words: str) -> Any:
    """Times faster than `rival`, by size; both axes logarithmic."""

    def bounds(own: Row, rows: list[Row]) -> Band | None:
        return times_faster(own, fastest(rows, rival))

    figure, panels = _panels(results, f"Times as fast as {words}")
    for axes, result in zip(panels, results, strict=True):
        _lines(axes, result["rows"], bounds)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axes.axhline(1, color="black", linewidth=1)
        _target_marks(axes, result, f"vs_{'eager' if rival == EAGER else 'compile'}")
    _legend(figure, panels)
    return figure


def _copy(results: Sequence[Result]) -> Any:
    """Share of the copy bandwidth measured in the same rounds, by size."""

    def bounds(own: Row, rows: list[Row]) -> Band | None:
        return targets.MEASURES["of_copy"](own, rows, {})

    figure, panels = _panels(results, "Share of copy bandwidth (the same bytes, the same run)")
    for axes, result in zip(panels, results, strict=True):
        _lines(axes, result["rows"], bounds)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.axhline(1, color="black", linewidth=1)
        axes.set_ylim(bottom=0)
        _target_marks(axes, result, "of_copy")
    _legend(figure, panels, note="bands: quartiles")
    return figure


def _memory(results: Sequence[Result], measure: str, title: str) -> Any:
    """Bytes per element of one kind of memory, by size."""
    figure, panels = _panels(results, title)
    for axes, result in zip(panels, results, strict=True):
        _memory_lines(axes, result["rows"], measure)
        # Lines at 0 and at the top stay clear of the frame.
        top = axes.get_ylim()[1]
        axes.set_ylim(-0.03 * top, 1.06 * top)
    _legend(figure, panels, note=None)
    return figure


def _memory_lines(axes: Any, rows: list[Row], measure: str) -> None:
    work = most_work(rows)
    for who, dtype in product(MEMORY_STYLES, dict.fromkeys(r["dtype"] for r in rows)):
        points = []
        for case, same in cases(rows).items():
            row = best(same) if who == FUSED else named(same, who)
            if case.dtype == dtype and case.work == work and row is not None:
                value = row.get(measure)
                if value is not None:
                    points.append((row["elements"], value / row["elements"]))
        if points:
            label = f"{who}, {dtype}"
            style = {"linestyle": STYLES[dtype], "marker": MARKERS[dtype]} | MEMORY_STYLES[who]
            axes.plot(*zip(*sorted(points), strict=True), label=label, clip_on=False, **style)
    _size_axis(axes, rows)


def _steps(results: Sequence[Result]) -> Any:
    """Bars for whole training steps: one panel for each model and dtype."""
    found = cases(rows_of(results))
    figure, panels = _figure(len(found), "Time of one training step", results)
    for axes, (case, rows) in zip(panels, found.items(), strict=True):
        timed = [row for row in rows if row["status"] == "ok"][::-1]
        middles = [row["median_s"] for row in timed]
        below = [row["median_s"] - row["low_s"] for row in timed]
        above = [row["high_s"] - row["median_s"] for row in timed]
        colours = [GREEN if row["ours"] else GREY for row in timed]
        bars = axes.barh([row["variant"] for row in timed], middles, color=colours, height=0.7)
        axes.errorbar(
            middles, range(len(timed)), xerr=[below, above], fmt="none", ecolor="black", capsize=2
        )
        eager = named(rows, EAGER)
        texts = [
            f"  {duration(middle)}" + (f", {eager['median_s'] / middle:.2f}x" if eager else "")
            for middle in middles
        ]
        ends = [m + a for m, a in zip(middles, above, strict=True)]
        for bar, end, text in zip(bars, ends, texts, strict=True):
            axes.text(end, bar.get_y() + bar.get_height() / 2, text, va="center", fontsize=9)
        axes.set_xlim(0, 1.9 * max(ends, default=1))
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: duration(value) if value else "0")
        axes.grid(axis="y", visible=False)
        shape = rows[0]["shape"].replace("x", " x ")
        axes.set_title(f"{case.size}, {case.dtype}\nlatent {shape}", fontsize=9.5)
        axes.tick_params(labelsize=9)
    for axes in panels[-COLUMNS:]:
        axes.set_xlabel("time, and times as fast as eager")
    return figure


# --- parts of figures -----------------------------------------------------------------------------


def _panels(results: Sequence[Result], title: str) -> tuple[Any, list[Any]]:
    figure, panels = _figure(len(results), title, results)
    for axes, result in zip(panels, results, strict=True):
        axes.set_title(result["rows"][0]["op"], fontsize=10)
    # The lowest of each column.
    for axes in panels[-COLUMNS:]:
        axes.set_xlabel("elements of the latent")
    return figure, panels


def _figure(count: int, title: str, results: Sequence[Result]) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(COLUMNS, max(count, 1))
    lines = -(-count // columns)
    # A single panel is wider, for the title's sake.
    width, height = COLUMNS * PANEL[0], lines * PANEL[1] + HEAD + 0.8
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - HEAD / height), h_pad=0.1)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in grid[count:]:
        axes.set_visible(False)
    words = f"{where_words(results[0]['machine'])}; {commit_words(results)}"
    where = words.replace("; ", "\n")
    figure.text(0.5, 1 - 0.1 / height, title, ha="center", va="top", fontsize=13, weight="bold")
    figure.text(0.5, 1 - 0.37 / height, where, ha="center", va="top", fontsize=8)
    return figure, list(grid[:count])


def _lines(axes: Any, rows: list[Row], bounds: Callable[[Row, list[Row]], Band | None]) -> None:
    """One line with its band for each work, dtype and backend of ours."""
    found = cases(rows)
    backends = _backends(rows)
    for work, dtype, backend in product(WORKS, dict.fromkeys(r["dtype"] for r in rows), backends):
        points = []
        for case, same in found.items():
            own = named(same, backend)
            if (case.work, case.dtype) == (work, dtype) and own is not None:
                point = bounds(own, same)
                if point is not None:
                    points.append((own["elements"], *point))
        if not points:
            continue
        sizes, middle, low, high = zip(*sorted(points), strict=True)
        colour = WORK_COLOURS[work]
        style = {"color": colour, "linestyle": STYLES[dtype], "marker": MARKERS[dtype]}
        style |= {"markerfacecolor": "none"} if backend == REFERENCE else {}
        several = len(backends) > 1 or backend == REFERENCE
        label = f"{work}, {dtype}" + (f" ({backend})" if several else "")
        axes.plot(sizes, middle, label=label, markersize=4, linewidth=1.6, **style)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.1, linewidth=0)
    _size_axis(axes, rows)


def _backends(rows: list[Row]) -> list[str]:
    """Ours; the specification only where it is all that there is."""
    names = dict.fromkeys(r["variant"] for r in rows if r["ours"])
    fast = [name for name in names if name != REFERENCE]
    return fast or list(names)


def _size_axis(axes: Any, rows: list[Row]) -> None:
    names = {row["elements"]: row["size"] for row in rows}
    axes.set_xscale("log")
    axes.set_xticks(list(names), list(names.values()), rotation=40, ha="right", fontsize=9)
    axes.minorticks_off()


def _target_marks(axes: Any, result: Result, measure: str) -> None:
    """A short line at each size that a target holds for, in the colour of its work."""
    rows = result["rows"]
    counts = sorted({row["elements"] for row in rows})
    style = {"linestyle": "none", "marker": "_", "markersize": 22, "markeredgewidth": 2.2}
    style |= {"zorder": 1.9}  # behind the lines
    for target in targets.of(result["machine"]["device_type"], rows[0]["op"], measure):
        held = [count for count in counts if target.holds_for(count)]
        if held:
            axes.plot(held, [target.bound] * len(held), color=WORK_COLOURS[target.work], **style)
            axes.plot([], [], color=GREY, label="target of a work", **style)


def _legend(
    figure: Any, panels: Sequence[Any], note: str | None = "bands: quartiles of both"
) -> None:
    """One for all panels, below them."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=3, fontsize=8.5,
            frameon=False, title=note, title_fontsize=8, handlelength=3.2,
        )  # fmt: skip
