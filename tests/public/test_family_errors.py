"""Bad input to the families' functions: the error says what was given and what was expected."""

import pytest
import torch
from torch import nn

from fused_reparam import (
    BayesianConv2d,
    BayesianLinear,
    FusedCategoricalLatent,
    FusedGumbelSoftmax,
    FusedOneHotCategorical,
    FusedRelaxedBernoulli,
    FusedTanhNormal,
    categorical_latent,
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
    gaussian_rsample_log_prob,
    gumbel_softmax,
    kl_divergence,
    kumaraswamy_rsample,
    loc_scale_latent,
    loc_scale_rsample,
    log_normal_latent,
    log_normal_rsample,
    noise,
    one_hot_categorical,
    relaxed_bernoulli,
    sample_weight,
    tanh_normal_rsample,
)

MU = torch.zeros(4, 6)
NAN, INF = float("nan"), float("inf")


def raises(error, says, call):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("function", [gaussian_latent, gaussian_kl, gaussian_rsample_log_prob])
@pytest.mark.parametrize(
    ("prior", "error", "says"),
    [
        (3.0, TypeError, r"prior must be None, \(mean, std\) of numbers .*; got 3.0"),
        ((0.0, 1.0, 2.0), TypeError, r"got \(0.0, 1.0, 2.0\)"),
        ((0.0, 0.0), ValueError, "prior std must be positive, got 0.0"),
        ((0.0, -1.0), ValueError, "prior std must be positive, got -1.0"),
        ((0.0, 1e-39), ValueError, "prior std must be at least 1.18e-38, got 1e-39"),
        ((0.0, NAN), ValueError, "prior std must be finite, got nan"),
        ((0.0, INF), ValueError, "prior std must be finite, got inf"),
        ((0.0, "1"), TypeError, "prior std must be a number, got '1' of type str"),
        ((NAN, 1.0), ValueError, "prior mean must be finite, got nan"),
        ((None, 1.0), TypeError, "prior mean must be a number, got None of type NoneType"),
        ((True, 1.0), TypeError, "prior mean must be a number, got True of type bool"),
        ((0.0, MU.int()), TypeError, "prior std must be float32, .*got torch.int32"),
        ((MU, {"sigma": MU}), ValueError, "prior's scale must be one of logvar, .*, got sigma"),
        ((MU, {}), ValueError, "give exactly one of logvar, .*got none"),
        ((MU, {"std": MU, "var": MU}), ValueError, "got std and var"),
        ((MU, {"std": "1"}), TypeError, "prior std must be a floating tensor or a number, got '1'"),
        ((MU.int(), {"std": 1.0}), TypeError, "prior mean must be float32, .*got torch.int32"),
        ((MU.int(), 1.0), TypeError, "prior mean must be float32, .*got torch.int32"),
        (
            (torch.zeros(5), {"logvar": 0.0}),
            ValueError,
            r"mu and prior mean must have shapes that broadcast, got mu \(4, 6\) and prior mean "
            r"\(5,\)",
        ),
        (
            (0.0, {"rho": torch.zeros(6, device="meta")}),
            ValueError,
            "mu and prior rho must be on one device, got mu on cpu and prior rho on meta",
        ),
        (
            (torch.zeros(3, 1, 1), {"rho": torch.zeros(2, 1, 1)}),
            ValueError,
            r"prior mean and prior rho must have shapes .*\(3, 1, 1\) and prior rho \(2, 1, 1\)",
        ),
    ],
)  # fmt: skip
def test_priors(function, prior, error, says):
    raises(error, says, lambda: function(MU, MU, prior=prior))


