"""What a regression predicts: the mixture of what draws of its weights predict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diabetes import Fold, Scaling
from torch import Tensor

# Of standardized x: the mean and the log standard deviation of standardized y.
Model = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Predictive:
    """What many draws of the weights predict: for each draw and place, a normal distribution."""

    means: Tensor
    stds: Tensor

    def below(self, y: Tensor) -> Tensor:
        """The probability that was given to outcomes up to y."""
        return torch.distributions.Normal(self.means, self.stds).cdf(y).mean(0)

    def log_likelihood(self, y: Tensor) -> Tensor:
        each = torch.distributions.Normal(self.means, self.stds).log_prob(y)
        return torch.logsumexp(each, 0) - math.log(len(each))

    def quantile(self, share: float) -> Tensor:
        """At each place the outcome below which `share` of them lie, by bisection."""
        low = (self.means - 10.0 * self.stds).amin(0)
        high = (self.means + 10.0 * self.stds).amax(0)
        for _ in range(30):
            middle = (low + high) / 2.0
            short = self.below(middle) < share
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (low + high) / 2.0

    def band(self, share: float) -> tuple[Tensor, Tensor]:
        """Between these lies the middle `share` of the outcomes."""
        return self.quantile(0.5 - share / 2), self.quantile(0.5 + share / 2)

    def band_of_means(self, share: float) -> tuple[Tensor, Tensor]:
        """Between these lies the middle `share` of the mean curves: what the data left open."""
        ends = torch.tensor([0.5 - share / 2, 0.5 + share / 2])
        low, high = torch.quantile(self.means, ends, dim=0)
        return low, high


@torch.no_grad()
def predict(model: Model, x: Tensor, scaling: Scaling, draws: int = 500) -> Predictive:
    """In the units of the data; the model in training mode, where each call draws new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = [model((x - scaling.x_mean) / scaling.x_std) for _ in range(draws)]
    means = torch.stack([mean for mean, _ in found])
    stds = torch.stack([torch.exp(log_std) for _, log_std in found])
    return Predictive(scaling.y_mean + scaling.y_std * means, scaling.y_std * stds)


def coverage(below: Tensor, share: float) -> float:
    """The part of the outcomes that lie in the middle `share` of what was predicted for them."""
    return ((below - 0.5).abs() <= share / 2).float().mean().item()


def straight_line(fold: Fold) -> Model:
    """Least squares, for comparison."""
    features = torch.stack((torch.ones_like(fold.x), fold.x), 1)
    line = torch.linalg.lstsq(features, fold.y.unsqueeze(1)).solution.squeeze(1)
    log_std = torch.log((fold.y - features @ line).std(correction=2))
    return lambda x: (line[0] + line[1] * x, log_std.expand_as(x))
