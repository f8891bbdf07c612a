"""The picture of the digits example: ELBO curves, reconstructions, samples, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")  # no window: the picture goes to a file

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

if TYPE_CHECKING:
    from vae_digits import Data, Measured, Run

COLORS = ("#4c6a92", "#d9822b", "#3a9a6b")
ROW_OF_DIGITS, SAMPLES = 12, 13


def draw(
    runs: Mapping[str, Sequence[Run]], measured: Mapping[str, Measured], data: Data, path: Path
) -> None:
    """Writes the picture to `path`, whose folder is made where it is missing."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(12, 7.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    left, middle, right = top.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
    _held_out(left, runs)
    _difference(middle, runs)
    _times(right, measured)
    reconstructions, samples = bottom.subplots(1, 2, width_ratios=(1.07, 1))
    textbook, fused = list(runs)[:2]
    models = {name: runs[name][0].model for name in (textbook, fused)}
    _reconstructions(reconstructions, models, data)
    _samples(samples, models[fused], data)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _held_out(axes: Axes, runs: Mapping[str, Sequence[Run]]) -> None:
    """Mean over seeds with the range; the third curve is dashed, for it hides the first."""
    for index, (name, of) in enumerate(runs.items()):
        curves = torch.tensor([run.held_out for run in of])
        epochs = range(1, curves.shape[1] + 1)
        style = {"color": COLORS[index], "lw": 2, "ls": "--" if index == 2 else "-"}
        axes.plot(epochs, curves.mean(0).numpy(), label=name, zorder=3 + index, **style)
        low, high = curves.min(0).values.numpy(), curves.max(0).values.numpy()
        axes.fill_between(epochs, low, high, color=COLORS[index], alpha=0.15, lw=0)
    last = torch.tensor([run.held_out for of in runs.values() for run in of])
    bottom = last.min().item()
    first = last[:, last.shape[1] // 12].max().item()
    axes.set_ylim(bottom - 0.05 * (first - bottom), first)
    axes.set(title="Negative ELBO, held-out images", xlabel="epoch", ylabel="nats per image")
    axes.legend(frameon=False, title=f"mean and range of {len(next(iter(runs.values())))} seeds")


def _difference(axes: Axes, runs: Mapping[str, Sequence[Run]]) -> None:
    """How far the others' training losses are from the textbook's, at worst, in each epoch."""
    (_, base), *others = runs.items()
    textbook = torch.tensor([run.step_losses for run in base])
    epochs = len(base[0].held_out)
    for index, (name, of) in enumerate(others, start=1):
        gaps = torch.tensor([run.step_losses for run in of]) - textbook
        worst = gaps.abs().unflatten(1, (epochs, -1)).amax((0, 2))
        axes.semilogy(range(1, epochs + 1), worst.numpy(), color=COLORS[index], lw=2, label=name)
    level = textbook.mean().item()
    axes.axhline(level, color="0.5", lw=1, ls=":")
    axes.annotate("the loss itself", (epochs, level), (0, 3), textcoords="offset points",
                  ha="right", color="0.4")  # fmt: skip
    axes.set(title="Training loss, distance to the textbook's", xlabel="epoch")
    axes.set(ylabel="nats per image, largest of the epoch", ylim=(1e-6, 2e3))
    axes.legend(frameon=False, loc="lower right")


def _times(axes: Axes, measured: Mapping[str, Measured]) -> None:
    """Bars of the latent's time and of the bytes kept, with the figures written on them."""
    names = list(measured)
    times = [measured[name].latent[0] * 1e6 for name in names]
    spreads = [measured[name].latent[1] * 1e6 for name in names]
    rows = range(len(names) - 1, -1, -1)
    axes.barh(rows, times, xerr=spreads, color=COLORS, height=0.42, error_kw={"lw": 1})
    for row, name, time in zip(rows, names, times, strict=True):
        axes.text(
            0, row + 0.3, f"{name}: {time:.0f} us, keeps {measured[name].saved:,} B", va="center"
        )
    axes.set(title="The latent alone", xlabel="us, forward and backward", yticks=[])
    axes.set_ylim(-0.5, len(names) - 0.4)
    axes.set_xlim(0, 1.4 * max(times))  # an error bar may leave the picture: the figure is written
    axes.spines["left"].set_visible(False)


@torch.no_grad()
def _reconstructions(axes: Axes, models: Mapping[str, torch.nn.Module], data: Data) -> None:
    """Blocks of three rows: held-out digits, then what each model makes of them."""
    blocks = []
    for block in range(2):
        x = data.test[block * ROW_OF_DIGITS : (block + 1) * ROW_OF_DIGITS]
        blocks += [x, *(torch.sigmoid(m.decoder(m.posterior(x)[0])) for m in models.values())]
    names = ["held-out", *models] * 2
    _show(axes, _tiles(blocks, data.side, gap_every=3))
    axes.set_title("Held-out digits and their reconstructions")
    height = data.side + 1
    places = [(row + 0.5) * height + row // 3 * height / 2 for row in range(len(names))]
    axes.set_yticks(places, names)
    axes.tick_params(length=0)


@torch.no_grad()
def _samples(axes: Axes, model: torch.nn.Module, data: Data) -> None:
    """Decoded draws from N(0, I): digits that nobody wrote."""
    dimensions = model.decoder[0].in_features
    z = torch.randn(7 * SAMPLES, dimensions, generator=torch.Generator().manual_seed(4))
    images = torch.sigmoid(model.decoder(z))
    _show(axes, _tiles(list(images.split(SAMPLES)), data.side))
    axes.set_title("Samples from the prior, fused")
    axes.set_yticks([])


def _tiles(rows: list[Tensor], side: int, gap_every: int = 0) -> Tensor:
    """Rows of images as one image, a white line between them."""
    lines = []
    for index, row in enumerate(rows):
        if gap_every and index and index % gap_every == 0:
            lines.append(torch.full((lines[0].shape[0] // 2, lines[0].shape[1]), torch.nan))
        tiles = torch.nn.functional.pad(row.reshape(-1, side, side), (0, 1, 0, 1), value=torch.nan)
        lines.append(torch.cat(list(tiles), dim=1))
    return torch.cat(lines)


def _show(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
