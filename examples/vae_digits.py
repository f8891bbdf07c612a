"""A VAE on handwritten digits, with the textbook's sampling step and with the fused one.

    python examples/vae_digits.py                    # about a minute on two CPU cores
    python examples/vae_digits.py --data mnist       # the 28 x 28 digits, where torchvision is
    python examples/vae_digits.py --quick            # seconds, for a first look

All of the swap is in `latents()`: the model is handed a function `latent(mu, logvar) -> (z, kl)`,
and everything else stays as it was. Three such functions are trained side by side, from the same
first weights on the same batches, and one model whose likelihood is swapped as well:

- `textbook`: exp, randn_like, multiply, add, and the KL written out, as in every VAE tutorial;
- `fused`: the layer of this package, one operation that keeps nothing for the backward pass but
  its inputs and a key of 16 bytes;
- `fused, torch's noise`: the same operation on the very numbers that `torch.randn_like` would have
  drawn, so that its losses can be laid over the textbook's, step by step;
- `fused ELBO`: latent and likelihood, an operation each, by `FusedELBO`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from command_line import checked, parser
from digits import Data, load, loss_of, negative_elbo
from measure import Measured, bytes_saved, measured
from report import agreement, latent_table
from torch import Tensor, nn
from training import BATCH, Descent, epoch, side_by_side

from fused_reparam import FusedELBO, FusedGaussianLatent, bernoulli_log_prob

Latent = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
TEXTBOOK, FUSED, SAME_NOISE = "textbook", "fused", "fused, torch's noise"
WHOLE = "fused ELBO"


# --- What is compared ----------------------------------------------------------------------------


def textbook(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Sample and KL as tutorials write them."""
    std = torch.exp(0.5 * logvar)
    eps = torch.randn_like(std)
    z = mu + eps * std
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / mu.shape[0]
    return z, kl


def binomial(x: Tensor, logits: Tensor, *, levels: int, dims: tuple[int, ...]) -> Tensor:
    """The log-likelihood of `loss_of`."""
    return levels * bernoulli_log_prob(x, logits, dims=dims)


def latents(levels: int) -> dict[str, Latent | FusedELBO]:
    """The swap: one of these for another."""
    return {
        TEXTBOOK: textbook,
        FUSED: FusedGaussianLatent(),
        SAME_NOISE: FusedGaussianLatent(rng="torch"),
        WHOLE: FusedELBO(binomial, FusedGaussianLatent(), levels=levels),
    }


# --- Model and training --------------------------------------------------------------------------


class VAE(nn.Module):
    """Pixels to a Gaussian in the latent space, a sample of it, and back to pixels."""

    def __init__(
        self, pixels: int, latent_dim: int, latent: Latent | FusedELBO, hidden: int = 256
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, pixels)
        )
        self.latent = latent

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def loss(self, levels: int, x: Tensor) -> Tensor:
        mu, logvar = self.posterior(x)
        if isinstance(self.latent, FusedELBO):
            return -self.latent(x, self.decoder, mu, logvar).elbo
        z, kl = self.latent(mu, logvar)
        return loss_of(self.decoder(z), kl, x, levels)


@torch.no_grad()
def held_out_loss(model: VAE, x: Tensor, levels: int, samples: int) -> float:
    """Negative ELBO on held-out images, by the same formula and the same noise for every model."""
    mu, logvar = model.posterior(x)
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(samples, *mu.shape, generator=generator)
    logits = model.decoder(mu + torch.exp(0.5 * logvar) * eps)
    _, kl = textbook(mu, logvar)
    return negative_elbo(logits, kl, x, levels)


@dataclass
class Run:
    """One training: the loss of each step, the held-out loss after each epoch, and the model."""

    model: VAE
    step_losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)


def train(
    latent: Latent | FusedELBO,
    data: Data,
    options: argparse.Namespace,
    seed: int,
    epoch_done: Callable[[], object],
) -> Run:
    torch.manual_seed(seed)  # the first weights, and then the noise
    model = VAE(data.train.shape[1], options.latent_dim, latent)
    step = Descent(model, partial(model.loss, data.levels), 2e-3, options.epochs)
    batches = torch.Generator().manual_seed(seed)
    run = Run(model)
    for number in range(options.epochs):
        run.step_losses += epoch(step, data.train, batches)
        samples = 32 if number == options.epochs - 1 else 4
        run.held_out.append(held_out_loss(model, data.test, data.levels, samples))
        epoch_done()
    return run


# --- Measurements and report ---------------------------------------------------------------------


