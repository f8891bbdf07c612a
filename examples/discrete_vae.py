"""A discrete VAE on handwritten digits: each image as a few categories, learnt by Gumbel-softmax.

    python examples/discrete_vae.py                  # about a minute on two CPU cores
    python examples/discrete_vae.py --quick          # seconds, for a first look

The latent is a word of `LETTERS` letters from an alphabet of `ALPHABET`. A draw of a letter has no
derivative, so training relaxes it: y = softmax((logits + Gumbel noise) / tau) is a mixture of
letters that nears a single one as tau falls (Jang et al. 2017, Maddison et al. 2017). tau is
annealed from 1 to `LAST_TAU`. What is judged is never relaxed: the ELBO on held-out images is that
of the discrete model, with true letters.

All of the swap is in `LATENTS`, functions `latent(logits, tau) -> (y, kl)`:

- `textbook`: `torch.nn.functional.gumbel_softmax`, and the KL to equal letters written out;
- `fused`: `categorical_latent`, both in one operation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from command_line import checked, parser
from digits import Data, load, loss_of, negative_elbo
from measure import Measured, bytes_saved, measured
from report import agreement, latent_table
from torch import Tensor, nn
from torch.nn import functional as F
from training import BATCH, Descent, epoch, side_by_side

from fused_reparam import categorical_latent, gumbel_softmax, noise

Latent = Callable[[Tensor, float], tuple[Tensor, Tensor]]
LETTERS, ALPHABET = 8, 16
LAST_TAU = 0.3
TEXTBOOK, FUSED = "textbook", "fused"


# --- What is compared ----------------------------------------------------------------------------


def textbook(logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Relaxed letters, and the KL of the letters to equal shares."""
    log_p = F.log_softmax(logits, -1)
    kl = torch.sum(log_p.exp() * (log_p + math.log(logits.shape[-1]))) / logits.shape[0]
    return F.gumbel_softmax(logits, tau), kl


LATENTS: dict[str, Latent] = {TEXTBOOK: textbook, FUSED: categorical_latent}


# --- Model and training --------------------------------------------------------------------------


class DiscreteVAE(nn.Module):
    """Pixels to the odds of each letter, a draw of the letters, and back to pixels."""

    def __init__(self, pixels: int, latent: Latent, hidden: int = 256) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, LETTERS * ALPHABET)
        )
        self.decoder = nn.Sequential(
            nn.Linear(LETTERS * ALPHABET, hidden), nn.ReLU(), nn.Linear(hidden, pixels)
        )
        self.latent = latent

    def letters(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, LETTERS, ALPHABET)."""
        return self.encoder(x).unflatten(-1, (LETTERS, ALPHABET))

    def decode(self, y: Tensor) -> Tensor:
        return self.decoder(y.flatten(-2))

    def forward(self, x: Tensor, tau: float) -> tuple[Tensor, Tensor]:
        y, kl = self.latent(self.letters(x), tau)
        return self.decode(y), kl

    def loss(self, levels: int, x: Tensor, tau: float) -> Tensor:
        return loss_of(*self(x, tau), x, levels)


def true_letters(logits: Tensor) -> Tensor:
    """One-hot draws by torch.multinomial, which relaxes nothing; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    odds = torch.softmax(logits, -1)
    drawn = torch.multinomial(odds.flatten(0, -2), 1, generator=generator).view(odds.shape[:-1])
    return F.one_hot(drawn, odds.shape[-1]).to(odds.dtype)


def relaxed_letters(logits: Tensor, tau: float) -> Tensor:
    """Mixtures of letters as training sees them; the same noise at each call."""
    return gumbel_softmax(logits, tau, key=noise.key(0))


@torch.no_grad()
def held_out_loss(
    model: DiscreteVAE,
    x: Tensor,
    levels: int,
    samples: int,
    letters: Callable[[Tensor], Tensor] = true_letters,
) -> float:
    """Negative ELBO on held-out images, the same way for every latent."""
    logits = model.letters(x)
    _, kl = textbook(logits, 1.0)
    made = model.decode(letters(logits.expand(samples, *logits.shape)))
    return negative_elbo(made, kl, x, levels)


