"""Why the trick matters, measured: two ways to a gradient through sampling.

    python examples/gradient_estimators.py           # about a minute on two CPU cores
    python examples/gradient_estimators.py --quick   # seconds, for a first look

First, the gradient of E[f(z)] for z ~ N(mu, sigma^2 I) and f(z) = |z - target|^2, by one draw:

- path-wise: z = mu + sigma eps (`gaussian_rsample`), and autograd through f;
- score function: f(z) times the gradient of log N(z; mu, sigma), which needs no derivative of f
  (REINFORCE, Williams 1992); as it stands, and with E[f(z)] taken off as a baseline.

All three are right on average. Their variance is measured for more and more dimensions and laid
over what the formulas give; then each minimizes f.

Second, what the path-wise gradient can do: a normal N(mu, sigma) in the plane is pushed through a
learned map (affine couplings, Dinh et al. 2017) onto a density with several modes, by the gradient
of the divergence E[log q(x) - log p(x)], with q from `gaussian_rsample_log_prob`. The modes are let
in slowly, from a flattened density p^beta with beta rising to 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from command_line import checked, parser
from flow import Flow, Ring
from report import bars, table_line
from torch import Tensor, nn

from fused_reparam import gaussian_rsample, gaussian_rsample_log_prob

PATHWISE, SCORE, BASELINE = "path-wise", "score function", "score + baseline"
Estimator = Callable[[Tensor, Tensor, int], Tensor]


# --- Two ways to a gradient ----------------------------------------------------------------------


def f(z: Tensor) -> Tensor:
    """The squared distance to a target at 1 in every dimension."""
    return (z - 1.0).square().sum(-1)


def expected(mu: Tensor, sigma: float) -> Tensor:
    """E[f(z)] for z ~ N(mu, sigma^2 I)."""
    return f(mu) + mu.shape[-1] * sigma**2


def pathwise(mu: Tensor, sigma: float, draws: int) -> Tensor:
    """The gradient for mu by each of the draws, shape (draws, dimensions)."""
    each = mu.expand(draws, -1).clone().requires_grad_()
    z = gaussian_rsample(each, std=torch.tensor(sigma))
    (found,) = torch.autograd.grad(f(z).sum(), each)
    return found


def score_function(mu: Tensor, sigma: float, draws: int, baseline: bool = False) -> Tensor:
    """The same without a derivative of f."""
    z = gaussian_rsample(mu, std=torch.tensor(sigma), num_samples=draws)
    gain = f(z) - (expected(mu, sigma) if baseline else 0.0)
    return gain.unsqueeze(-1) * (z - mu) / sigma**2


ESTIMATORS: dict[str, Estimator] = {
    PATHWISE: pathwise,
    SCORE: score_function,
    BASELINE: partial(score_function, baseline=True),
}


def variance_by_formula(name: str, dimensions: int, distance: float, sigma: float) -> float:
    """Variance of one component of one draw's gradient, mu at `distance` from the target.

    With X the part of f from the other dimensions, d the distance and b the baseline, the component
    of the score function is (X + (d + sigma e)^2 - b) e / sigma; below are the moments it needs.
    """
    d2, s2 = distance**2, sigma**2
    if name == PATHWISE:
        return 4.0 * s2
    rest = (dimensions - 1) * (d2 + s2) - (dimensions * (d2 + s2) if name == BASELINE else 0.0)
    rest_squared = rest**2 + (dimensions - 1) * (2.0 * s2**2 + 4.0 * s2 * d2)
    own, own_squared = d2 + 3.0 * s2, d2**2 + 18.0 * d2 * s2 + 15.0 * s2**2
    return (rest_squared + 2.0 * rest * own + own_squared) / s2 - 4.0 * d2


@dataclass(frozen=True)
class Variances:
    """By dimension: variance of a component of the gradient over its square, found and expected."""

    dimensions: list[int]
    found: dict[str, list[float]] = field(default_factory=dict)
    formula: dict[str, list[float]] = field(default_factory=dict)
    bias: dict[str, list[float]] = field(default_factory=dict)
    """How far the mean of all draws is from the gradient, in standard errors."""


def variances(dimensions: list[int], draws: int, done: Callable[[], object]) -> Variances:
    sigma, result = 1.0, Variances(dimensions)
    for name, estimator in ESTIMATORS.items():
        ratios, formulas, biases = [], [], []
        for count in dimensions:
            mu = torch.zeros(count)
            gradient = -2.0
            found = estimator(mu, sigma, draws)
            # Every dimension is alike, so all of them tell of one component.
            variance = found.var(0).mean().item()
            error = found.mean(1).std().item() / math.sqrt(draws)
            biases.append(abs(found.mean().item() - gradient) / error)
            ratios.append(variance / gradient**2)
            formulas.append(variance_by_formula(name, count, 1.0, sigma) / gradient**2)
            done()
        result.found[name], result.formula[name] = ratios, formulas
        result.bias[name] = biases
    return result


@dataclass(frozen=True)
class Descents:
    """E[f(z)] over its start, step by step, by estimator."""

    dimensions: int = 100
    draws: int = 10
    paths: dict[str, list[float]] = field(default_factory=dict)


def minimized(
    name: str, dimensions: int, steps: int, draws: int, done: Callable[[], object]
) -> list[float]:
    """E[f(z)] over its start, step by step, by Adam on the mean gradient of a few draws."""
    mu, sigma = torch.zeros(dimensions), 0.1
    optimizer = torch.optim.Adam([mu], lr=0.02)
    start, path = expected(mu, sigma), []
    for _ in range(steps):
        path.append((expected(mu, sigma) / start).item())
        mu.grad = ESTIMATORS[name](mu, sigma, draws).mean(0)
        optimizer.step()
        done()
    return path


# --- A normal onto a density with several modes --------------------------------------------------


class PushedNormal(nn.Module):
    """Draws of a learned normal in the plane, where a learned map takes them, and log q there."""

    def __init__(self, couplings: int = 8, hidden: int = 64) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(1, 2))
        self.log_std = nn.Parameter(torch.zeros(1, 2))
        self.flow = Flow(couplings, hidden)

    def forward(self, draws: int) -> tuple[Tensor, Tensor, Tensor]:
        """z and x of shape (draws, 2), log q(x) of shape (draws,)."""
        z, log_q, _ = gaussian_rsample_log_prob(self.mu, log_std=self.log_std, num_samples=draws)
        z = z.squeeze(1)
        x, log_growth = self.flow(z)
        return z, x, log_q.squeeze(1) - log_growth


@dataclass
class Pushed:
    """A training of the map: the divergence on the way, and draws at some of its steps."""

    target: Ring
    divergence: list[float] = field(default_factory=list)
    draws: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    final: float = math.nan
    """KL(q | p) of the end, in nats, from many draws."""
    spread: float = math.nan
    """Its standard error."""


def push(steps: int, batch: int, done: Callable[[], object], shown: int = 4000) -> Pushed:
    torch.manual_seed(0)
    model, result = PushedNormal(), Pushed(Ring())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        if step in (0, steps // 10, steps // 2):
            result.draws[step] = _shown(model, shown)
        beta = min(1.0, 0.05 + 1.4 * step / steps)
        _, x, log_q = model(batch)
        log_p = result.target.log_prob(x)
        optimizer.zero_grad()
        (log_q - beta * log_p).mean().backward()
        optimizer.step()
        schedule.step()
        result.divergence.append((log_q - log_p).mean().item())
        done()
    result.draws[steps] = _shown(model, shown)
    with torch.no_grad():
        _, x, log_q = model(20_000)
        gaps = log_q - result.target.log_prob(x)
    result.final, result.spread = gaps.mean().item(), gaps.std().item() / math.sqrt(len(gaps))
    return result


@torch.no_grad()
def _shown(model: PushedNormal, count: int) -> tuple[Tensor, Tensor]:
    z, x, _ = model(count)
    return z, x


# --- The main job --------------------------------------------------------------------------------


def report(found: Variances, paths: dict[str, list[float]], pushed: Pushed) -> str:
    lines = ["Draws needed to know the gradient to 10% (variance / (0.1 gradient)^2):"]
    lines.append(table_line("dimensions", *ESTIMATORS))
    for index, dimensions in enumerate(found.dimensions):
        cells = [f"{100 * of[index]:,.0f}" for of in found.found.values()]
        lines.append(table_line(f"{dimensions:,}", *cells))
    lines += ["", f"E[f] left after {len(paths[PATHWISE])} steps:"]
    lines += [table_line(name, f"{path[-1]:.1%}") for name, path in paths.items()]
    shares = ", ".join(
        f"{share:.0%}" for share in pushed.target.shares(pushed.draws[max(pushed.draws)][1])
    )
    lines += [
        "",
        f"The pushed normal is {pushed.final:.3f} ± {pushed.spread:.3f} nats from the density; its "
        f"modes hold {shares} of the draws.",
    ]
    return "\n".join(lines)


def parse(words: list[str] | None) -> argparse.Namespace:
    made = parser(
        "Path-wise and score-function gradients.",
        "gradient_estimators",
        quick="fewer dimensions, draws and steps",
    )
    made.add_argument("--steps", type=int, help="of the learned map; default: 4000, quick: 400")
    options = made.parse_args(words)
    if options.steps is None:
        options.steps = 400 if options.quick else 4000
    return checked(made, options, "steps")


def main(words: list[str] | None = None) -> tuple[Variances, Descents, Pushed]:
    options = parse(words)
    torch.set_num_threads(options.threads)
    dimensions = [1, 4, 16, 64] if options.quick else [2**power for power in range(11)]
    draws, steps, batch = (2_000, 100, 256) if options.quick else (10_000, 300, 1024)
    descents = Descents()
    torch.manual_seed(0)
    with bars() as shown:
        task = shown.add_task("variances", total=len(ESTIMATORS) * len(dimensions))
        found = variances(dimensions, draws, partial(shown.advance, task))
        task = shown.add_task("minimizing f", total=len(ESTIMATORS) * steps)
        for name in ESTIMATORS:
            done = partial(shown.advance, task)
            descents.paths[name] = minimized(name, descents.dimensions, steps, descents.draws, done)
        task = shown.add_task("learning a map", total=options.steps)
        pushed = push(options.steps, batch, partial(shown.advance, task))
    print()
    print(report(found, descents.paths, pushed))

    from gradient_estimators_picture import draw

    draw(found, descents, pushed, options.out)
    return found, descents, pushed


if __name__ == "__main__":
    main()