@pytest.mark.parametrize("function", [gaussian_latent, gaussian_kl])
def test_free_bits_and_beta(function):
    raises(
        ValueError, "free_bits must be at least 0, got -1", lambda: function(MU, MU, free_bits=-1)
    )
    raises(ValueError, "free_bits must be finite, got nan", lambda: function(MU, MU, free_bits=NAN))
    raises(ValueError, r"free_bits must broadcast to the KL of each sample \(4,\), got .*\(4, 6\)",
           lambda: function(MU, MU, free_bits=MU))  # fmt: skip
    raises(ValueError, r"free_bits must broadcast to the KL of each element \(4, 6\), got .*\(4,\)",
           lambda: function(MU, MU, free_bits=MU[:, 0], free_bits_per="element"))  # fmt: skip
    raises(ValueError, "free_bits_per must be one of sample, element, got 'dim'",
           lambda: function(MU, MU, free_bits=1.0, free_bits_per="dim"))  # fmt: skip
    raises(ValueError, "free_bits_per must be", lambda: function(MU, MU, free_bits_per="dim"))
    raises(ValueError, 'reduction="none" has no sums',
           lambda: function(MU, MU, free_bits=1.0, reduction="none"))  # fmt: skip
    raises(ValueError, "beta must be finite, got inf", lambda: function(MU, MU, beta=INF))
    raises(TypeError, "beta must be a number, got '1'", lambda: function(MU, MU, beta="1"))
    raises(TypeError, "beta must be a number, got True", lambda: function(MU, MU, beta=True))
    raises(ValueError, r"beta must be a number or a 0-d tensor, got shape \(4,\)",
           lambda: function(MU, MU, beta=MU[:, 0]))  # fmt: skip
    for name in ("beta", "free_bits"):
        raises(TypeError, f"{name} must be a number or a dense tensor of numbers, got .*bool",
               lambda n=name: function(MU, MU, **{n: torch.tensor(True)}))  # fmt: skip
        raises(ValueError, f"{name} must be on cpu, or a tensor without dims .* on meta",
               lambda n=name: function(MU, MU, **{n: torch.ones((), device="meta")}))  # fmt: skip


@pytest.mark.parametrize("function", [gaussian_latent, gaussian_rsample, gaussian_rsample_log_prob])
def test_samples(function):
    raises(ValueError, "num_samples must be at least 1, got 0",
           lambda: function(MU, MU, num_samples=0))  # fmt: skip
    raises(TypeError, "num_samples must be an integer, got 2.0 of type float",
           lambda: function(MU, MU, num_samples=2.0))  # fmt: skip
    raises(TypeError, "num_samples must be an integer, got True",
           lambda: function(MU, MU, num_samples=True))  # fmt: skip
    raises(ValueError, r"eps must have the sample's shape \(3, 4, 6\), got \(4, 6\)",
           lambda: function(MU, MU, num_samples=3, eps=MU))  # fmt: skip
    raises(ValueError, r"key.*shape \(2,\).*got shape \(3,\)",
           lambda: function(MU, MU, num_samples=3, key=noise.key(0).repeat(2)[:3]))  # fmt: skip


def test_moments():
    call = gaussian_latent_from_moments
    raises(ValueError, "num_samples must be at least 1", lambda: call(MU, num_samples=0))
    raises(ValueError, "prior std must be positive", lambda: call(MU, prior=(0.0, 0.0)))
    raises(ValueError, r"mu \(4, 3\) and prior mean \(6,\)",
           lambda: call(MU, prior=(torch.zeros(6), 1.0)))  # fmt: skip


DRAWS = {
    "loc": [
        lambda x, **k: loc_scale_rsample(x, 1.0, "laplace", **k),
        lambda x, **k: loc_scale_latent(x, 1.0, "gumbel", **k),
        lambda x, **k: log_normal_rsample(x, std=1.0, **k),
        lambda x, **k: log_normal_latent(x, std=1.0, **k),
    ],
    "mu": [
        lambda x, **k: sample_weight(x, 0.0, **k),
        lambda x, **k: sample_weight(x, 0.0, prior_std=0.5, **k),
        lambda x, **k: sample_weight(x, 0.0, mixture=(0.5, 1.0, 0.1), **k),
        lambda x, **k: gaussian_rsample_log_prob(x, 0.0, **k),
    ],
    "mean": [lambda x, **k: tanh_normal_rsample(x, std=1.0, **k)],
    "logits": [relaxed_bernoulli, gumbel_softmax, categorical_latent, one_hot_categorical],
    "concentration1": [lambda x, **k: kumaraswamy_rsample(x, 1.0, **k)],
}


