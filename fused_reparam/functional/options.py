"""Keywords of the functions whose result depends on ``return_eps``, for type checkers alone."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from ..core.noise_options import Generators, NoiseOptions
from .divergence import PriorArgument


class SamplingOptions(NoiseOptions, total=False):
    """Where the noise comes from, and how much."""

    clamp: tuple[float, float] | None
    num_samples: int | None
    key: Tensor | None
    generator: Generators | None


class KLOptions(TypedDict, total=False):
    """Which KL is wanted."""

    reduction: str
    prior: PriorArgument
    free_bits: float | None
    free_bits_per: str
    beta: Tensor | float


class ScaleOptions(TypedDict, total=False):
    """Other parameterizations than logvar."""

    log_std: Tensor | float | None
    std: Tensor | float | None
    var: Tensor | float | None
    rho: Tensor | float | None


class RsampleOptions(ScaleOptions, SamplingOptions, total=False):
    """Of ``gaussian_rsample``."""


class LatentOptions(ScaleOptions, SamplingOptions, KLOptions, total=False):
    """Of ``gaussian_latent``."""


class MomentsOptions(SamplingOptions, KLOptions, total=False):
    """Of ``gaussian_latent_from_moments``."""

    scale: str
