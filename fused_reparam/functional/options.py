"""Keywords of the functions whose result depends on ``return_eps``, for type checkers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor

from ..core.noise_options import Generators, NoiseOptions
from .divergence import PriorArgument
from .reduction import Dims


class SamplingOptions(NoiseOptions, total=False):
    """Where the noise comes from, and how much."""

    min_std: float | None
    clamp: tuple[float, float] | None
    num_samples: int | None
    key: Tensor | None
    generator: Generators | None


class KLOptions(TypedDict, total=False):
    """Which KL is wanted."""

    reduction: str
    dims: Dims
    prior: PriorArgument
    free_bits: float | Tensor | None
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


class MomentsRsampleOptions(SamplingOptions, total=False):
    """Of ``gaussian_rsample_from_moments``."""

    scale: str


class MomentsOptions(SamplingOptions, KLOptions, total=False):
    """Of ``gaussian_latent_from_moments``."""

    scale: str


class TanhNormalOptions(ScaleOptions, NoiseOptions, total=False):
    """Of ``tanh_normal_rsample`` and ``tanh_normal_sample``."""

    low: float | Tensor | Sequence[float]
    high: float | Tensor | Sequence[float]
    min_std: float | None
    clamp: tuple[float, float] | None
    dims: int | Sequence[int]
    key: Tensor | None
    generator: Generators | None