def sources_of(draw):
    """The sources of noise that a function takes, as its error names them."""
    try:
        draw(MU, eps=MU)
    except TypeError as error:
        assert "unexpected keyword argument 'eps'" in str(error)  # noqa: PT017
        return "key and generator"
    return "key, generator and eps"


@pytest.mark.parametrize(("name", "draw"), [(n, d) for n, many in DRAWS.items() for d in many])
def test_tensors_and_sources(name, draw):
    raises(
        TypeError, f"{name} must be float32, .*got torch.int64 of shape", lambda: draw(MU.long())
    )
    raises(TypeError, f"{name} must be a floating tensor, got 3.0", lambda: draw(3.0))
    raises(ValueError, f"at most one of {sources_of(draw)}: each",
           lambda: draw(MU, key=noise.key(0), generator=torch.Generator()))  # fmt: skip
    raises(TypeError, "key must be a uint64 tensor", lambda: draw(MU, key=7))


def test_weights():
    raises(
        ValueError, "prior_std must be positive, got 0.0", lambda: sample_weight(MU, MU, 0.0, 0.0)
    )
    raises(ValueError, r"prior mean \(3,\)", lambda: sample_weight(MU, MU, torch.zeros(3)))
    raises(ValueError, "reduction must be one of", lambda: sample_weight(MU, MU, reduction="avg"))
    raises(ValueError, r"mu \(4, 6\) and rho \(5,\)", lambda: sample_weight(MU, torch.zeros(5)))
    for mixture, says in (
        (0.5, r"mixture must be three numbers \(share, std1, std2\), got 0.5"),
        ((0.5, 1.0), "three numbers"),
        ((-0.5, 1.0, 1.0), "mixture share must lie between 0 and 1, got -0.5"),
        ((1.5, 1.0, 1.0), "between 0 and 1, got 1.5"),
        ((0.5, 0.0, 1.0), "mixture std must be positive, got 0.0"),
        ((0.5, 1.0, NAN), "mixture std must be finite, got nan"),
    ):
        raises(ValueError, says, lambda m=mixture: sample_weight(MU, MU, mixture=m))
        raises(ValueError, says, lambda m=mixture: BayesianLinear(2, 3, mixture=m))
    raises(ValueError, r"prior_std or mixture, got prior_std=0.5 and \(0.5, 1.0, 1.0\)",
           lambda: sample_weight(MU, MU, prior_std=0.5, mixture=(0.5, 1.0, 1.0)))  # fmt: skip


def test_actions():
    call = tanh_normal_rsample
    raises(ValueError, "give exactly one of .*; got none", lambda: call(MU))
    raises(ValueError, "got log_std and std", lambda: call(MU, std=MU, log_std=MU))
    raises(ValueError, "low must be below high, got low 1.0 and high -1.0",
           lambda: call(MU, std=MU, low=1.0, high=-1.0))  # fmt: skip
    raises(ValueError, "high must be finite, got inf", lambda: call(MU, std=MU, high=INF))
    raises(ValueError, r"low must broadcast to the parameters \(4, 6\), got shape \(3,\)",
           lambda: call(MU, std=MU, low=torch.zeros(3)))  # fmt: skip
    raises(TypeError, "high must be a number, got .*list", lambda: call(MU, std=MU, high=["1"]))
    raises(ValueError, "clamp bounds logvar or log_std", lambda: call(MU, std=MU, clamp=(0, 1)))
    raises(ValueError, r"mean \(4, 6\) and log_std \(5,\)",
           lambda: call(MU, log_std=torch.zeros(5)))  # fmt: skip
    raises(ValueError, "eps must have the sample's shape", lambda: call(MU, std=1.0, eps=MU[0]))
    raises(ValueError, "low must be below high", lambda: FusedTanhNormal(low=1.0))
    raises(ValueError, "scale must be one of", lambda: FusedTanhNormal("sigma"))
    raises(ValueError, "broadcast", lambda: FusedTanhNormal().eval()(MU, torch.zeros(5)))


