"""The ops that the bench knows: one file each. A new op is one file and one name here."""

from bench.ops import (
    categorical_latent,
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_latent_prior,
    gaussian_latent_samples,
    gaussian_rsample,
    gaussian_rsample_log_prob,
    gumbel_softmax,
    kumaraswamy_rsample,
    loc_scale_rsample,
    log_normal_rsample,
    normal,
    one_hot_categorical,
    relaxed_bernoulli,
    sample_weight,
    tanh_normal_rsample,
)
from bench.ops.base import Op

_OPS = (
    gaussian_latent.OP,
    gaussian_rsample.OP,
    gaussian_kl.OP,
    gaussian_latent_from_moments.OP,
    normal.OP,
    gaussian_latent_prior.OP,
    gaussian_latent_samples.OP,
    gaussian_rsample_log_prob.OP,
    sample_weight.OP,
    gumbel_softmax.OP,
    categorical_latent.OP,
    one_hot_categorical.OP,
    tanh_normal_rsample.OP,
    *loc_scale_rsample.OPS,
    relaxed_bernoulli.OP,
    kumaraswamy_rsample.OP,
    log_normal_rsample.OP,
)
OPS: dict[str, Op] = {op.name: op for op in _OPS}
