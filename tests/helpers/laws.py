"""Every function that samples beside its counterpart in PyTorch, which draws the same numbers."""

import torch
from torch import distributions as D
from torch.nn import functional as F

import fused_reparam as fr
from tests.helpers.elementwise_cases import FAMILIES

SHAPE = (3, 5)  # of which the last dim has the classes
DF = 3.5
TAU = 0.7


def _logistic(loc, scale):
    unit = D.Uniform(torch.zeros_like(loc), torch.ones_like(loc))
    return D.TransformedDistribution(
        unit, [D.SigmoidTransform().inv, D.AffineTransform(loc, scale)]
    )


def _tanh_normal(mean, std):
    return D.TransformedDistribution(D.Normal(mean, std), D.TanhTransform(cache_size=1))


class _GumbelSoftmax:
    """torch.nn.functional's, which takes no sample shape."""

    def __init__(self, logits, hard=False):
        self.logits, self.hard = logits, hard

    def rsample(self, shape=()):
        logits = self.logits.expand(*shape, *self.logits.shape)
        return F.gumbel_softmax(logits, TAU, self.hard)


def _located(base, **options):
    return lambda loc, scale, **o: fr.loc_scale_rsample(loc, scale, base, **options, **o)


# By name: those of the parameters, our function of them, PyTorch's distribution.
LAWS = {
    "gaussian": ("mu std", lambda m, s, **o: fr.gaussian_rsample(m, std=s, **o), D.Normal),
    "gaussian_latent": (
        "mu std", lambda m, s, **o: fr.gaussian_latent(m, std=s, **o)[0], D.Normal,
    ),
    "log_prob": (
        "mu std", lambda m, s, **o: fr.gaussian_rsample_log_prob(m, std=s, **o)[0], D.Normal,
    ),
    "mixture": (
        "mu rho", lambda m, r, **o: fr.sample_weight(m, r, mixture=(0.3, 1.5, 0.2), **o)[0],
        lambda m, r: D.Normal(m, F.softplus(r)),
    ),
    "weight": (
        "mu rho", lambda m, r, **o: fr.sample_weight(m, r, prior_std=0.5, **o)[0],
        lambda m, r: D.Normal(m, F.softplus(r)),
    ),
    "log_normal": (
        "loc std", lambda m, s, **o: fr.log_normal_latent(m, std=s, **o)[0], D.LogNormal,
    ),
    "tanh_normal": (
        "mean std", lambda m, s, **o: fr.tanh_normal_rsample(m, std=s, **o)[0], _tanh_normal,
    ),
    "normal": ("loc scale", _located("normal"), D.Normal),
    "laplace": ("loc scale", _located("laplace"), D.Laplace),
    "logistic": ("loc scale", _located("logistic"), _logistic),
    "gumbel": ("loc scale", _located("gumbel"), D.Gumbel),
    "uniform": ("loc scale", _located("uniform"), lambda m, s: D.Uniform(m - s, m + s)),
    "cauchy": ("loc scale", _located("cauchy"), D.Cauchy),
    "student_t": (
        "loc scale", _located("student_t", df=DF), lambda m, s: D.StudentT(DF, m, s),
    ),
    "relaxed_bernoulli": (
        "logits", lambda x, **o: fr.relaxed_bernoulli(x, TAU, **o),
        lambda x: D.RelaxedBernoulli(torch.tensor(TAU, dtype=x.dtype), logits=x),
    ),
    **{
        name: (
            row.names.replace("+", ""), getattr(fr, f"{name}_rsample"),
            lambda *p, row=row: row.law(
                **dict(zip(row.names.replace("+", "").split(), p, strict=True))
            ),
        )
        for name, row in FAMILIES.items()
        if row.law
    },
    "continuous_bernoulli": (
        "logits", fr.continuous_bernoulli_rsample,
        # PyTorch takes u itself for probabilities between the limits.
        lambda x: D.ContinuousBernoulli(logits=x, lims=(0.5 - 1e-9, 0.5 + 1e-9)),
    ),
    "gumbel_softmax": ("logits", lambda x, **o: fr.gumbel_softmax(x, TAU, **o), _GumbelSoftmax),
    "hard gumbel_softmax": (
        "logits", lambda x, **o: fr.gumbel_softmax(x, TAU, True, **o),
        lambda x: _GumbelSoftmax(x, True),
    ),
    "categorical_latent": (
        "logits", lambda x, **o: fr.categorical_latent(x, TAU, **o)[0], _GumbelSoftmax,
    ),
    "one_hot_categorical": (
        "logits", lambda x, **o: fr.one_hot_categorical(x, **o),
        lambda x: D.OneHotCategoricalStraightThrough(logits=x),
    ),
}  # fmt: skip


def noise_of(name, key, shape, dtype):
    """The standard noise that a function makes of a key."""
    row = FAMILIES.get(name)
    of_categories = "categorical" in name or "softmax" in name
    base = row.base if row else "gumbel" if of_categories else "normal"
    number = DF if base == "student_t" else 0.0
    return torch.ops.fused_reparam.base_noise(key, shape, [], dtype, base, number)
