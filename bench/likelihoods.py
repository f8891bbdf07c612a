"""Log-likelihoods of given values, of each element, as eager PyTorch's users write them.

And inputs for them: the values come first, are data, and ask for no gradient.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as D

if TYPE_CHECKING:
    from bench.ops import Normals, Tensors

DF = 3.0
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def pixels(normals: Normals) -> Tensors:
    """Values in [0, 1], and logits."""
    x, logits = normals(2)
    return x.sigmoid_(), logits


def counts(normals: Normals) -> Tensors:
    """Counts, means and inverse dispersions."""
    x, mu, theta = normals(3)
    return x.abs_().mul_(3.0).floor_(), mu.exp_(), theta.exp_()


def located(normals: Normals) -> Tensors:
    """Values, where a decoder puts them, and how far it thinks that it may be off."""
    x, loc, scale = normals(3)
    return x, loc.mul_(0.5), scale.mul_(0.3).exp_()


def on_a_grid(normals: Normals) -> Tensors:
    """The same of 8-bit images, as values from -1 to 1."""
    x, loc, scale = normals(3)
    x = x.sigmoid_().mul_(255.0).round_().div_(127.5).sub_(1.0)
    return x, loc.mul_(0.3), scale.mul_(0.3).sub_(1.0).exp_()


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")


def negative_binomial(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    """As scVI writes it, less its small number to add."""
    log_m = torch.log(theta + mu)
    of_gamma = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return of_gamma + theta * (torch.log(theta) - log_m) + x * (torch.log(mu) - log_m)


def gaussian(x: Tensor, mu: Tensor, std: Tensor) -> Tensor:
    return -0.5 * ((x - mu) / std) ** 2 - torch.log(std) - HALF_LOG_2PI


def laplace(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -(x - loc).abs() / scale - torch.log(2 * scale)


def student_t(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return D.StudentT(DF, loc, scale, validate_args=False).log_prob(x)


def discretized_logistic(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """As PixelCNN++ writes it, of one logistic."""
    upper, lower = (x - loc + 1 / 255) / scale, (x - loc - 1 / 255) / scale
    inside = torch.log((torch.sigmoid(upper) - torch.sigmoid(lower)).clamp(min=1e-12))
    inside = torch.where(x > 0.999, -F.softplus(lower), inside)
    return torch.where(x < -0.999, upper - F.softplus(upper), inside)