def test_location_scale():
    for call in (loc_scale_rsample, loc_scale_latent):
        for base in ("normal", "laplace"):
            raises(TypeError, "loc must be float32, ", lambda b=base: call(MU.int(), 1.0, b))
            raises(TypeError, "scale must be a floating", lambda b=base: call(MU, "1", b))
        raises(ValueError, "base must be one of normal, laplace, .*, got 'beta'",
               lambda call=call: call(MU, 1.0, "beta"))  # fmt: skip
        raises(ValueError, r"loc \(4, 6\) and scale \(5,\)",
               lambda call=call: call(MU, torch.zeros(5), "cauchy"))  # fmt: skip
        raises(TypeError, "scale must be a floating tensor or a number, got 'x'",
               lambda call=call: call(MU, "x", "cauchy"))  # fmt: skip
        sources = {"key": noise.key(0), "generator": torch.Generator()}
        raises(ValueError, "at most one of key, generator and eps: each",
               lambda call=call, sources=sources: call(MU, 1.0, **sources))  # fmt: skip
    call = loc_scale_rsample
    raises(ValueError, '"student_t" needs df', lambda: call(MU, 1.0, "student_t"))
    raises(ValueError, "df must be positive, got 0", lambda: call(MU, 1.0, "student_t", df=0))
    raises(TypeError, "df must be a number", lambda: call(MU, 1.0, "student_t", df="1"))
    raises(ValueError, r"loc and df .*\(5,\)", lambda: call(MU, 1.0, "student_t", df=torch.ones(5)))
    raises(ValueError, "got df=3.0 .*with base 'cauchy'", lambda: call(MU, 1.0, "cauchy", df=3.0))
    for base in ("logistic", "student_t"):
        raises(ValueError, f"KL of base '{base}' .* has no closed form: use loc_scale_rsample",
               lambda base=base: loc_scale_latent(MU, 1.0, base))  # fmt: skip
    raises(ValueError, "reduction must be", lambda: loc_scale_latent(MU, 1.0, reduction="avg"))


@pytest.mark.parametrize(
    "make",
    [
        lambda tau: relaxed_bernoulli(MU, tau),
        lambda tau: gumbel_softmax(MU, tau),
        lambda tau: categorical_latent(MU, tau),
        FusedRelaxedBernoulli,
        FusedGumbelSoftmax,
        FusedCategoricalLatent,
    ],
)
def test_temperatures(make):
    for tau, error, says in (
        (0.0, ValueError, "tau must be positive, got 0.0"),
        (-1, ValueError, "tau must be positive, got -1"),
        (NAN, ValueError, "tau must be finite, got nan"),
        (INF, ValueError, "tau must be finite, got inf"),
        (MU > 0, TypeError, "tau must be a number or a dense tensor of numbers, got .* torch.bool"),
        ("1", TypeError, "tau must be a number, got '1' of type str"),
        (None, TypeError, "tau must be a number, got None of type NoneType"),
        (True, TypeError, "tau must be a number, got True of type bool"),
    ):
        raises(error, says, lambda tau=tau: make(tau))


CATEGORIES = [
    gumbel_softmax, categorical_latent, one_hot_categorical,
    lambda x, **k: FusedGumbelSoftmax(**k)(x),
    lambda x, **k: FusedCategoricalLatent(**k).eval()(x),
    lambda x, **k: FusedOneHotCategorical(**k).eval()(x),
]  # fmt: skip


