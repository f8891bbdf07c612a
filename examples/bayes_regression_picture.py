"""The picture of the regression example: predictions with their bands, coverage, step times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from drawing import COLORS, DASHES, MARKS, new_figure, save
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from predictive import coverage, predict

if TYPE_CHECKING:
    from bayes_regression import Run, StepTimes
    from diabetes import Fold

BAND = 0.9


def draw(
    runs: Mapping[str, Sequence[Run]], fold: Fold, measured: Sequence[StepTimes], path: Path
) -> None:
    figure = new_figure(13, 4.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.8, 1, 1))
    networks = list(measured[0].seconds)
    _bands(left, {name: runs[name][0] for name in networks}, fold)
    _coverage(middle, {name: runs[name] for name in networks})
    _times(right, measured)
    save(figure, path)


def _bands(axes: Axes, runs: Mapping[str, Run], fold: Fold) -> None:
    """The fused network's bands and mean; of the others, the edges of the outer band."""
    grid = torch.linspace(12.0, 52.0, 161)
    written, fused, fixed = (predict(run.model, grid, fold.scaling) for run in runs.values())
    names = list(runs)
    for (low, high), alpha, label in (
        (fused.band(BAND), 0.2, f"{BAND:.0%} of patients, {names[1]}"),
        (fused.band_of_means(BAND), 0.5, f"{BAND:.0%} of mean curves, {names[1]}"),
    ):
        axes.fill_between(grid, low, high, color=COLORS[1], alpha=alpha, lw=0, label=label)
    axes.plot(grid, fused.means.mean(0), color=COLORS[1], lw=2, label=f"mean, {names[1]}")
    for found, index in ((written, 0), (fixed, 2)):
        style = {"color": COLORS[index], "lw": 1.6, "ls": DASHES[index]}
        for edge, label in zip(found.band(BAND), (f"{BAND:.0%}, {names[index]}", ""), strict=True):
            axes.plot(grid, edge, label=label, **style)
    kept = fold.scaling.y_mean + fold.scaling.y_std * fold.y
    places = fold.scaling.x_mean + fold.scaling.x_std * fold.x
    axes.scatter(places, kept, s=6, color="0.5", lw=0, label="patients learnt from")
    axes.scatter(fold.x_out, fold.y_out, s=14, color="black", marker="x", lw=1, label="held out")
    axes.set(title="Sure where there are patients, unsure where there are none", xlim=(12, 52))
    axes.set(xlabel="body mass index, kg / m$^2$", ylim=(-120, 680))
    axes.set_ylabel("progression of diabetes after one year (score)")
    axes.legend(frameon=False, ncols=2, loc="upper left", fontsize=9)


def _coverage(axes: Axes, runs: Mapping[str, Sequence[Run]]) -> None:
    """Promised and found coverage, in the region where chance alone keeps 95% of such figures."""
    shares = torch.linspace(0.0, 1.0, 41)
    count = sum(len(run.below) for run in next(iter(runs.values())))
    chance = 1.96 * torch.sqrt(shares * (1 - shares) / count)
    axes.fill_between(shares, shares - chance, shares + chance, color="0.88", lw=0, label="chance")
    axes.plot((0, 1), (0, 1), color="0.4", lw=1, label="as promised")
    for index, (name, of) in enumerate(runs.items()):
        below = torch.cat([run.below for run in of])
        found = [coverage(below, share) for share in shares.tolist()]
        style = {"color": COLORS[index], "ls": DASHES[index], "lw": 2, "zorder": 3 + index}
        axes.plot(shares, found, label=name, **style)
    axes.set(title=f"Does a band hold what it promises?\n{count} held-out patients")
    axes.set(xlabel="share of patients that the band promises", ylabel="share that it holds")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False)


def _times(axes: Axes, measured: Sequence[StepTimes]) -> None:
    """Step times over the number of weights, at each how many times as fast fused is."""
    weights = [m.weights for m in measured]
    for index, name in enumerate(measured[0].seconds):
        medians = [m.seconds[name][0] * 1e3 for m in measured]
        spreads = [m.seconds[name][1] * 1e3 for m in measured]
        style = {
            "color": COLORS[index],
            "ls": DASHES[index],
            "lw": 2,
            "marker": MARKS[index],
            "ms": 5,
        }
        axes.errorbar(weights, medians, yerr=spreads, label=name, capsize=2, **style)
    for m in measured:
        slowest = max(middle for middle, _ in m.seconds.values()) * 1e3
        axes.annotate(f"{m.ratio[0]:.1f}x", (m.weights, slowest), (0, 8),
                      textcoords="offset points", ha="right", weight="bold")  # fmt: skip
    first, second, *_ = measured[0].seconds
    axes.set(
        title=f"A training step\n(bold: {second} over {first})",
        ylabel="forward, backward and update, ms",
    )
    axes.set(xscale="log", yscale="log", xlabel="weights in the network")
    axes.margins(0.25, 0.2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.xaxis.set_minor_formatter("")
    axes.legend(frameon=False)
