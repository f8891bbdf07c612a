"""What the pictures of the examples share: style, curves over seeds, tiles of images, bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")  # no window: the picture goes to a file

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from digits import Data

# Okabe and Ito's, which the colour-blind can tell apart; each with a dash and a mark of its own.
COLORS = ("#0072B2", "#D55E00", "#009E73")
DASHES, MARKS = ("-", "--", ":"), ("o", "s", "^")
ROW_OF_DIGITS, SAMPLES = 12, 13


def new_figure(width: float, height: float) -> Figure:
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    return plt.figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Writes the picture to `path`, whose folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    print(f"\nwrote {path}")


def curves(axes: Axes, runs: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Mean over the runs of each name with their range, by epoch.

    The first epochs, which would take most of the height, are cut off.
    """
    for index, (name, of) in enumerate(runs.items()):
        found = torch.tensor(of)
        epochs = range(1, found.shape[1] + 1)
        style = {"color": COLORS[index], "lw": 2, "ls": DASHES[index]}
        axes.plot(epochs, found.mean(0).numpy(), label=name, zorder=3 + index, **style)
        low, high = found.min(0).values.numpy(), found.max(0).values.numpy()
        axes.fill_between(epochs, low, high, color=COLORS[index], alpha=0.15, lw=0)
    every = torch.tensor([run for of in runs.values() for run in of])
    bottom, top = every.min().item(), every[:, every.shape[1] // 12].max().item()
    axes.set_ylim(bottom - 0.05 * (top - bottom), top)
    axes.set_xlabel("epoch")
    axes.legend(frameon=False, title=f"mean and range of {len(next(iter(runs.values())))} seeds")


def time_bars(axes: Axes, times: Mapping[str, tuple[float, float]], words: Sequence[str]) -> None:
    """Medians and spreads in seconds as bars in microseconds, names and words over them."""
    medians = [middle * 1e6 for middle, _ in times.values()]
    spreads = [half * 1e6 for _, half in times.values()]
    rows = range(len(medians) - 1, -1, -1)
    axes.barh(rows, medians, xerr=spreads, color=COLORS, height=0.42, error_kw={"lw": 1})
    for row, name, median, word in zip(rows, times, medians, words, strict=False):
        axes.text(0, row + 0.3, f"{name}: {median:,.0f} µs, {word}", va="center")
    axes.set(xlabel="forward and backward, µs", yticks=[])
    axes.set_ylim(-0.5, len(medians) - 0.4)
    axes.set_xlim(0, 1.4 * max(medians))  # an error bar may leave it: the figure is written
    axes.spines["left"].set_visible(False)


@torch.no_grad()
def reconstructions(
    axes: Axes, models: Mapping[str, Callable[[Tensor], Tensor]], data: Data
) -> None:
    """Two blocks of rows: images that were held out, then what each model makes of them."""
    blocks = data.test[: 2 * ROW_OF_DIGITS].chunk(2)
    rows = [row for x in blocks for row in (x, *(rebuilt(x) for rebuilt in models.values()))]
    names, height = ["held-out", *models] * 2, 1 + len(models)
    show(axes, tiles(rows, data.side, gap_every=height))
    axes.set_title("Held-out digits and their reconstructions")
    pitch = data.side + 1
    places = [(row + 0.5) * pitch + row // height * pitch / 2 for row in range(len(names))]
    axes.set_yticks(places, names)
    axes.tick_params(length=0)


@torch.no_grad()
def samples(axes: Axes, decoded: Callable[[int], Tensor], side: int) -> None:
    """Images that nobody wrote: `decoded(count)` of draws from the prior."""
    show(axes, tiles(decoded(7 * SAMPLES).split(SAMPLES), side))
    axes.set_title("Samples from the prior, fused")
    axes.set_yticks([])


def tiles(rows: Sequence[Tensor], side: int, gap_every: int = 0) -> Tensor:
    """Rows of images as one image, a white line between them."""
    lines: list[Tensor] = []
    for index, row in enumerate(rows):
        if gap_every and index and index % gap_every == 0:
            lines.append(torch.full((lines[0].shape[0] // 2, lines[0].shape[1]), torch.nan))
        squares = row.reshape(-1, side, side)
        squares = torch.nn.functional.pad(squares, (0, 1, 0, 1), value=torch.nan)
        lines.append(torch.cat(list(squares), dim=1))
    return torch.cat(lines)


def show(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
