"""One table of calls of every public function, for what must hold of them all."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

import fused_reparam as fr
from fused_reparam.families import FAMILIES
from fused_reparam.functional import loc_scale
from tests.helpers.elementwise_cases import cotangents, gradients

SHAPE = (4, 3, 5)
# Parameters that must be positive; all others may be any number.
_POSITIVE = {
    "std", "scale", "prior_std", "share", "high", "df", "unimix", "free_bits",
    *(
        word[:-1]
        for row in FAMILIES.values()
        for word in f"{row.names} {row.prior}".split()
        if word.endswith("+")
    ),
}  # fmt: skip


class Case(NamedTuple):
    """A call: of which function, which of its arguments are tensors, and the others."""

    function: Callable
    names: tuple[str, ...]
    options: dict
    noisy: bool

    def __call__(self, *params, **sources):
        """The results in one tuple. ``sources`` says where the noise comes from, if any."""
        given = dict(zip(self.names, params, strict=True))
        if "share" in given:
            given["mixture"] = given.pop("share"), 1.5, 0.2
        for name in [name for name in given if "_of_" in name]:
            # Of one number for all, or of one for all of dim 0.
            t, (name, of) = given.pop(name), name.split("_of_")
            given[name] = t.mean() if of == "all" else t[:1]
        if "prior_log_std" in given:
            given["prior"] = given.pop("prior_mean"), {"log_std": given.pop("prior_log_std")}
        if "prior_std" in given and self.function is not fr.sample_weight:
            given["prior"] = given.pop("prior_mean"), given.pop("prior_std")
        found = self.function(**given, **self.options, **(sources if self.noisy else {}))
        if self.function is fr.tanh_normal_sample:
            return found[1:2]  # the action has no gradient
        return found if isinstance(found, tuple) else (found,)

    @property
    def numbers(self):
        """Which of the tensors may be Python numbers that are checked."""
        learned = "prior_log_std" in self.names or self.function is fr.sample_weight
        return [
            name for name in self.names
            if name.split("_of_")[0] in {"tau", "unimix", "df", "low", "high", "free_bits", "beta"}
            or (name.startswith("prior_") and not learned)
        ]  # fmt: skip

    def params(self, shape=SHAPE, dtype=torch.float32):
        return leaves(self.names, shape, dtype)


def leaves(names, shape=SHAPE, dtype=torch.float32, seed=0):
    """Tensors that require grad; a uniform member of these lies inside the standard one."""
    generator = torch.Generator().manual_seed(seed)
    found, positive = [], _POSITIVE | ({"mu"} if "theta" in names else set())  # of counts
    for name in names:
        t = torch.rand(shape, generator=generator, dtype=torch.float64)
        t = 0.3 + 0.2 * t if name.split("_of_")[0] in positive else t - 0.5
        if name == "low":  # below an action
            t = t - 1.0
        if name == "prior_scale":  # below a Pareto's
            t = 0.5 * t
        if name == "alpha":  # of a lighter tail
            t = 4.0 * t
        found.append(t.to(dtype).requires_grad_())
    return found


def case(function, names, **options):
    noisy = "key" in inspect.signature(function).parameters
    return Case(function, tuple(names.split()), options, noisy)


_LEARNED = "prior_mean prior_log_std"
_ROWS = {name: row for name, row in FAMILIES.items() if row.law}
# Dim 0 of SHAPE has the classes and the halves, so that the order of the others decides nothing.
_CALLS = [
    case(fr.gaussian_latent, "mu logvar"),
    case(fr.gaussian_latent, "mu rho", reduction="none"),
    case(fr.gaussian_latent, "mu log_std", prior=(0.3, 1.5), num_samples=2, beta=0.5),
    case(fr.gaussian_latent, f"mu std {_LEARNED}", free_bits=9.0, reduction="sample"),
    case(fr.gaussian_latent, "mu logvar", free_bits=0.1, free_bits_per="element", num_samples=1),
    case(fr.gaussian_latent_from_moments, "moments", dim=0),
    case(fr.gaussian_latent_from_moments, "moments", dim=0, num_samples=2, clamp=(-0.3, 0.3)),
    case(fr.gaussian_latent, "mu rho", dims=(0, 2), min_std=0.1),
    case(fr.gaussian_latent, f"mu std {_LEARNED}", dims=(1, 2), free_bits=1.0, num_samples=2),
    case(fr.gaussian_rsample, "mu std"),
    case(fr.gaussian_rsample, "logvar", mu=0.5),
    case(fr.gaussian_rsample_from_moments, "moments", dim=0),
    case(fr.gaussian_rsample_from_moments, "moments", dim=0, scale="rho", min_std=0.1),
    case(fr.gaussian_rsample, "mu logvar", num_samples=3),
    case(fr.gaussian_kl, "mu logvar"),
    case(fr.gaussian_kl, f"mu rho {_LEARNED}", reduction="none"),
    case(fr.gaussian_rsample_log_prob, "mu log_std"),
    case(fr.gaussian_rsample_log_prob, f"mu logvar {_LEARNED}", num_samples=2),
    case(fr.gaussian_rsample_log_prob, "mu logvar", dims=(), num_samples=2),
    case(fr.gaussian_log_prob, "z mu logvar"),
    case(fr.gaussian_log_prob, "z mu rho", dims=(1, 2), min_std=0.1),
    case(fr.sample_weight, "mu rho"),
    case(fr.sample_weight, "mu rho", prior_mean=0.1, prior_std=0.5),
    case(fr.sample_weight, "mu rho", mixture=(0.3, 1.5, 0.2), reduction="mean"),
    case(fr.sample_weight, "mu rho prior_mean prior_std", reduction="sample"),
    case(fr.sample_weight, "mu rho prior_mean", mixture=(0.3, 1.5, 0.2)),
    case(fr.sample_weight, "mu rho prior_mean share", reduction="none"),
    case(fr.tanh_normal_rsample, "mean log_std", low=-1.5, high=0.5),
    case(fr.tanh_normal_rsample, "mean log_std", dims=(0, 2), return_pre_tanh=True),
    case(fr.tanh_normal_sample, "mean log_std", low=-1.5, high=0.5, dims=(1, 2)),
    case(fr.tanh_normal_log_prob, "action mean log_std", low=-1.5, high=2.0, dims=(1, 2)),
    case(fr.log_normal_rsample, "loc std"),
    case(fr.log_normal_latent, "loc logvar"),
    case(fr.tanh_normal_rsample, "mean log_std", sample_shape=(2, 2)),
    *(
        case(fr.loc_scale_rsample, "loc scale", base=base, df=3.0 if base == "student_t" else None)
        for base in loc_scale.BASES
    ),
    *(
        case(fr.loc_scale_latent, "loc scale", base=base)
        for base in loc_scale.BASES
        if base not in ("logistic", "student_t")
    ),
    case(fr.relaxed_bernoulli, "logits", tau=0.7),
    case(fr.relaxed_bernoulli, "logits", tau=0.7, hard=True),
    *(
        case(
            getattr(fr, f"{name}_latent" if row.terms else f"{name}_rsample"),
            row.names.replace("+", ""),
            **row.some_prior(),
        )
        for name, row in _ROWS.items()
    ),
    case(fr.bernoulli_kl, "logits prior_logits"),
    case(fr.bernoulli_kl, "logits", prior_probs=0.2, dims=(1, 2)),
    case(fr.relaxed_bernoulli_log_prob, "y logits", tau=0.7),
    case(fr.bernoulli_log_prob, "x logits", dims=(1, 2)),
    case(fr.bernoulli_log_prob, "x logits", continuous=True),
    case(fr.negative_binomial_log_prob, "x mu theta", dims=(1, 2)),
    case(fr.zero_inflated_negative_binomial_log_prob, "x mu theta logits"),
    case(fr.laplace_log_prob, "x loc scale", dims=(1, 2)),
    case(fr.student_t_log_prob, "x df loc scale"),
    case(fr.discretized_logistic_log_prob, "x loc scale", reduction="mean"),
    case(fr.categorical_kl, "logits prior_logits", dim=0, reduction="sum"),
    case(fr.categorical_kl, "logits prior_logits", dim=0, unimix=0.05, dims=(0, 1)),
    case(fr.kumaraswamy_kl, "concentration1 concentration0", prior_concentration0=3.0),
    case(fr.gumbel_softmax_log_prob, "y logits", tau=0.7, dim=0, reduction="sum"),
    case(fr.categorical_log_prob, "logits", index=torch.tensor(1), dim=0, reduction="sum"),
    case(fr.categorical_latent, "logits", tau=0.7, dim=0, dims=1),
    # Numbers that are tensors.
    case(fr.gaussian_latent, "mu log_std prior_mean prior_std", reduction="sum"),
    case(fr.gaussian_latent, "mu logvar free_bits beta_of_all", free_bits_per="element"),
    case(fr.gaussian_kl, "mu logvar free_bits_of_all"),
    case(fr.tanh_normal_rsample, "mean log_std low high"),
    case(fr.tanh_normal_sample, "mean log_std low high", dims=(1, 2)),
    case(fr.tanh_normal_log_prob, "action mean log_std low", high=1.5, dims=(1, 2)),
    case(fr.loc_scale_rsample, "loc scale df", base="student_t"),
    case(fr.relaxed_bernoulli, "logits tau"),
    case(fr.relaxed_bernoulli, "logits tau_of_all", hard=True),
    *(
        case(getattr(fr, f"{name}_latent"), f"{row.names} {row.prior}".replace("+", ""))
        for name, row in _ROWS.items()
        if row.terms
    ),
    case(fr.gumbel_softmax, "logits tau_of_each", dim=0),
    case(fr.gumbel_softmax, "logits tau_of_all", dim=0, hard=True),
    case(fr.gumbel_softmax, "logits tau", dim=0),
    case(fr.categorical_latent, "logits tau_of_each", dim=0, reduction="sum", hard=True),
    case(fr.one_hot_categorical, "logits unimix_of_each", dim=0),
    case(fr.gumbel_softmax, "logits", tau=0.7, dim=0),
    case(fr.gumbel_softmax, "logits", tau=0.7, dim=0, hard=True),
    case(fr.categorical_latent, "logits", tau=0.7, dim=0, reduction="sum"),
    case(fr.categorical_latent, "logits", tau=0.7, dim=0, reduction="none", hard=True),
    case(fr.one_hot_categorical, "logits", dim=0),
    case(fr.one_hot_categorical, "logits", dim=0, unimix=0.05),
    case(fr.gumbel_softmax, "logits", tau=0.7, dim=0, sample_shape=(2, 2)),
]


def given_noise(mu, x, eps, stacked):
    """The calls that take noise instead of a key; ``stacked`` is that of two samples."""
    return (
        *fr.gaussian_latent(mu, x, eps=eps),
        *fr.gaussian_latent(mu, std=1.0, prior=(x, {"log_std": mu}), eps=stacked, num_samples=2),
        *fr.gaussian_rsample_log_prob(mu, log_std=x, eps=stacked, num_samples=2),
        *fr.tanh_normal_rsample(mu, log_std=x, eps=eps),
        fr.relaxed_bernoulli(mu, eps=eps),
        fr.loc_scale_rsample(mu, 0.5, "laplace", eps=stacked, sample_shape=(2,)),
        fr.gumbel_softmax(mu, dim=0, eps=eps),
        *fr.categorical_latent(mu, hard=True, dim=0, reduction="sum", eps=stacked, sample_shape=2),
        *fr.sample_weight(mu, x, eps=eps, mixture=(0.3, 1.5, 0.2)),
    )


def given_noise_params(*batch):
    """What it takes, with the batch in front."""
    one = leaves(("mu", "x", "eps"), (*batch, *SHAPE))
    return *one, *leaves(("stacked",), (*batch, 2, *SHAPE), seed=1)


def _name(call):
    options = (f"{k}={v}" for k, v in call.options.items() if v is not None)
    return " ".join((call.function.__name__, *call.names, *options))


# Made of PyTorch's operators alone.
COMPOSED = fr.kumaraswamy_kl, fr.gumbel_softmax_log_prob, fr.categorical_log_prob
CASES = {_name(call): call for call in _CALLS}
NOISY = {name: call for name, call in CASES.items() if call.noisy}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
EVERY_NOISY = pytest.mark.parametrize("case", NOISY.values(), ids=NOISY)


def loss(outputs):
    """A number to which every element adds its own share."""
    return sum((torch.linspace(0.5, 1.5, o.numel()).view(o.shape) * o.sin()).sum() for o in outputs)


def run(case, params, **sources):
    """The outputs and the gradients of all parameters."""
    outputs = case(*params, **sources)
    return *outputs, *gradients(outputs, params, cotangents(outputs))


def assert_same(got, want):
    """Bit for bit."""
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
