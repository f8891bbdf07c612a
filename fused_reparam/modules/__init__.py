"""``torch.nn`` modules over ``functional``. One file per family."""

from .actions import FusedTanhNormal
from .bayes import BayesianConv2d, BayesianLinear
from .bernoulli import FusedRelaxedBernoulli
from .categorical import FusedCategoricalLatent, FusedGumbelSoftmax, FusedOneHotCategorical
from .gaussian import FusedGaussianLatent
from .mean_field import kl_divergence

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
]
