"""Whether noise is standard normal, and independent from element to element."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

KS_SAMPLES = 1 << 16
# Kolmogorov-Smirnov: sqrt(n) D beyond this has a probability of 7e-6.
KS_LIMIT = 2.5
# Standard errors that the noise's mean, mean square and correlations may be off by.
SIGMAS = 6
# With fewer pairs than this a correlation is far from normal.
LEAST_PAIRS = 16
# Lanes of a generator, and parts of a slice that kernels may have given the same noise.
LAGS, PARTS = (1, 2, 4), (2, 4, 8)
# Values of each slice that are held against those of all others.
STARTS = 1 << 12
# Of float32 normals fewer than 1 in 1000 come up twice among KS_SAMPLES.
MOST_TWICE = 0.01


@dataclass
class Noise:
    """Noise that is seen slice by slice; reading it off a rounded sample costs up to a rounding."""

    dtype: torch.dtype
    count: int = 0
    mean: float = 0.0
    square: float = 0.0
    some: Tensor | None = None
    starts: list[Tensor] = field(default_factory=list)
    products: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By lag, the sum of the products of values that are so far apart, and how many they are."""

    def add(self, noise: Tensor) -> None:
        noise = noise.flatten()
        if self.some is None:
            self.some = noise[:KS_SAMPLES].clone()
        self.starts.append(noise[:STARTS].clone())
        self.count += noise.numel()
        self.mean += noise.sum().item()
        self.square += (noise**2).sum().item()
        lags = {str(lag): lag for lag in LAGS}
        lags |= {f"1/{part} of a slice": len(noise) // part for part in PARTS}
        for name, lag in lags.items():
            if lag:
                total, pairs = self.products.get(name, (0.0, 0))
                total += (noise[:-lag] @ noise[lag:]).item()
                self.products[name] = total, pairs + max(len(noise) - lag, 0)

    def problem(self) -> str | None:
        return (
            self._moments_problem()
            or self._correlation_problem()
            or self._repeated_problem()
            or self._distance_problem()
        )

    @property
    def _unit(self) -> float:
        return torch.finfo(self.dtype).eps / 2

    def _moments_problem(self) -> str | None:
        mean, square = self.mean / self.count, self.square / self.count
        allowed = SIGMAS / math.sqrt(self.count) + self._unit
        if not abs(mean) <= allowed:
            return f"noise: mean {mean:.4g}, expected 0 to {allowed:.2g}"
        allowed = SIGMAS * math.sqrt(2 / self.count) + 2 * self._unit
        if not abs(square - 1) <= allowed:
            return f"noise: mean square {square:.4g}, expected 1 to {allowed:.2g}"
        return None

    def _distance_problem(self) -> str | None:
        """Kolmogorov-Smirnov's."""
        assert self.some is not None
        some = self.some.sort().values
        steps = torch.arange(len(some) + 1, device=some.device, dtype=some.dtype) / len(some)
        uniform = torch.special.ndtr(some)
        distance = torch.maximum((uniform - steps[:-1]).max(), (steps[1:] - uniform).max())
        score = distance.item() * math.sqrt(len(some))
        return None if score <= KS_LIMIT else f"noise is not normal: KS sqrt(n) D = {score:.2f}"

    def _repeated_problem(self) -> str | None:
        """Values that come up twice; 16-bit ones must, there being so few."""
        assert self.some is not None
        twice = 1 - len(self.some.unique()) / len(self.some)
        if self.dtype.itemsize < 4 or twice <= MOST_TWICE:
            return None
        return f"noise: {twice:.1%} of the values come up again"

    def _correlation_problem(self) -> str | None:
        for lag, (total, pairs) in self.products.items():
            allowed = SIGMAS / math.sqrt(max(pairs, 1)) + self._unit
            if pairs >= LEAST_PAIRS and not abs(total / pairs) <= allowed:
                return f"noise: values {lag} apart correlate by {total / pairs:.3f}"
        size = len(self.starts[0])
        starts = torch.stack([start for start in self.starts if len(start) == size])
        highest = ((starts @ starts.T) / size).triu(1).abs().max().item()
        if size >= LEAST_PAIRS and not highest <= SIGMAS / math.sqrt(size) + self._unit:
            return f"noise: two slices correlate by {highest:.3f}"
        return None
