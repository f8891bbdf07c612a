"""Regression with a Bayesian network: predictions that know how sure they are.

    python examples/bayes_regression.py              # about a minute on two CPU cores
    python examples/bayes_regression.py --quick      # seconds, for a first look

The data is real and comes with scikit-learn: 442 diabetes patients, how far the disease progressed
within a year, and here one thing known before, the body mass index. Every weight of the network is
a normal distribution, drawn anew in each step (Bayes by backprop, Blundell et al. 2015), so its
predictions differ from draw to draw: little where there were patients, much where there were none.
The network also says how far patients of one index differ.

All of the swap is in `LAYERS`: the same network of `HandwrittenLinear`, which samples its weights
with ordinary PyTorch operations, and of this package's `BayesianLinear`. Both start from the same
parameters, as does a network with fixed weights, which knows only how far patients differ. Each
fifth of the patients is held out once.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from command_line import checked, parser
from diabetes import FOLDS, Fold, folds, load
from measure import median_and_spread, timed
from predictive import Model, coverage, predict, straight_line
from report import agreement, bars, table_line
from torch import Tensor, nn
from torch.nn import functional as F
from training import Descent

from fused_reparam import BayesianLinear, kl_divergence

HANDWRITTEN, FUSED, FIXED = "written out", "fused", "fixed weights"
LINE = "straight line"


# --- What is compared ----------------------------------------------------------------------------


class HandwrittenLinear(nn.Module):
    """A linear layer whose weights are drawn as in every tutorial: a dozen operations a tensor."""

    def __init__(self, inputs: int, outputs: int, *, prior_std: float, rho_init: float) -> None:
        super().__init__()
        self.prior_std = prior_std
        for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
            setattr(self, f"{name}_mu", nn.Parameter(torch.zeros(shape)))
            setattr(self, f"{name}_rho", nn.Parameter(torch.full(shape, rho_init)))
        self.drawn_kl = torch.zeros(())

    def draw(self, mu: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.log1p(torch.exp(rho))
        w = mu + sigma * torch.randn_like(mu)
        variance = (sigma / self.prior_std) ** 2
        kl = 0.5 * (variance + (mu / self.prior_std) ** 2 - 1 - torch.log(variance)).sum()
        return w, kl

    def forward(self, x: Tensor) -> Tensor:
        weight, weight_kl = self.draw(self.weight_mu, self.weight_rho)
        bias, bias_kl = self.draw(self.bias_mu, self.bias_rho)
        self.drawn_kl = weight_kl + bias_kl
        return F.linear(x, weight, bias)


def handwritten_kl(model: nn.Module) -> Tensor:
    kls = [m.drawn_kl for m in model.modules() if isinstance(m, HandwrittenLinear)]
    return torch.stack(kls).sum()


def fixed_linear(inputs: int, outputs: int, **_: float) -> nn.Module:
    return nn.Linear(inputs, outputs)


# The swap: what makes a layer, and what adds up the divergences of the last draw.
LAYERS: dict[str, tuple[Callable[..., nn.Module], Callable[[nn.Module], Tensor]]] = {
    HANDWRITTEN: (HandwrittenLinear, handwritten_kl),
    FUSED: (BayesianLinear, kl_divergence),
    FIXED: (fixed_linear, lambda _: torch.zeros(())),
}


# --- Model and training --------------------------------------------------------------------------


class Network(nn.Module):
    """From one number to a normal distribution over another: its mean and its log std."""

    def __init__(self, kind: str, hidden: tuple[int, ...]) -> None:
        super().__init__()
        make, self.add_up = LAYERS[kind]
        sizes = (1, *hidden, 2)
        self.layers = nn.ModuleList(
            make(inputs, outputs, prior_std=1.0 / math.sqrt(inputs), rho_init=-2.0)
            for inputs, outputs in pairwise(sizes)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(-1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        mean, log_std = self.layers[-1](x).unbind(-1)
        return mean, log_std

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Negative ELBO in nats for each patient, but for the constant 0.5 log 2 pi."""
        mean, log_std = self(x)
        misfit = 0.5 * ((y - mean) * torch.exp(-log_std)) ** 2 + log_std
        return misfit.mean() + self.add_up(self) / len(x)


def networks(hidden: tuple[int, ...]) -> dict[str, Network]:
    """One of each kind, with the same first parameters; fixed weights are the others' means."""
    found = {name: Network(name, hidden) for name in LAYERS}
    first = found[FUSED].state_dict()
    found[HANDWRITTEN].load_state_dict(first)
    means = {name.removesuffix("_mu"): p for name, p in first.items() if name.endswith("_mu")}
    found[FIXED].load_state_dict(means)
    return found


def train(
    model: Network, fold: Fold, steps: int, hundred_done: Callable[[], object] = lambda: None
) -> list[float]:
    """The loss of each step."""
    step, losses = Descent(model, model.loss, 0.02, steps), []
    for done in range(1, steps + 1):
        losses.append(step(fold.x, fold.y).item())
        step.slower()
        if done % 100 == 0:
            hundred_done()
    return losses


