"""The picture of the gradient estimators: variance, descent, and a normal on its way to a ring."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from drawing import COLORS, DASHES, MARKS, new_figure, save
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.ticker import LogLocator
from torch import Tensor

if TYPE_CHECKING:
    from gradient_estimators import Descents, Pushed, Variances

EDGE = 5.0


def draw(found: Variances, descents: Descents, pushed: Pushed, path: Path) -> None:
    figure = new_figure(12, 6.8)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    left, middle, right = top.subplots(1, 3)
    _variances(left, found)
    _descent(middle, descents)
    _divergence(right, pushed)
    places = bottom.subplots(1, len(pushed.draws) + 1, sharex=True, sharey=True)
    for axes, (step, (z, x)) in zip(places, pushed.draws.items(), strict=False):
        drawn = _points(axes, z, x, f"after {step:,} steps" if step else "at the start")
    bar = bottom.colorbar(drawn, ax=list(places[:-1]), location="left", aspect=12)
    bar.set_ticks((-math.pi, 0, math.pi), labels=("-180°", "0°", "180°"))
    bar.set_label("direction at the start")
    _density(places[-1], pushed)
    save(figure, path)


def _variances(axes: Axes, found: Variances) -> None:
    for index, (name, ratios) in enumerate(found.found.items()):
        style = {"color": COLORS[index], "zorder": 3}
        axes.loglog(found.dimensions, ratios, MARKS[index], ms=5, label=name, **style)
        axes.loglog(found.dimensions, found.formula[name], DASHES[index], lw=1.5, **style)
    axes.set(title="Variance of the gradient from one draw", xlabel="dimensions of z")
    axes.set_ylabel("variance / gradient$^2$")
    axes.legend(frameon=False, title="marks: measured, lines: formula")


def _descent(axes: Axes, descents: Descents) -> None:
    for index, (name, path) in enumerate(descents.paths.items()):
        style = {"color": COLORS[index], "ls": DASHES[index], "lw": 2}
        axes.semilogy([100.0 * part for part in path], label=name, **style)
    axes.set(title=f"Minimizing E[f(z)] in {descents.dimensions} dimensions")
    axes.set(
        xlabel=f"step of Adam, {descents.draws} draws each", ylabel="% of the start that is left"
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low * (low / high) ** 0.4, high)  # room for the legend
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, loc="lower left")


def _divergence(axes: Axes, pushed: Pushed) -> None:
    """Averages of a few steps each, for one batch says little."""
    every = max(1, len(pushed.divergence) // 100)
    means = torch.tensor(pushed.divergence)[: len(pushed.divergence) // every * every]
    means = means.unflatten(0, (-1, every)).mean(1)
    steps = every * torch.arange(1, len(means) + 1)
    axes.semilogy(steps, means, color=COLORS[0], lw=2)
    axes.set(title=f"A normal pushed onto {len(pushed.target.centers)} modes")
    axes.set(xlabel="step of Adam", ylabel="KL(q | p), nats")
    axes.text(
        0.97, 0.92, f"{pushed.final:.2f} nats at the end", transform=axes.transAxes, ha="right"
    )
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def _points(axes: Axes, z: Tensor, x: Tensor, title: str) -> PathCollection:
    """Where the draws came to lie, coloured by the direction in which they left the middle."""
    middle = z - z.mean(0)
    angle = torch.atan2(middle[:, 1], middle[:, 0])
    # A cyclic map that the colour-blind can read: its two ends are one colour.
    cycle = {"cmap": "twilight_shifted", "vmin": -math.pi, "vmax": math.pi}
    drawn = axes.scatter(x[:, 0], x[:, 1], s=3, c=angle.numpy(), lw=0, **cycle)
    _frame(axes, title)
    return drawn


def _density(axes: Axes, pushed: Pushed) -> None:
    line = torch.linspace(-EDGE, EDGE, 201)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    density = torch.exp(pushed.target.log_prob(grid))
    axes.imshow(density.numpy(), extent=(-EDGE, EDGE, -EDGE, EDGE), origin="lower", cmap="Greys")
    _frame(axes, "the density to reach")


def _frame(axes: Axes, title: str) -> None:
    axes.set(title=title, aspect="equal", xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE))
    axes.set(xticks=(-4, 0, 4), yticks=(-4, 0, 4))
    axes.label_outer()
    axes.spines[:].set(visible=True, color="0.7")
