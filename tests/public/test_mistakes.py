"""Likely mistakes: the error says what was given, what was expected and what was probably meant."""

import inspect
import re
import warnings
from itertools import product

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.public_cases import EVERY, NOISY

np = pytest.importorskip("numpy")

MU = torch.zeros(4, 6)
PUBLIC = [getattr(fr, name) for name in fr.__all__]
LAYERS = [c for c in PUBLIC if inspect.isclass(c) and issubclass(c, torch.nn.Module)]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    NESTED = [
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=layout, dtype=dtype)
        for layout in (torch.strided, torch.jagged)
        for dtype in (torch.float32, torch.int64)
    ]
# In place of a tensor, and what is said of it.
WRONG = [
    (None, "None of type NoneType"),
    ((MU, MU), r"\(a tensor of shape \(4, 6\), torch.float32, .* of type tuple; did you mean to "
               r"unpack it, as in latent\(\*encode\(x\)\)"),
    ([MU], "of type list; did you mean to unpack"),
    ([1.0, 2.0], r"\(1.0, 2.0\) of type list; torch.as_tensor"),
    (np.zeros((4, 6)), r"numpy ndarray of shape \(4, 6\), float64; torch.as_tensor"),
    ("mu", "'mu' of type str"),
    (torch.nn.Linear(2, 2), "an object of type Linear"),
    (torch.distributions.Normal(MU, 1.0), "an object of type Normal"),
    (MU.to(torch.complex64), "torch.complex64"),
    (MU.int(), "torch.int32"),
    (MU.bool(), "torch.bool"),
    (MU.to_sparse(), "torch.sparse_coo"),
    (torch.quantize_per_tensor(MU, 0.1, 0, torch.qint8), "torch.qint8"),
    *((t, "a nested tensor of 2 parts") for t in NESTED),
]  # fmt: skip


def said_by(call, *errors):
    """What an error says, which is short and holds neither numbers nor PyTorch's own overloads."""
    with pytest.raises(errors or (TypeError, ValueError)) as caught:
        call()
    said = str(caught.value)
    assert len(said) < 500, said
    for leak in ("tensor(", "overload", "Internal error", "invalid combination", "INTERNAL"):
        assert leak not in said, said
    return said


@EVERY
def test_in_place_of_a_tensor(backend, case):
    right = [MU.abs() + 0.5] * len(case.names)
    places = [i for i, name in enumerate(case.names) if name not in case.numbers]
    for i, (wrong, says) in product(places, WRONG):
        if wrong is None and i:  # a scale that is not given, perhaps
            continue
        said = said_by(lambda i=i, wrong=wrong: case(*right[:i], wrong, *right[i + 1 :]))
        name = case.names[i].replace("prior_", "prior ")
        assert name in said.replace("prior_", "prior "), (case, i, said)
        if "say which scale" not in said and "exactly one" not in said:
            assert re.search(says, said), (case.names[i], said)


@pytest.mark.parametrize("case", NOISY.values(), ids=NOISY)
def test_wrong_sources(case):
    params = case.params()
    for key in (0, None, "0", (1, 2), [noise.key(0)], np.zeros(2, np.uint64), torch.zeros(2)):
        if key is not None:
            assert "key must" in said_by(lambda key=key: case(*params, key=key))
    for key in (noise.key(0)[:1], noise.key(0)[None]):
        assert "key must" in said_by(lambda key=key: case(*params, key=key))
    for generator in (0, 1.0, "cpu", np.random.default_rng(0), MU):
        said = said_by(lambda g=generator: case(*params, generator=g), TypeError)
        assert "generator must be one torch.Generator or None, got" in said
    with pytest.raises(TypeError, match=r"manual_seed\(seed\) makes one"):
        case(*params, generator=3)
    with pytest.raises(TypeError, match="a list whose item 1 is None of type NoneType"):
        case(*params, generator=[torch.Generator(), None])
    for eps in (1e-10, "x", [1.0], np.zeros((4, 3, 5)), torch.zeros(4, 3, 5).int(), *NESTED):
        assert "eps must" in said_by(lambda eps=eps: case(*params, eps=eps))


