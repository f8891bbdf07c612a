"""The picture of the discrete VAE: ELBO and tau, what letters are used for, images, times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from drawing import curves, new_figure, reconstructions, samples, save, time_bars
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torch.nn import functional as F

from fused_reparam import gumbel_softmax, noise

if TYPE_CHECKING:
    from digits import Data
    from discrete_vae import DiscreteVAE, Run
    from measure import Measured


def draw(
    runs: Mapping[str, Sequence[Run]], times: Mapping[str, Measured], data: Data, path: Path
) -> None:
    figure = new_figure(12, 8)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    learning, letters = top.subfigures(1, 2, width_ratios=(1, 1.15))
    _learning(learning, runs)
    models = {name: of[0].model for name, of in runs.items()}
    *_, fused = models.values()
    _letters(letters, fused, runs[next(iter(runs))][0].taus, data, times)
    left, right = bottom.subplots(1, 2, width_ratios=(1.07, 1))
    reconstructions(left, {name: _likeliest(model) for name, model in models.items()}, data)
    samples(right, _random_words(fused, data), data.side)
    save(figure, path)


def _learning(figure: Figure | SubFigure, runs: Mapping[str, Sequence[Run]]) -> None:
    """The bound that is judged, the relaxed one that is trained, and tau below."""
    above, below = figure.subplots(2, 1, height_ratios=(3.2, 1), sharex=True)
    curves(above, {name: [run.held_out for run in of] for name, of in runs.items()})
    *_, of = runs.values()
    relaxed = torch.tensor([run.relaxed for run in of]).mean(0)
    epochs = range(1, len(relaxed) + 1)
    above.plot(epochs, relaxed, color="0.3", lw=1.2, ls="-.", label="fused, letters relaxed")
    above.legend(frameon=False, title=f"mean and range of {len(of)} seeds")
    above.set(title="Negative ELBO, held-out images", ylabel="nats per image", xlabel="")
    above.set_ylim(bottom=min(above.get_ylim()[0], relaxed.min().item() - 2.0))
    below.plot(epochs, of[0].taus, color="0.3", lw=2)
    below.set(ylabel="temperature", xlabel="epoch", ylim=(0, 1.05), yticks=(0, 0.5, 1))


def _letters(
    figure: Figure | SubFigure,
    model: DiscreteVAE,
    taus: Sequence[float],
    data: Data,
    times: Mapping[str, Measured],
) -> None:
    """How often each letter is used; one word as tau falls; what a draw costs."""
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    _use(left.subplots(), model, data)
    axes = right.subplots(4, 1, height_ratios=(1, 1, 1, 2.4))
    _annealing(axes[:3], model, taus, data)
    latents = {name: m.latent for name, m in times.items()}
    time_bars(axes[3], latents, [f"keeps {m.saved:,} B" for m in times.values()])
    axes[3].set_title("The latent alone")


@torch.no_grad()
def _use(axes: Axes, model: DiscreteVAE, data: Data) -> None:
    """The share of each letter at each place of the word, over the held-out images."""
    shares = torch.softmax(model.letters(data.test), -1).mean(0)
    perplexity = torch.exp(torch.special.entr(shares).sum(-1)).mean().item()
    places, alphabet = shares.shape
    ordered = shares.sort(-1, descending=True).values.numpy()
    extent = (0.5, alphabet + 0.5, places + 0.5, 0.5)
    image = axes.imshow(ordered, cmap="Blues", vmin=0, aspect="auto", extent=extent)
    bar = axes.figure.colorbar(image, ax=axes, location="bottom", pad=0.02)
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.set_label("share of the letter")
    axes.set(xlabel="letter, most used first", ylabel="place in the word")
    axes.set_title(f"Use of the letters:\nperplexity {perplexity:.1f} of {alphabet}")
    axes.set(xticks=range(1, alphabet + 1, 5), yticks=range(1, places + 1))


@torch.no_grad()
def _annealing(rows: Sequence[Axes], model: DiscreteVAE, taus: Sequence[float], data: Data) -> None:
    """One image's word, drawn with the same noise at the first, a middle and the last tau."""
    logits = model.letters(data.test[:1])
    for axes, tau in zip(rows, (taus[0], taus[len(taus) // 3], taus[-1]), strict=True):
        y = gumbel_softmax(logits, tau, key=noise.key(3))[0]
        image = axes.imshow(y.T.numpy(), cmap="Oranges", vmin=0, vmax=1, aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(f"tau {tau:.2g}", rotation=0, ha="right", va="center")
    rows[0].set_title("One word as tau falls")
    rows[-1].set_xlabel("place in the word (down: its letter)")
    rows[0].figure.colorbar(image, ax=list(rows), label="letter's weight")


def _likeliest(model: DiscreteVAE) -> Callable[[Tensor], Tensor]:
    """Each image from its likeliest letters."""

    def rebuilt(x: Tensor) -> Tensor:
        logits = model.letters(x)
        return torch.sigmoid(model.decode(F.one_hot(logits.argmax(-1), logits.shape[-1]).float()))

    return rebuilt


def _random_words(model: DiscreteVAE, data: Data) -> Callable[[int], Tensor]:
    """Images of words whose letters were drawn at random."""
    letters, alphabet = model.letters(data.test[:1]).shape[1:]

    def made(count: int) -> Tensor:
        generator = torch.Generator().manual_seed(4)
        words = torch.randint(alphabet, (count, letters), generator=generator)
        return torch.sigmoid(model.decode(F.one_hot(words, alphabet).float()))

    return made
