"""The diabetes patients that come with scikit-learn, parts of them held out in turn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FOLDS = 5


@dataclass(frozen=True)
class Scaling:
    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor


@dataclass(frozen=True)
class Fold:
    """Patients to learn from, in units of their own mean and spread; and those held out, as is."""

    x: Tensor
    y: Tensor
    x_out: Tensor
    y_out: Tensor
    scaling: Scaling


def load() -> tuple[Tensor, Tensor]:
    """The body mass index (kg / m^2) and the progression of 442 patients, in random order."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x, y = (torch.tensor(v, dtype=torch.float32)[order] for v in (found.data[:, 2], found.target))
    return x, y


def folds(x: Tensor, y: Tensor, count: int) -> list[Fold]:
    """The first `count` of FOLDS ways to hold out a part of the patients."""
    found = []
    for fold in range(count):
        out = torch.arange(len(x)) % FOLDS == fold
        kept, answers = x[~out], y[~out]
        scaling = Scaling(kept.mean(), kept.std(), answers.mean(), answers.std())
        scaled = (kept - scaling.x_mean) / scaling.x_std, (answers - scaling.y_mean) / scaling.y_std
        found.append(Fold(*scaled, x[out], y[out], scaling))
    return found
