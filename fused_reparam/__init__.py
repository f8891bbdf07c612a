"""Fused reparameterized sampling for PyTorch: noise, sample and KL in one pass each way."""

from . import noise
from . import ops as _ops  # noqa: F401  (registers torch.ops.fused_reparam)
from ._version import __version__
from .backends.dispatch import backend
from .backends.dispatch import current as current_backend
from .functional import (
    categorical_latent,
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
    gaussian_rsample_log_prob,
    gumbel_softmax,
    kumaraswamy_rsample,
    loc_scale_latent,
    loc_scale_rsample,
    log_normal_latent,
    log_normal_rsample,
    one_hot_categorical,
    relaxed_bernoulli,
    sample_weight,
    tanh_normal_rsample,
)
from .nn import (
    BayesianConv2d,
    BayesianLinear,
    FusedCategoricalLatent,
    FusedGaussianLatent,
    FusedGumbelSoftmax,
    FusedOneHotCategorical,
    FusedRelaxedBernoulli,
    FusedTanhNormal,
    kl_divergence,
)

__all__ = [
    "BayesianConv2d",
    "BayesianLinear",
    "FusedCategoricalLatent",
    "FusedGaussianLatent",
    "FusedGumbelSoftmax",
    "FusedOneHotCategorical",
    "FusedRelaxedBernoulli",
    "FusedTanhNormal",
    "__version__",
    "backend",
    "categorical_latent",
    "current_backend",
    "gaussian_kl",
    "gaussian_latent",
    "gaussian_latent_from_moments",
    "gaussian_rsample",
    "gaussian_rsample_log_prob",
    "gumbel_softmax",
    "kl_divergence",
    "kumaraswamy_rsample",
    "loc_scale_latent",
    "loc_scale_rsample",
    "log_normal_latent",
    "log_normal_rsample",
    "noise",
    "one_hot_categorical",
    "relaxed_bernoulli",
    "sample_weight",
    "tanh_normal_rsample",
]
