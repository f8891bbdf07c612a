"""Layers whose weights are sampled at each forward pass: Bayes by backprop."""

from .convert import bayesianize
from .convolution import BayesianConv1d, BayesianConv2d, BayesianConv3d
from .divergence import kl_divergence
from .embedding import BayesianEmbedding
from .linear import BayesianLinear
from .lstm import BayesianLSTM

__all__ = [
    "BayesianConv1d",
    "BayesianConv2d",
    "BayesianConv3d",
    "BayesianEmbedding",
    "BayesianLSTM",
    "BayesianLinear",
    "bayesianize",
    "kl_divergence",
]
