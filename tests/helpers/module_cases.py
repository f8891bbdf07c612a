"""One table of modules of every kind, for what must hold of them all."""

import torch
from torch import nn

import fused_reparam as fr

SHAPE = (4, 3, 5)


class LearnedPrior(nn.Module):
    """A prior of tensors is given at the call."""

    def __init__(self):
        super().__init__()
        self.latent = fr.FusedGaussianLatent(reduction="sample")
        self.mean, self.log_std = (nn.Parameter(torch.randn(SHAPE[2:])) for _ in range(2))

    def forward(self, mu, logvar):
        return self.latent(mu, logvar, prior=(self.mean, {"log_std": self.log_std}))


class Looked(nn.Module):
    """An embedding of whole numbers, made of those that every module here gets."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer((2.0 * x).long().abs().clamp(max=5))


class Outputs(nn.Module):
    """An LSTM without its last states."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


# What is made, and of how many inputs.
MODULES = {
    "gaussian": (lambda: fr.FusedGaussianLatent(), 2),
    "rho": (lambda: fr.FusedGaussianLatent("rho", clamp=None, reduction="none"), 2),
    "clamp": (lambda: fr.FusedGaussianLatent(clamp=(-0.3, 0.3), reduction="sample"), 2),
    "moments": (lambda: fr.FusedGaussianLatent(dim=0, reduction="sum"), 1),
    "prior": (lambda: fr.FusedGaussianLatent(num_samples=2, prior=(0.1, 2.0), beta=0.5), 2),
    "free bits": (lambda: fr.FusedGaussianLatent(free_bits=0.4), 2),
    "elements": (
        lambda: fr.FusedGaussianLatent(
            "log_std", free_bits=0.1, free_bits_per="element", beta=torch.tensor(0.5), rng="torch"
        ),
        2,
    ),
    "learned prior": (LearnedPrior, 2),
    "tanh": (lambda: fr.FusedTanhNormal(low=-2.0, high=1.0), 2),
    "clamped tanh": (lambda: fr.FusedTanhNormal("logvar", clamp=(-0.5, 0.5)), 2),
    "bernoulli": (lambda: fr.FusedRelaxedBernoulli(0.5), 1),
    "gates": (lambda: fr.FusedRelaxedBernoulli(0.5, hard=True), 1),
    "gumbel": (lambda: fr.FusedGumbelSoftmax(0.5), 1),
    "hard": (lambda: fr.FusedGumbelSoftmax(0.5, hard=True, dim=1), 1),
    "categorical": (lambda: fr.FusedCategoricalLatent(dim=1), 1),
    "hard categorical": (lambda: fr.FusedCategoricalLatent(hard=True, reduction="none"), 1),
    "one hot": (lambda: fr.FusedOneHotCategorical(0.01), 1),
    "linear": (lambda: fr.BayesianLinear(5, 3), 1),
    "mixture": (lambda: fr.BayesianLinear(5, 3, bias=False, mixture=(0.3, 1.5, 0.2)), 1),
    "local": (lambda: fr.BayesianLinear(5, 3, local_reparameterization=True), 1),
    "conv": (lambda: fr.BayesianConv2d(4, 2, 3, padding=1), 1),
    "strided conv": (
        lambda: fr.BayesianConv2d(
            4, 2, (2, 3), stride=2, padding=1, groups=2, bias=False, padding_mode="reflect"
        ),
        1,
    ),
    "1-d": (lambda: fr.BayesianConv1d(3, 2, 2, stride=2), 1),
    "3-d": (
        lambda: nn.Sequential(
            nn.Unflatten(2, (1, 5, 1)), fr.BayesianConv3d(3, 2, (1, 2, 1), padding=(1, 0, 0))
        ),
        1,
    ),
    "embedding": (lambda: Looked(fr.BayesianEmbedding(6, 3)), 1),
    "padded embedding": (lambda: Looked(fr.BayesianEmbedding(6, 3, 2, scale_grad_by_freq=True)), 1),
    "lstm": (lambda: Outputs(fr.BayesianLSTM(5, 4, batch_first=True)), 1),
    "deep lstm": (
        lambda: Outputs(
            fr.BayesianLSTM(
                5,
                4,
                2,
                bias=False,
                batch_first=True,
                bidirectional=True,
                mixture=(0.3, 1.5, 0.2),
            )
        ),
        1,
    ),
    "circular conv": (lambda: fr.BayesianConv2d(4, 2, 3, padding=1, padding_mode="circular"), 1),
}


def made(name, dtype=torch.float32):
    """The module, in eval, and what it is called with."""
    make, count = MODULES[name]
    torch.manual_seed(0)
    return make().eval().to(dtype), tuple(torch.randn(SHAPE, dtype=dtype) for _ in range(count))


def flat(found):
    """The results in one tuple."""
    return found if isinstance(found, tuple) else (found,)