@pytest.mark.parametrize("call", CATEGORIES)
def test_class_dims(call):
    for dim, error, says in (
        (2, ValueError, r"logits of shape \(4, 6\) have no dim 2"),
        (-3, ValueError, r"logits of shape \(4, 6\) have no dim -3"),
        (1.0, TypeError, "dim must be an integer, got 1.0 of type float"),
        (True, TypeError, "dim must be an integer, got True of type bool"),
        (None, TypeError, "dim must be an integer, got None of type NoneType"),
        ((0, 1), TypeError, r"dim must be an integer, got \(0, 1\) of type tuple"),
    ):
        raises(error, says, lambda d=dim: call(MU, dim=d))
    raises(ValueError, r"at least one class along dim 1, got shape \(4, 0\)",
           lambda: call(MU[:, :0], dim=1))  # fmt: skip
    raises(ValueError, r"logits of shape \(\) have no dim -1", lambda: call(MU[0, 0]))
    for many in (torch.empty(4, 2**31, device="meta"), MU[:, :1].expand(4, 2**31)):
        raises(ValueError, r"at most 2147483647 classes, got shape \(4, 2147483648\) with the "
                           "classes along dim 1", lambda m=many: call(m))  # fmt: skip
    raises(TypeError, r"logits must be float32, .*got torch.int64 of shape \(4, 6\)",
           lambda: call(MU.long()))  # fmt: skip
    raises(TypeError, r"dense \(strided\) tensor, got layout torch.sparse_coo of shape \(4, 6\)",
           lambda: call(MU.to_sparse()))  # fmt: skip


@pytest.mark.parametrize(
    "call", [lambda u: one_hot_categorical(MU, u), FusedOneHotCategorical], ids=["call", "module"]
)
def test_unimix(call):
    for share, error, says in (
        (-0.1, ValueError, r"unimix must be in \[0, 1\), got -0.1"),
        (1, ValueError, r"unimix must be in \[0, 1\), got 1"),
        (NAN, ValueError, "unimix must be finite, got nan"),
        ("0", TypeError, "unimix must be a number, got '0' of type str"),
        (torch.tensor(1j), TypeError, "unimix must be a number or a dense tensor of numbers"),
    ):
        raises(error, says, lambda u=share: call(u))


def test_reductions_of_categories():
    for make in (
        lambda r, x=MU, d=-1: categorical_latent(x, dim=d, reduction=r),
        lambda r, x=MU, d=-1: FusedCategoricalLatent(dim=d, reduction=r).eval()(x),
    ):
        raises(ValueError, "reduction must be one of none, sample, .*, got 'avg'",
               lambda make=make: make("avg"))  # fmt: skip
        for reduction in ("sample", "batchmean"):
            says = rf"'{reduction}' takes dim 0 for the batch, but it holds the classes of logits"
            raises(ValueError, says + r" \(4, 6\)", lambda r=reduction, m=make: m(r, d=-2))
        raises(ValueError, r"holds the classes of logits \(6,\)",
               lambda make=make: make("batchmean", MU[0]))  # fmt: skip


@pytest.mark.parametrize("call", [gumbel_softmax, categorical_latent, one_hot_categorical])
def test_keys_of_categories(call):
    raises(ValueError, r"key must have shape \(2,\), .*got shape \(1,\)",
           lambda: call(MU, key=noise.key(0)[:1]))  # fmt: skip
    raises(TypeError, "key must have dtype torch.uint64, got torch.float32",
           lambda: call(MU, key=torch.zeros(2)))  # fmt: skip


def test_pytorchs_eps_is_refused():
    """It is a number without effect there; in its place a position would be taken for dim."""
    raises(TypeError, "eps must be a floating tensor, got 1e-10 of type float",
           lambda: gumbel_softmax(MU, eps=1e-10))  # fmt: skip
    raises(TypeError, "dim must be an integer, got 1e-10",
           lambda: gumbel_softmax(MU, 1.0, False, 1e-10))  # fmt: skip
    raises(TypeError, "positional arguments", lambda: gumbel_softmax(MU, 1.0, False, 1e-10, -1))


def test_layers():
    raises(ValueError, "prior_std must be positive", lambda: BayesianConv2d(1, 2, 3, prior_std=0.0))
    raises(ValueError, "rho_init must be finite", lambda: BayesianLinear(1, 2, rho_init=-INF))
    raises(ValueError, "local reparameterization draws no weights, .*give one",
           lambda: BayesianLinear(
               2, 3, mixture=(0.5, 1.0, 0.1), local_reparameterization=True
           ))  # fmt: skip
    raises(ValueError, "groups", lambda: BayesianConv2d(3, 4, 3, groups=2))
    raises(ValueError, "this Sequential has none",
           lambda: kl_divergence(nn.Sequential(nn.Linear(2, 2))))  # fmt: skip
