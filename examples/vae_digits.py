"""A VAE on handwritten digits, with the textbook's sampling step and with the fused one.

    python examples/vae_digits.py                    # about a minute on two CPU cores
    python examples/vae_digits.py --data mnist       # the 28 x 28 digits, where torchvision is
    python examples/vae_digits.py --quick            # seconds, for a first look

All of the swap is in `latents()`: the model is handed a function `latent(mu, logvar) -> (z, kl)`,
and everything else stays as it was. Three such functions are trained side by side, from the same
first weights on the same batches:

- `textbook`: exp, randn_like, multiply, add, and the KL written out, as in every VAE tutorial;
- `fused`: the layer of this package, one operation that keeps nothing for the backward pass but
  its inputs and a key of 16 bytes;
- `fused, torch's noise`: the same operation on the very numbers that `torch.randn_like` would have
  drawn, so that its losses can be laid over the textbook's, step by step.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from measure import bytes_saved, median_and_spread, times_in_turns
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn, track
from torch import Tensor, nn
from torch.nn import functional as F

from fused_reparam import FusedGaussianLatent

Latent = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
BATCH = 128
TEXTBOOK, FUSED, SAME_NOISE = "textbook", "fused", "fused, torch's noise"


# --- What is compared ----------------------------------------------------------------------------


def textbook(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Sample and KL as tutorials write them."""
    std = torch.exp(0.5 * logvar)
    eps = torch.randn_like(std)
    z = mu + eps * std
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / mu.shape[0]
    return z, kl


def latents() -> dict[str, Latent]:
    """The swap: one of these for another."""
    return {
        TEXTBOOK: textbook,
        FUSED: FusedGaussianLatent(),
        SAME_NOISE: FusedGaussianLatent(rng="torch"),
    }


# --- Model and training --------------------------------------------------------------------------


class VAE(nn.Module):
    """Pixels to a Gaussian in the latent space, a sample of it, and back to pixels."""

    def __init__(self, pixels: int, latent_dim: int, latent: Latent, hidden: int = 256) -> None:
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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.posterior(x)
        z, kl = self.latent(mu, logvar)
        return self.decoder(z), kl


def loss_of(logits: Tensor, kl: Tensor, x: Tensor, levels: int) -> Tensor:
    """In nats for each image: what the reconstruction costs, and what the latent costs.

    A pixel counts how many of `levels` dots are black, so its likelihood is binomial. With one
    level, that is the binary cross entropy of the tutorials. This is the negative ELBO but for a
    constant of the data, `log_ways`.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return levels * cross_entropy / x.shape[0] + kl


def log_ways(x: Tensor, levels: int) -> Tensor:
    """Log of the binomial coefficients of an image's pixels, on average over the images."""
    n, k = torch.tensor(float(levels)), levels * x
    ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return ways.sum() / x.shape[0]


@torch.no_grad()
def held_out_loss(model: VAE, x: Tensor, levels: int, samples: int) -> float:
    """Negative ELBO on held-out images, by the same formula and the same noise for every model."""
    mu, logvar = model.posterior(x)
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(samples, *mu.shape, generator=generator)
    logits = model.decoder(mu + torch.exp(0.5 * logvar) * eps)
    _, kl = textbook(mu, logvar)
    many = x.expand(samples, *x.shape)
    loss = loss_of(logits.flatten(0, 1), kl, many.flatten(0, 1), levels)
    return (loss - log_ways(x, levels)).item()


@dataclass
class Run:
    """One training: the loss of each step, the held-out loss after each epoch, and the model."""

    model: VAE
    step_losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)


def train(
    latent: Latent,
    data: Data,
    options: argparse.Namespace,
    seed: int,
    epoch_done: Callable[[], object],
) -> Run:
    torch.manual_seed(seed)  # the first weights, and then the noise
    model = VAE(data.train.shape[1], options.latent_dim, latent)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    batches = torch.Generator().manual_seed(seed)
    run = Run(model)
    for epoch in range(options.epochs):
        for indices in torch.randperm(len(data.train), generator=batches).split(BATCH):
            x = data.train[indices]
            logits, kl = model(x)
            loss = loss_of(logits, kl, x, data.levels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step_losses.append(loss.item())
        schedule.step()
        last = epoch == options.epochs - 1
        run.held_out.append(held_out_loss(model, data.test, data.levels, 32 if last else 4))
        epoch_done()
    return run


# --- Data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Images as rows of pixels in [0, 1], the square's side, and the levels of grey above white."""

    train: Tensor
    test: Tensor
    side: int
    levels: int


def load(name: str) -> Data:
    """`digits`: the 1797 real digits that come with scikit-learn. `mnist`: through torchvision."""
    if name == "mnist":
        return _mnist()
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = images[order]
    return Data(images[300:], images[:300], side=8, levels=16)


def _mnist() -> Data:
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        raise SystemExit(
            "--data mnist needs torchvision, which is not installed here (pip install torchvision);"
            " --data digits needs no download"
        ) from error
    try:
        parts = [MNIST("out/mnist", train=flag, download=True).data for flag in (True, False)]
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"--data mnist: could not download it to out/mnist: {error}") from error
    training, test = (part.flatten(1).float() / 255 for part in parts)
    return Data(training, test, side=28, levels=1)


# --- Measurements and report ---------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Of one variant: median and spread in seconds, and bytes."""

    step: tuple[float, float]
    latent: tuple[float, float]
    saved: int