# --- Measurements and report ---------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A trained model, and what it made of the patients held out."""

    model: Model
    log_likelihood: float
    below: Tensor


def judged(model: Model, fold: Fold) -> Run:
    found = predict(model, fold.x_out, fold.scaling)
    return Run(model, found.log_likelihood(fold.y_out).mean().item(), found.below(fold.y_out))


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a training step, by kind, and how many times as fast fused is: all with spread."""

    weights: int
    seconds: dict[str, tuple[float, float]]
    ratio: tuple[float, float]


def measure(fold: Fold, hidden: tuple[int, ...], rounds: int) -> StepTimes:
    models = networks(hidden)
    steps = {n: partial(Descent(m, m.loss, 1e-4), fold.x, fold.y) for n, m in models.items()}
    times = timed(steps, rounds, f"training step, {sum(hidden)} hidden units")
    ratios = [slow / fast for slow, fast in zip(times[HANDWRITTEN], times[FUSED], strict=True)]
    weights = sum(p.numel() for p in models[FIXED].parameters())
    seconds = {name: median_and_spread(of) for name, of in times.items()}
    return StepTimes(weights, seconds, median_and_spread(ratios))


def report(runs: dict[str, list[Run]], measured: list[StepTimes]) -> str:
    text = [
        table_line("", "held-out", "within the", "within the"),
        table_line("", "log-likelihood", "90% band", "50% band"),
    ]
    for name, of in runs.items():
        finals = [run.log_likelihood for run in of]
        below = torch.cat([run.below for run in of])
        cells = [f"{statistics.mean(finals):.3f}"]
        cells += [f"{coverage(below, share):.1%}" for share in (0.9, 0.5)]
        text.append(table_line(name, *cells))
    text += [
        "  Log-likelihood in nats for each patient held out, mean over the folds.",
        "",
        f"{HANDWRITTEN} and {FUSED}: {compared(runs)[1]}.",
        "",
        table_line("weights, a step in ms", *LAYERS, "times as fast"),
    ]
    for m in measured:
        cells = [f"{middle * 1e3:.2f} ± {half * 1e3:.2f}" for middle, half in m.seconds.values()]
        text.append(table_line(f"{m.weights:,}", *cells, f"{m.ratio[0]:.2f} ± {m.ratio[1]:.2f}"))
    text.append("  Whole training steps in turns: median ± half the distance of the quartiles.")
    text.append(f"  Times as fast: {FUSED} over {HANDWRITTEN}.")
    return "\n".join(text)


def compared(runs: dict[str, list[Run]]) -> tuple[bool | None, str]:
    """Whether both kinds of Bayesian network predict equally well."""
    first, second = ([run.log_likelihood for run in runs[n]] for n in (HANDWRITTEN, FUSED))
    return agreement(first, second)


# --- The main job --------------------------------------------------------------------------------


def parse(words: list[str] | None) -> argparse.Namespace:
    made = parser(
        "Regression with a Bayesian network.", "bayes_regression", quick="2 folds, short timings"
    )
    made.add_argument("--steps", type=int, default=1500, help="of each training")
    made.add_argument("--width", type=int, default=20, help="hidden units")
    made.add_argument("--folds", type=int, default=FOLDS, help=f"trainings, at most {FOLDS}")
    options = made.parse_args(words)
    # Hidden layers and rounds: the network that was trained, and wider ones.
    options.time = [((options.width,), 400), ((256, 256), 100), ((1024, 1024), 20)]
    if options.quick:
        options.folds = min(options.folds, 2)
        options.time = [((options.width,), 40), ((256, 256), 10)]
    if options.folds > FOLDS:
        made.error(f"--folds must be at most {FOLDS}")
    return checked(made, options, "steps", "width", "folds")


def main(words: list[str] | None = None) -> tuple[dict[str, list[Run]], list[StepTimes]]:
    options = parse(words)
    torch.set_num_threads(options.threads)
    parts = folds(*load(), options.folds)
    print(
        f"{len(parts[0].x)} patients to learn from in each training, {len(parts[0].x_out)} held out"
    )
    runs: dict[str, list[Run]] = {name: [] for name in (*LAYERS, LINE)}
    with bars() as shown:
        total = options.folds * (options.steps // 100)
        tasks = {name: shown.add_task(name, total=total) for name in LAYERS}
        for seed, fold in enumerate(parts):
            torch.manual_seed(seed)
            for name, model in networks((options.width,)).items():
                train(model, fold, options.steps, partial(shown.advance, tasks[name]))
                runs[name].append(judged(model, fold))
            runs[LINE].append(judged(straight_line(fold), fold))
    measured = [measure(parts[0], hidden, rounds) for hidden, rounds in options.time]
    print()
    print(report(runs, measured))

    from bayes_regression_picture import draw

    draw(runs, parts[0], measured, options.out)
    return runs, measured


if __name__ == "__main__":
    main()
