"""Divergences between all pairs of these distributions and PyTorch's, and samples with theirs."""

import warnings

import pytest
import torch
from torch import distributions as T
from torch.distributions import kl_divergence

from fused_reparam import distributions as D
from fused_reparam import noise
from tests.helpers.distribution_cases import CASES, SHAPE, close, has_no_stride_of_0

each_case = pytest.mark.parametrize("name", CASES)


def outcome(p, q):
    """The divergence, or that there is none."""
    try:
        return kl_divergence(p, q)
    except NotImplementedError:
        return None


@pytest.fixture(autouse=True)
def _no_ambiguity():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@each_case
def test_every_pair_is_pytorchs(name):
    """Of each with each: ours with ours, and ours on one side."""
    p, p_theirs = CASES[name].made(), CASES[name].counterpart()
    found = 0
    for other, case in CASES.items():
        q, q_theirs = case.made(seed=1), case.counterpart(seed=1)
        want = outcome(p_theirs, q_theirs)
        # What PyTorch has in place of a TanhNormal knows no bounds.
        pairs = [(p, q)] if "Tanh" in name else [(p, q), (p, q_theirs), (p_theirs, q)]
        if want is None:
            # A closed form that PyTorch has not registered is the same from each side.
            got = [kl for kl in (outcome(*pair) for pair in pairs) if kl is not None]
            for kl in got[1:]:
                close(kl, got[0])
            continue
        found += 1
        for pair in pairs:
            close(kl := kl_divergence(*pair), want, 1e-6 if "Bernoulli" in name + other else 1e-9)
            assert has_no_stride_of_0(kl)
            assert kl.shape == p.batch_shape
    assert found or name in WITHOUT_ANY


WITHOUT_ANY = {
    "Logistic", "StudentT", "Weibull", "GeneralizedPareto", "HalfCauchy", "Kumaraswamy",
    "TanhNormal bounds", *(name for name in CASES if name.startswith("Relaxed")),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["Weibull", "HalfCauchy", "Kumaraswamy"])
def test_those_that_pytorch_lacks_are_the_mean_log_ratio(kind):
    p = CASES[kind].made(validate_args=False)
    q = CASES[kind].made(seed=1) if kind != "Kumaraswamy" else D.Beta(torch.full(SHAPE, 2.0), 1.5)
    torch.manual_seed(0)
    z = p.sample((400_000,)).clamp(1e-12, 1.0 - 1e-12 if kind == "Kumaraswamy" else None)
    q_of = q if kind != "Kumaraswamy" else T.Beta(torch.full(SHAPE, 2.0).double(), 1.5)
    want = (p.log_prob(z) - q_of.log_prob(z)).mean(0)
    torch.testing.assert_close(kl_divergence(p, q_of), want, rtol=0.03, atol=0.01)


@each_case
@pytest.mark.parametrize("of", ["all", "a row", "numbers", "more"])
def test_a_sample_with_its_divergence_is_both(name, of):
    case, key = CASES[name], noise.key(2)
    shape = {"all": SHAPE, "a row": SHAPE[1:], "numbers": (), "more": (2, *SHAPE)}[of]
    if "Categorical" in name and of == "numbers":
        shape = SHAPE[1:]
    params = case.params()
    d, prior = case.ours(**params), case.made(shape=shape, seed=1)
    want = outcome(d, prior)
    if want is None:
        with pytest.raises(NotImplementedError):
            d.rsample_and_kl(prior)
        return
    z, kl = d.rsample_and_kl(prior, (3,), key=key)
    close(z, d.rsample((3,), key=key), 1e-12)
    close(kl, want)
    assert has_no_stride_of_0(kl)
    inputs = list(params.values())
    got = torch.autograd.grad(kl.sum(), inputs, retain_graph=True, materialize_grads=True)
    for g, w in zip(
        got, torch.autograd.grad(want.sum(), inputs, materialize_grads=True), strict=True
    ):
        close(g, w, 1e-8)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_dtype_is_the_parameters(name, dtype):
    p, q = (CASES[name].made(dtype, seed=seed, validate_args=False) for seed in (0, 1))
    kl = outcome(p, q)
    if kl is not None:
        assert kl.dtype == dtype
        assert p.rsample_and_kl(q)[1].dtype == dtype


@pytest.mark.parametrize("kind", ["Laplace", "Gumbel", "Cauchy", "Normal", "LogNormal"])
def test_to_the_standard_one(kind):
    d = CASES[kind].made()
    standard = getattr(D, kind)(0.0, 1.0)
    key = noise.key(1)
    z, kl = d.rsample_and_kl(standard, key=key)
    close(z, d.rsample(key=key), 1e-12)
    close(kl, kl_divergence(CASES[kind].counterpart(), getattr(T, kind)(0.0, 1.0)), 1e-9)


def test_a_prior_of_another_dtype_leaves_the_sample_as_it_is():
    d, key = D.Normal(torch.zeros(3), log_std=-1.0), noise.key(1)
    prior = D.Normal(torch.ones(3).double(), 2.0)
    z, kl = d.rsample_and_kl(prior, key=key)
    assert torch.equal(z, d.rsample(key=key))
    close(kl, kl_divergence(T.Normal(torch.zeros(3), torch.tensor(-1.0).exp()), prior), 1e-6)


class Theirs(T.Normal):
    """Somebody's subclass of PyTorch's."""

    def __init__(self, loc):
        super().__init__(loc, 2.0)


def test_to_a_subclass_of_pytorchs():
    d, theirs = D.Normal(torch.ones(3), log_std=-1.0), Theirs(torch.zeros(3))
    plain = T.Normal(d.loc, d.scale), T.Normal(theirs.loc, theirs.scale)
    close(kl_divergence(d, theirs), kl_divergence(*plain), 1e-6)
    close(kl_divergence(theirs, d), kl_divergence(*plain[::-1]), 1e-6)
    close(d.rsample_and_kl(theirs)[1], kl_divergence(*plain), 1e-6)


def test_independent_ones_sum():
    p = D.Independent(CASES["Normal log_std"].made(), 1)
    q = D.Independent(D.Normal(torch.zeros(SHAPE).double(), 1.0), 1)
    close(kl_divergence(p, q), kl_divergence(p.base_dist, q.base_dist).sum(-1))


def test_tanh_normals_of_other_bounds_have_none():
    p = D.TanhNormal(torch.zeros(3), 1.0, low=-2.0, high=2.0)
    same, other = D.TanhNormal(torch.zeros(3), 2.0, low=-2.0, high=2.0), D.TanhNormal(0.0, 1.0)
    normals = D.Normal(torch.zeros(3), 1.0), D.Normal(torch.zeros(3), 2.0)
    close(kl_divergence(p, same), kl_divergence(*normals), 1e-6)
    with pytest.raises(NotImplementedError, match="other bounds"):
        kl_divergence(p, other)


def test_a_class_of_probability_0():
    """Adds nothing in p, and is infinite in q, as PyTorch has it."""
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    for made in (D.OneHotCategorical, T.OneHotCategorical):
        assert kl_divergence(D.OneHotCategorical(p), made(q)) == torch.inf
        got = kl_divergence(D.OneHotCategorical(q), made(p))
        close(got, torch.tensor(0.6931472), 1e-6)
