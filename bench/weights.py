"""Weights of Bayesian networks in eager PyTorch, to other priors than a Gaussian of two numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Tensors = tuple[Tensor, ...]
Number = Tensor | float
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def to_tensors(eps: Tensor, mu: Tensor, rho: Tensor, mean: Tensor, std: Tensor) -> Tensors:
    """With the closed KL to a Gaussian of tensors."""
    sigma = F.softplus(rho)
    ratio = (sigma**2 + (mu - mean) ** 2) / (2 * std**2)
    return mu + sigma * eps, (torch.log(std / sigma) + ratio - 0.5).sum()


def log(x: Number) -> Number:
    return torch.log(x) if isinstance(x, Tensor) else math.log(x)


def log_normal(x: Tensor, mean: Number, std: Number) -> Tensor:
    return -0.5 * ((x - mean) / std) ** 2 - log(std) - HALF_LOG_2PI


def to_mixture(share: Number, std1: float, std2: float) -> Callable[..., Tensors]:
    """As Blundell and others, 2015: log q(w) - log p(w) of the weights that were drawn.

    The mixture's mean is a tensor where there is one among the inputs.
    """

    def formula(eps: Tensor, mu: Tensor, rho: Tensor, mean: Number = 0.0) -> Tensors:
        sigma = F.softplus(rho)
        w = mu + sigma * eps
        log_p = log(share) + log_normal(w, mean, std1)
        if isinstance(share, Tensor) or share < 1.0:
            log_p = torch.logaddexp(log_p, log(1.0 - share) + log_normal(w, mean, std2))
        return w, (log_normal(w, mu, sigma) - log_p).sum()

    return formula
