"""What a user calls: checks the arguments, finds the noise, calls an op. One file per family."""

from .categorical import categorical_latent, gumbel_softmax, one_hot_categorical
from .gaussian import (
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
)
from .gaussian_log_prob import gaussian_rsample_log_prob
from .loc_scale import loc_scale_latent, loc_scale_rsample
from .sample_weight import sample_weight
from .tanh_normal import tanh_normal_rsample
from .transforms import (
    kumaraswamy_rsample,
    log_normal_latent,
    log_normal_rsample,
    relaxed_bernoulli,
)

__all__ = [
    "categorical_latent",
    "gaussian_kl",
    "gaussian_latent",
    "gaussian_latent_from_moments",
    "gaussian_rsample",
    "gaussian_rsample_log_prob",
    "gumbel_softmax",
    "kumaraswamy_rsample",
    "loc_scale_latent",
    "loc_scale_rsample",
    "log_normal_latent",
    "log_normal_rsample",
    "one_hot_categorical",
    "relaxed_bernoulli",
    "sample_weight",
    "tanh_normal_rsample",
]