WORDS = [
    (fr.gaussian_latent, {"sigma": MU}, "'sigma' .did you mean 'std'"),
    (fr.gaussian_latent, {"scale": MU}, "'scale' .did you mean 'std'"),
    (fr.gaussian_latent, {"log_var": MU}, "'log_var' .did you mean 'logvar'"),
    (fr.gaussian_latent, {"log_sigma": MU}, "'log_sigma' .did you mean 'log_std'"),
    (fr.gaussian_latent, {"prior_std": 1.0}, "'prior_std' .did you mean 'prior'"),
    (fr.gaussian_latent, {"seed": 1}, "'seed' .did you mean 'key'"),
    (fr.gaussian_latent, {"n_samples": 1}, "'n_samples' .did you mean 'num_samples'"),
    (fr.gaussian_latent, {"reducton": "sum"}, "'reducton' .did you mean 'reduction'"),
    (
        fr.gaussian_rsample,
        {"samples": 1},
        "'samples' .did you mean 'num_samples' or 'sample_shape'",
    ),
    (fr.exponential_rsample, {"num_samples": 1}, "'num_samples' .did you mean 'sample_shape'"),
    (fr.gaussian_kl, {"temperature": 1}, "'temperature'; it takes mu, logvar, .*beta$"),
    (fr.loc_scale_rsample, {"sigma": MU}, "'sigma' .did you mean 'scale'"),
    (fr.tanh_normal_rsample, {"min": 1}, "'min' .did you mean 'low'"),
    (fr.gumbel_softmax, {"temperature": 1.0}, "'temperature' .did you mean 'tau'"),
    (fr.gumbel_softmax, {"straight_through": True}, "did you mean 'hard'"),
    (fr.gumbel_softmax, {"axis": 1}, "did you mean 'dim'"),
    (fr.exponential_rsample, {"lambd": MU}, "'lambd' .did you mean 'rate'"),
    (fr.weibull_rsample, {"shape": MU}, "'shape' .did you mean 'concentration'"),
    (fr.pareto_rsample, {"shape": MU}, "'shape' .did you mean 'alpha'"),
    (fr.gumbel_softmax, {"dime": 1}, "'dime' .did you mean 'dim'.*it takes .*, sample_shape"),
    (fr.sample_weight, {"sigma": 1, "reducton": 1}, "'sigma', 'reducton' .did you mean 'reduction"),
]


@pytest.mark.parametrize(("function", "given", "says"), WORDS)
def test_unknown_keywords(function, given, says):
    first = next(iter(inspect.signature(function).parameters))
    for call in (lambda: function(MU, **given), lambda: function(**{first: MU}, **given)):
        said = said_by(call, TypeError)
        assert said.startswith(f"{function.__name__}() got an unexpected keyword argument '")
        assert re.search(says, said)


def test_another_name_of_what_is_required():
    for function, given, says in (
        (fr.gaussian_latent, {"mean": MU, "logvar": MU}, "'mean' .did you mean 'mu'"),
        (fr.tanh_normal_rsample, {"mu": MU, "std": MU}, "'mu' .did you mean 'mean'"),
        (fr.loc_scale_rsample, {"mean": MU, "std": MU}, "'mean' .did you mean 'loc'.*or|'loc'"),
        (fr.sample_weight, {"mean": MU, "rho": MU}, "'mean' .did you mean 'mu'"),
        (fr.relaxed_bernoulli, {"logit": MU}, "'logit' .did you mean 'logits'"),
    ):
        with pytest.raises(TypeError, match=says):
            function(**given)
    for function in PUBLIC:
        if inspect.isfunction(function) and "sample" in function.__name__:
            first = next(iter(inspect.signature(function).parameters))
            said = said_by(function)
            assert "must" in said or "exactly one" in said, said
            assert first in said or "exactly one" in said, said


@pytest.mark.parametrize("layer", LAYERS)
def test_unknown_keywords_of_layers(layer):
    takes = {
        n: p for n, p in inspect.signature(layer).parameters.items() if p.kind != p.VAR_KEYWORD
    }
    required = [3] * sum(p.default is p.empty for p in takes.values())
    said = said_by(lambda: layer(*required, latent_dim=20), TypeError)
    assert said.startswith(f"{layer.__name__}() got an unexpected keyword argument 'latent_dim'")
    told = said.partition("; it takes ")[2]
    assert told.partition(";")[0] == ", ".join(takes)


def test_words_of_layers():
    with pytest.raises(TypeError, match=r"'temperature' .did you mean 'tau'"):
        fr.FusedGumbelSoftmax(temperature=0.5)
    for layer in (fr.FusedGaussianLatent, fr.FusedTanhNormal):
        for size in (20, np.int64(20), 2.0):
            with pytest.raises(TypeError, match=f"{layer.__name__} takes no sizes: .* scale, must"):
                layer(size)
        with pytest.raises(ValueError, match=r"got 'sigma' \(did you mean 'std'\?\)"):
            layer("sigma")
    for training in (True, False):
        latent = fr.FusedGaussianLatent().train(training)
        with pytest.raises(TypeError, match=r"did you mean to unpack it, .*latent\(\*encode\(x\)"):
            latent((MU, MU))


