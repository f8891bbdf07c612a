"""``torch.nn`` modules over ``functional``. One file per family."""

from .bayes import BayesianConv2d, BayesianLinear
from .categorical import FusedCategoricalLatent, FusedGumbelSoftmax, FusedOneHotCategorical
from .gaussian import FusedGaussianLatent
from .mean_field import kl_divergence
from .relaxed_bernoulli import FusedRelaxedBernoulli
from .stochastic import sampling
from .tanh_normal import FusedTanhNormal

__all__ = [
    "BayesianConv2d",
    "BayesianLinear",
    "FusedCategoricalLatent",
    "FusedGaussianLatent",
    "FusedGumbelSoftmax",
    "FusedOneHotCategorical",
    "FusedRelaxedBernoulli",
    "FusedTanhNormal",
    "kl_divergence",
    "sampling",
]