def measure(data: Data, options: argparse.Namespace) -> dict[str, Measured]:
    """Training steps of the variants in turns; then the latent alone, forward and backward."""
    x = data.train[:BATCH]
    rounds = 40 if options.quick else 500

    def step(latent: Latent | FusedELBO) -> Callable[[], object]:
        model = VAE(x.shape[1], options.latent_dim, latent)
        return partial(Descent(model, partial(model.loss, data.levels), 1e-4), x)

    # As in the model, mu and logvar are the halves of one tensor.
    halves = torch.randn(len(x), 2 * options.latent_dim).chunk(2, dim=1)
    mu, logvar = (half.detach().requires_grad_() for half in halves)
    grads = torch.randn(len(x), options.latent_dim), torch.ones(())

    def alone(latent: Latent) -> Callable[[], object]:
        return lambda: torch.autograd.grad(latent(mu, logvar), (mu, logvar), grads)

    variants = latents(data.levels)
    steps = {name: step(latent) for name, latent in variants.items()}
    sole = {n: v.latent if isinstance(v, FusedELBO) else v for n, v in variants.items()}
    calls = {name: alone(latent) for name, latent in sole.items()}
    saved = {name: bytes_saved(latent, mu, logvar) for name, latent in sole.items()}
    return measured(steps, calls, saved, rounds)


def report(runs: dict[str, list[Run]], times: dict[str, Measured]) -> str:
    """The table, and sentences on whether the variants do the same."""
    finals = {name: [run.held_out[-1] for run in of] for name, of in runs.items()}
    lines = [
        *latent_table(finals, times),
        f"{TEXTBOOK} and {FUSED}: {agreement(finals[TEXTBOOK], finals[FUSED])[1]}.",
        f"{TEXTBOOK} and {SAME_NOISE}: {coincidence(runs[TEXTBOOK], runs[SAME_NOISE])[1]}.",
        f"{FUSED} and {WHOLE}: {coincidence(runs[FUSED], runs[WHOLE])[1]}.",
    ]
    return "\n".join(lines)


FIRST = 20


def coincidence(bases: list[Run], others: list[Run]) -> tuple[bool, str]:
    """How far apart the losses of trainings on the same noise are, at worst over all steps."""
    pairs = [
        (step, a, b)
        for base, other in zip(bases, others, strict=True)
        for step, (a, b) in enumerate(zip(base.step_losses, other.step_losses, strict=True))
    ]
    mean = statistics.mean(a for _, a, _ in pairs)
    first = max(abs(a - b) for step, a, b in pairs if step < FIRST)
    worst = max(abs(a - b) for _, a, b in pairs)
    # Sums are rounded in another order, and training lets such differences grow.
    coincide = first < 1e-5 * mean and worst < 0.01 * mean
    return coincide, (
        f"the loss curves {'coincide' if coincide else 'DO NOT COINCIDE'}: they differ by "
        f"at most {first:.1g} nats in the first {FIRST} steps "
        f"and {worst:.1g} in all (loss: {mean:.0f})"
    )


# --- The main job --------------------------------------------------------------------------------


def parse(words: list[str] | None) -> argparse.Namespace:
    made = parser(
        "A VAE with the textbook's and with the fused latent.",
        "vae_digits",
        quick="2 seeds, few epochs, short timings",
    )
    made.add_argument("--data", choices=("digits", "mnist"), default="digits")
    made.add_argument("--epochs", type=int, help="default: 100 for digits, 10 for mnist")
    made.add_argument("--seeds", type=int, default=5, help="trainings of each variant")
    made.add_argument("--latent-dim", type=int, default=10)
    options = made.parse_args(words)
    if options.quick:
        options.seeds = min(options.seeds, 2)
    if options.epochs is None:
        options.epochs = 5 if options.quick else {"digits": 100, "mnist": 10}[options.data]
    return checked(made, options, "epochs", "seeds", "latent_dim")


def main(words: list[str] | None = None) -> dict[str, list[Run]]:
    options = parse(words)
    torch.set_num_threads(options.threads)
    data = load(options.data)
    variants = latents(data.levels)
    print(f"{len(data.train)} images of {options.data} to learn from, {len(data.test)} held out")
    runs = side_by_side(
        variants,
        options.seeds,
        options.epochs,
        lambda name, seed, done: train(variants[name], data, options, seed, done),
    )
    times = measure(data, options)
    print()
    print(report(runs, times))

    from vae_digits_picture import draw

    draw(runs, times, data, options.out)
    return runs


if __name__ == "__main__":
    main()
