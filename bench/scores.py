"""Noise that is not normal as standard normals: each value's place in its distribution, in float64.

So one set of tests (`normality`) serves every noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def of_laplace(noise: Tensor) -> Tensor:
    return _two_sided(noise, 0.5 * torch.exp(-noise.abs()))


def of_logistic(noise: Tensor) -> Tensor:
    return _two_sided(noise, torch.sigmoid(-noise.abs()))


def of_uniform(noise: Tensor, error: Tensor) -> Tensor:
    """On (-1, 1). Where rounding put it outside, it was within `error` of the end."""
    return _two_sided(noise, torch.maximum((1 - noise.abs()) / 2, error / 8))


def of_cauchy(noise: Tensor) -> Tensor:
    return _two_sided(noise, torch.atan(1 / noise.abs()) / math.pi)


def of_student_t4(noise: Tensor) -> Tensor:
    """Of 4 degrees of freedom: with w = |x| / sqrt(4 + x^2) the tail is (1 - w)^2 (2 + w) / 4."""
    root = torch.sqrt(4 + noise**2)
    rest = 4 / (root * (root + noise.abs()))  # 1 - w
    return _two_sided(noise, rest**2 * (3 - rest) / 4)


def of_exponential(noise: Tensor) -> Tensor:
    beyond = torch.exp(-noise)
    scores = torch.special.ndtri(torch.minimum(beyond, -torch.expm1(-noise)))
    return torch.where(beyond < 0.5, -scores, scores)


def of_classes(chosen: Tensor, shares: Tensor) -> Tensor:
    """Classes (one index for each row) that were drawn with `shares`, the classes in dim 1.

    A class has an interval of (0, 1) as long as its share: a random point in it is uniform if the
    classes are drawn as they should.
    """
    index = chosen.unsqueeze(1)
    end = shares.cumsum(1).gather(1, index).squeeze(1)
    length = shares.gather(1, index).squeeze(1)
    inside = 1 - 1e-12
    return torch.special.ndtri((end - length * torch.rand_like(end)).clamp(1 - inside, inside))


def _two_sided(noise: Tensor, tail: Tensor) -> Tensor:
    """From the share of the distribution that is farther out on the same side."""
    return -noise.sign() * torch.special.ndtri(tail)
