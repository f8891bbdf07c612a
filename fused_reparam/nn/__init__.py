"""``torch.nn`` modules over ``functional``. One file per family."""

from .bayes import (
    BayesianConv1d,
    BayesianConv2d,
    BayesianConv3d,
    BayesianEmbedding,
    BayesianLinear,
    BayesianLSTM,
    bayesianize,
    kl_divergence,
)
from .categorical import FusedCategoricalLatent, FusedGumbelSoftmax, FusedOneHotCategorical
from .elbo import FusedELBO
from .gaussian import FusedGaussianLatent
from .latent_stats import latent_stats
from .relaxed_bernoulli import FusedRelaxedBernoulli
from .stochastic import sampling
from .tanh_normal import FusedTanhNormal

__all__ = [
    "BayesianConv1d",
    "BayesianConv2d",
    "BayesianConv3d",
    "BayesianEmbedding",
    "BayesianLSTM",
    "BayesianLinear",
    "FusedCategoricalLatent",
    "FusedELBO",
    "FusedGaussianLatent",
    "FusedGumbelSoftmax",
    "FusedOneHotCategorical",
    "FusedRelaxedBernoulli",
    "FusedTanhNormal",
    "bayesianize",
    "kl_divergence",
    "latent_stats",
    "sampling",
]
