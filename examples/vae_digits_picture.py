"""The picture of the digits example: ELBO curves, reconstructions, samples, times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from drawing import COLORS, DASHES, curves, new_figure, reconstructions, samples, save, time_bars
from matplotlib.axes import Axes
from torch import Tensor

if TYPE_CHECKING:
    from digits import Data
    from measure import Measured
    from vae_digits import VAE, Run


def draw(
    runs: Mapping[str, Sequence[Run]], measured: Mapping[str, Measured], data: Data, path: Path
) -> None:
    # The last one's curves are those of the second, and it has the same latent.
    runs, measured = (dict(list(of.items())[:3]) for of in (runs, measured))
    figure = new_figure(12, 7.4)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    left, middle, right = top.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
    curves(left, {name: [run.held_out for run in of] for name, of in runs.items()})
    left.set(title="Negative ELBO, held-out images", ylabel="nats per image")
    _difference(middle, runs)
    latents = {name: m.latent for name, m in measured.items()}
    time_bars(right, latents, [f"keeps {m.saved:,} B" for m in measured.values()])
    right.set_title("The latent alone")
    below_left, below_right = bottom.subplots(1, 2, width_ratios=(1.07, 1))
    models = {name: runs[name][0].model for name in list(runs)[:2]}
    reconstructions(below_left, {name: _mean_decoded(m) for name, m in models.items()}, data)
    samples(below_right, _standard_normals(list(models.values())[1]), data.side)
    save(figure, path)


def _difference(axes: Axes, runs: Mapping[str, Sequence[Run]]) -> None:
    """How far the others' training losses are from the textbook's, at worst, in each epoch."""
    (_, base), *others = runs.items()
    textbook = torch.tensor([run.step_losses for run in base])
    epochs = len(base[0].held_out)
    for index, (name, of) in enumerate(others, start=1):
        gaps = torch.tensor([run.step_losses for run in of]) - textbook
        worst = gaps.abs().unflatten(1, (epochs, -1)).amax((0, 2))
        style = {"color": COLORS[index], "ls": DASHES[index], "lw": 2}
        axes.semilogy(range(1, epochs + 1), worst.numpy(), label=name, **style)
    level = textbook.mean().item()
    axes.axhline(level, color="0.5", lw=1, ls=":")
    axes.annotate("the loss itself", (epochs, level), (0, 3), textcoords="offset points",
                  ha="right", color="0.4")  # fmt: skip
    axes.set(title="Training loss, distance to the textbook's", xlabel="epoch")
    axes.set(ylabel="nats per image, largest of the epoch", ylim=(1e-6, 2e3))
    axes.legend(frameon=False, loc="lower right")


def _mean_decoded(model: VAE) -> Callable[[Tensor], Tensor]:
    """Each image from the mean of its latent."""
    return lambda x: torch.sigmoid(model.decoder(model.posterior(x)[0]))


def _standard_normals(model: VAE) -> Callable[[int], Tensor]:
    """Images of draws from N(0, I)."""

    def made(count: int) -> Tensor:
        generator = torch.Generator().manual_seed(4)
        z = torch.randn(count, model.decoder[0].in_features, generator=generator)
        return torch.sigmoid(model.decoder(z))

    return made
