"""Fused reparameterized sampling for PyTorch: noise, sample and KL in one pass each way."""

from . import noise
from . import ops as _ops  # noqa: F401  (registers torch.ops.fused_reparam)
from ._version import __version__
from .backends.select import backend
from .backends.select import current as current_backend
from .functional import (
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
)
from .modules import FusedGaussianLatent

__all__ = [
    "FusedGaussianLatent",
    "__version__",
    "backend",
    "current_backend",
    "gaussian_kl",
    "gaussian_latent",
    "gaussian_latent_from_moments",
    "gaussian_rsample",
    "noise",
]
