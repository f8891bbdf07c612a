"""A learned, invertible map of the plane, and a density with several modes for it to reach."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Coupling(nn.Module):
    """Scales and shifts one coordinate by functions of the other, which stays: so it inverts."""

    def __init__(self, moved: int, hidden: int) -> None:
        super().__init__()
        self.moved = moved
        self.net = nn.Sequential(
            nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 2),
        )  # fmt: skip
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The image of points (count, 2), and the log of the factor by which areas grow there."""
        pair = list(x.split(1, dim=1))
        log_scale, shift = self.net(pair[1 - self.moved]).split(1, dim=1)
        log_scale = 2.0 * torch.tanh(log_scale / 2.0)
        pair[self.moved] = pair[self.moved] * torch.exp(log_scale) + shift
        return torch.cat(pair, dim=1), log_scale.squeeze(1)


class Flow(nn.Module):
    """Couplings of the two coordinates in turn."""

    def __init__(self, couplings: int, hidden: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(i % 2, hidden) for i in range(couplings))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_growth = torch.zeros(len(z))
        for coupling in self.couplings:
            z, more = coupling(z)
            log_growth = log_growth + more
        return z, log_growth


class Ring:
    """Equal normals around a circle."""

    def __init__(self, modes: int = 6, radius: float = 3.0, std: float = 0.5) -> None:
        angles = 2.0 * math.pi * torch.arange(modes) / modes
        self.centers = radius * torch.stack((torch.cos(angles), torch.sin(angles)), 1)
        self.std = std

    def log_prob(self, x: Tensor) -> Tensor:
        distance = (x.unsqueeze(-2) - self.centers).square().sum(-1)
        each = -0.5 * distance / self.std**2 - math.log(2.0 * math.pi * self.std**2)
        return torch.logsumexp(each, -1) - math.log(len(self.centers))

    def shares(self, x: Tensor) -> Tensor:
        """The part of the points (count, 2) within three std of each centre."""
        distance = (x.unsqueeze(-2) - self.centers).norm(dim=-1)
        return (distance < 3.0 * self.std).float().mean(0)