def measure(data: Data, options: argparse.Namespace) -> dict[str, Measured]:
    """Training steps of the variants in turns; then the latent alone, forward and backward."""
    x = data.train[:BATCH]
    rounds = 40 if options.quick else 500

    def step(latent: Latent) -> Callable[[], None]:
        model = VAE(x.shape[1], options.latent_dim, latent)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def run() -> None:
            logits, kl = model(x)
            optimizer.zero_grad()
            loss_of(logits, kl, x, data.levels).backward()
            optimizer.step()

        return run

    # As in the model, mu and logvar are the halves of one tensor.
    halves = torch.randn(len(x), 2 * options.latent_dim).chunk(2, dim=1)
    mu, logvar = (half.detach().requires_grad_() for half in halves)
    grads = torch.randn(len(x), options.latent_dim), torch.ones(())

    def alone(latent: Latent) -> Callable[[], object]:
        return lambda: torch.autograd.grad(latent(mu, logvar), (mu, logvar), grads)

    taken = []
    for what, make in (("training step", step), ("latent alone", alone)):
        calls = {name: make(latent) for name, latent in latents().items()}
        times_in_turns(calls, range(20))  # warm-up
        turns = track(range(rounds), f"timing the {what}", transient=True)
        taken.append(times_in_turns(calls, turns))
    return {
        name: Measured(
            *(median_and_spread(times[name]) for times in taken), bytes_saved(f, mu, logvar)
        )
        for name, f in latents().items()
    }


# Two-sided 99% points of Student's t, by degrees of freedom.
STUDENT_99 = {
    1: 63.66,
    2: 9.925,
    3: 5.841,
    4: 4.604,
    5: 4.032,
    6: 3.707,
    7: 3.499,
    8: 3.355,
    9: 3.25,
}


def agreement(first: list[float], second: list[float]) -> tuple[bool | None, str]:
    """Whether two variants' losses, paired by seed, agree; and the criterion in words."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return None, f"difference {mean:+.3f} nats; one seed says nothing about the spread"
    error = statistics.stdev(differences) / math.sqrt(count)
    bound = STUDENT_99.get(count - 1, 3.2) * error
    agree = abs(mean) <= bound
    words = ("they agree", "within") if agree else ("THEY DIFFER", "outside")
    return agree, (
        f"{words[0]}: mean difference over {count} seeds {mean:+.3f} nats, {words[1]} the "
        f"±{bound:.3f} of a paired t test at 99%"
    )


def report(runs: dict[str, list[Run]], measured: dict[str, Measured]) -> str:
    """The table, and two sentences on whether the variants do the same."""
    lines = [
        _table_line("", "held-out -ELBO", "training step", "latent alone", "kept for"),
        _table_line("", "nats/image", "us", "us", "backward"),
    ]
    for name, of in runs.items():
        final = [run.held_out[-1] for run in of]
        spread = statistics.stdev(final) if len(final) > 1 else 0.0
        cells = [f"{statistics.mean(final):.2f} ± {spread:.2f}"]
        for middle, half in (measured[name].step, measured[name].latent):
            cells.append(f"{middle * 1e6:.0f} ± {half * 1e6:.0f}")
        lines.append(_table_line(name, *cells, f"{measured[name].saved} B"))
    finals = ([run.held_out[-1] for run in runs[n]] for n in (TEXTBOOK, FUSED))
    lines += [
        "  -ELBO: mean ± standard deviation over seeds. Times, forward and backward: median ± half",
        "  the distance of the quartiles, in turns. Kept: bytes beyond the latent's inputs.",
        "",
        f"{TEXTBOOK} and {FUSED}: {agreement(*finals)[1]}.",
        f"{TEXTBOOK} and {SAME_NOISE}: {coincidence(runs)[1]}.",
    ]
    return "\n".join(lines)


def _table_line(name: str, *cells: str) -> str:
    return f"{name:21}" + "".join(f"{cell:>17}" for cell in cells)


FIRST = 20


def coincidence(runs: dict[str, list[Run]]) -> tuple[bool, str]:
    """How far the losses of `rng="torch"` are from the textbook's, at worst over all steps."""
    pairs = [
        (step, a, b)
        for base, other in zip(runs[TEXTBOOK], runs[SAME_NOISE], strict=True)
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
    parser = argparse.ArgumentParser(
        description="A VAE with the textbook's and with the fused latent."
    )
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--epochs", type=int, help="default: 100 for digits, 10 for mnist")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each variant")
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("out/vae_digits.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="2 seeds, few epochs, short timings")
    options = parser.parse_args(words)
    if options.quick:
        options.seeds = min(options.seeds, 2)
    if options.epochs is None:
        options.epochs = 5 if options.quick else {"digits": 100, "mnist": 10}[options.data]
    if min(options.epochs, options.seeds, options.latent_dim, options.threads) < 1:
        parser.error("--epochs, --seeds, --latent-dim and --threads must be at least 1")
    return options


def main(words: list[str] | None = None) -> dict[str, list[Run]]:
    options = parse(words)
    # Matrices this small gain nothing from a second thread, and lose much where cores are shared.
    torch.set_num_threads(options.threads)
    data = load(options.data)
    print(f"{len(data.train)} images of {options.data} to learn from, {len(data.test)} held out")
    runs: dict[str, list[Run]] = {name: [] for name in latents()}
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        tasks = {name: bars.add_task(name, total=options.seeds * options.epochs) for name in runs}
        for seed in range(options.seeds):
            for name, latent in latents().items():
                done = partial(bars.advance, tasks[name])
                runs[name].append(train(latent, data, options, seed, done))
    measured = measure(data, options)
    print()
    print(report(runs, measured))

    from picture import draw

    draw(runs, measured, data, options.out)
    print(f"\nwrote {options.out}")
    return runs


if __name__ == "__main__":
    main()