@dataclass
class Run:
    """One training: of each epoch, tau and the held-out loss with true and with relaxed letters."""

    model: DiscreteVAE
    taus: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    relaxed: list[float] = field(default_factory=list)


def tau_at(part: float) -> float:
    """The annealing: from 1 to LAST_TAU by equal factors, over the first three quarters."""
    return max(LAST_TAU, LAST_TAU ** (part / 0.75))


def train(
    latent: Latent, data: Data, epochs: int, seed: int, epoch_done: Callable[[], object]
) -> Run:
    torch.manual_seed(seed)  # the first weights, and then the noise
    model = DiscreteVAE(data.train.shape[1], latent)
    step = Descent(model, partial(model.loss, data.levels), 2e-3, epochs)
    batches = torch.Generator().manual_seed(seed)
    run = Run(model)
    for number in range(epochs):
        tau = tau_at(number / epochs)
        epoch(step, data.train, batches, tau)
        held_out = partial(held_out_loss, model, data.test, data.levels)
        run.taus.append(tau)
        run.held_out.append(held_out(32 if number == epochs - 1 else 4))
        run.relaxed.append(held_out(2, partial(relaxed_letters, tau=tau)))
        epoch_done()
    return run


# --- Measurements and report ---------------------------------------------------------------------


def measure(data: Data, rounds: int) -> dict[str, Measured]:
    x = data.train[:BATCH]

    def step(latent: Latent) -> Callable[[], object]:
        model = DiscreteVAE(x.shape[1], latent)
        return partial(Descent(model, partial(model.loss, data.levels), 1e-4), x, 0.5)

    logits = torch.randn(BATCH, LETTERS, ALPHABET, requires_grad=True)
    grads = torch.randn(logits.shape), torch.ones(())

    def alone(latent: Latent) -> Callable[[], object]:
        return lambda: torch.autograd.grad(latent(logits, 0.5), logits, grads)

    return measured(
        {name: step(latent) for name, latent in LATENTS.items()},
        {name: alone(latent) for name, latent in LATENTS.items()},
        {
            name: bytes_saved(lambda t, f=latent: f(t, 0.5), logits)
            for name, latent in LATENTS.items()
        },
        rounds,
    )


def report(runs: dict[str, list[Run]], times: dict[str, Measured]) -> str:
    finals = {name: [run.held_out[-1] for run in of] for name, of in runs.items()}
    return "\n".join(
        [*latent_table(finals, times), f"{TEXTBOOK} and {FUSED}: {agreement(*finals.values())[1]}."]
    )


# --- The main job --------------------------------------------------------------------------------


def parse(words: list[str] | None) -> argparse.Namespace:
    made = parser(
        "A discrete VAE, by Gumbel-softmax.",
        "discrete_vae",
        quick="2 seeds, few epochs, short timings",
    )
    made.add_argument("--epochs", type=int, help="default: 100, quick: 8")
    made.add_argument("--seeds", type=int, default=5, help="trainings of each variant")
    options = made.parse_args(words)
    if options.quick:
        options.seeds = min(options.seeds, 2)
    if options.epochs is None:
        options.epochs = 8 if options.quick else 100
    return checked(made, options, "epochs", "seeds")


def main(words: list[str] | None = None) -> dict[str, list[Run]]:
    options = parse(words)
    torch.set_num_threads(options.threads)
    data = load()
    print(f"{len(data.train)} images to learn from, {len(data.test)} held out")
    runs = side_by_side(
        LATENTS,
        options.seeds,
        options.epochs,
        lambda name, seed, done: train(LATENTS[name], data, options.epochs, seed, done),
    )
    times = measure(data, 30 if options.quick else 300)
    print()
    print(report(runs, times))

    from discrete_vae_picture import draw

    draw(runs, times, data, options.out)
    return runs


if __name__ == "__main__":
    main()