def test_words_of_options():
    for call, says in (
        (lambda: fr.gaussian_latent(MU, MU, reduction="batch_mean"), "did you mean 'batchmean'"),
        (lambda: fr.gaussian_latent(MU, MU, reduction="Sum"), "did you mean 'sum'"),
        (lambda: fr.gaussian_latent(MU, MU, reduction=None), "reduction must be one of .*got None"),
        (lambda: fr.gaussian_latent(MU, MU, reduction=MU), "reduction .*got a tensor of shape"),
        (lambda: fr.gaussian_kl(MU, MU, reduction=np.ones(3)), "reduction .*got a numpy"),
        (lambda: fr.gaussian_latent(MU, MU, rng="pytorch"), "did you mean 'torch'"),
        (lambda: fr.loc_scale_rsample(MU, 1.0, "student-t"), "did you mean 'student_t'"),
        (lambda: fr.loc_scale_latent(MU, 1.0, "Gumbell"), "did you mean 'gumbel'"),
        (lambda: fr.loc_scale_latent(MU, 1.0, MU), "base must be one of"),
        (lambda: fr.gaussian_latent(MU, MU, free_bits_per=MU), "free_bits_per must be one of"),
        (lambda: fr.gaussian_latent(MU, MU, free_bits_per="samples"), "did you mean 'sample'"),
        (lambda: fr.gaussian_latent_from_moments(MU, scale="log_var"), "did you mean 'logvar'"),
        (lambda: fr.gaussian_kl(MU, MU, prior=(MU, {"sigma": MU})), "did you mean 'std'"),
        (lambda: fr.gaussian_kl(MU, MU, prior=torch.distributions.Laplace(0, 1)), "type Laplace"),
        (lambda: fr.gaussian_kl(MU, MU, prior=MU), r"got a tensor of shape \(4, 6\)"),
        (lambda: fr.gaussian_kl(MU, MU, beta=np.ones(3)), "beta must be a number"),
        (lambda: fr.gaussian_latent(MU, MU, clamp=MU), "clamp must be two numbers"),
    ):
        said_by(call)
        with pytest.raises((TypeError, ValueError), match=says):
            call()


def test_what_is_beside_the_functions():
    for call, says in (
        (lambda: noise.draw_key(generator=3), "generator must be one torch.Generator or None"),
        (lambda: noise.draw_key("cpu", [torch.Generator()]), "generator must be one"),
        (lambda: fr.kl_divergence(3), "model must be a torch.nn.Module, got 3 of type int"),
        (lambda: fr.kl_divergence([fr.BayesianLinear(1, 1)]), "got .* of type list"),
        (lambda: fr.FusedRelaxedBernoulli().eval()((MU, MU)), "logits must be .*unpack"),
        (lambda: fr.FusedRelaxedBernoulli().eval()(NESTED[0]), "logits must be .*nested"),
        (lambda: noise.normal(noise.key(0), (2, -1)), r"not be negative, got \(2, -1\)"),
        (lambda: noise.normal(MU, 2), "key must have dtype torch.uint64"),
    ):
        assert re.search(says, said_by(call))


def test_devices_of_keys_and_factors():
    """A meta tensor holds nothing: neither a key nor a factor of numbers can be made of it."""
    key, beta = noise.key(0).to("meta"), torch.ones((), device="meta")
    for call in (
        lambda: fr.gaussian_latent(MU, MU, key=key),
        lambda: fr.gumbel_softmax(MU, key=key),
        lambda: fr.relaxed_bernoulli(MU, key=key),
        lambda: noise.normal(key, 3, device="cpu"),
    ):
        assert "key on meta holds no numbers for cpu" in said_by(call, ValueError)
    for call in (fr.gaussian_latent, fr.gaussian_kl):
        said = said_by(lambda c=call: c(MU, MU, beta=beta), ValueError)
        assert "beta must be on cpu, or a tensor without dims" in said


@pytest.mark.parametrize("call", [fr.gaussian_latent, fr.gaussian_rsample])
def test_more_samples_than_can_be_counted(call):
    said = said_by(lambda: call(MU, MU, num_samples=10**30), ValueError)
    assert "num_samples must be below 2^63, got 1000" in said


@pytest.mark.parametrize("wrong", [-1, 1e-10, "yes", MU, None, np.ones(3), 2])
def test_flags(wrong):
    """PyTorch's eps or dim at the place of hard was taken for True."""
    for call in (
        lambda: fr.gumbel_softmax(MU, 1.0, wrong),
        lambda: fr.categorical_latent(MU, 1.0, wrong),
        lambda: fr.relaxed_bernoulli(MU, 1.0, wrong),
        lambda: fr.FusedGumbelSoftmax(1.0, wrong),
        lambda: fr.FusedCategoricalLatent(1.0, wrong),
        lambda: fr.FusedRelaxedBernoulli(1.0, wrong),
    ):
        assert "hard must be True or False, got" in said_by(call, TypeError)
    for call in (fr.gaussian_latent, fr.gaussian_rsample):
        assert "return_eps must be" in said_by(lambda c=call: c(MU, MU, return_eps=wrong))
    said = said_by(lambda: fr.gaussian_latent_from_moments(MU, return_eps=wrong))
    assert "return_eps must be" in said


def test_flags_of_numpy():
    for true in (True, np.True_, 1):
        assert fr.gumbel_softmax(MU, 1.0, true).unique().tolist() == [0.0, 1.0]


def test_signatures_are_as_they_are_read():
    for function in (*filter(inspect.isfunction, PUBLIC), *LAYERS):
        if function is fr.FusedELBO:
            continue  # it takes the options of its likelihood
        kinds = [p.kind for p in inspect.signature(function).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds, function
    signature = inspect.signature(fr.gaussian_latent)
    assert signature.parameters["mu"].default is inspect.Parameter.empty
