"""Log-densities and entropies of every distribution, and samples with theirs."""

import math

import pytest
import torch
from torch import distributions as T

from fused_reparam import distributions as D
from fused_reparam import noise
from tests.helpers.distribution_cases import CASES, close

each_case = pytest.mark.parametrize("name", CASES)
# PyTorch's own are less exact: of the continuous Bernoulli near a half, of probabilities that are
# held off 0 and 1.
LOOSE = {"ContinuousBernoulli": 1e-6, "Relaxed": 1e-6, "TanhNormal": 1e-6}


@pytest.fixture
def _doubles():
    """GeneralizedPareto of PyTorch compares with a number of the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


doubles = pytest.mark.usefixtures("_doubles")


def tolerance(name):
    return next((t for start, t in LOOSE.items() if name.startswith(start)), 1e-9)


@doubles
@each_case
def test_log_densities_and_gradients_are_pytorchs(name, backend):
    case = CASES[name]
    value = case.counterpart().sample((6,))
    found = []
    for made in (case.ours, case.theirs):
        params, points = case.params(), value.clone().requires_grad_()
        log_prob = made(**params, validate_args=False).log_prob(points)
        inputs = [*params.values(), points]
        grads = torch.autograd.grad(log_prob.sum(), inputs, materialize_grads=True)
        found.append((log_prob, *grads))
    for got, want in zip(*found, strict=True):
        close(got, want, tolerance(name))


@each_case
def test_entropies_and_moments_are_pytorchs(name):
    case = CASES[name]
    ours, theirs = case.made(), case.counterpart()
    for moment in ("entropy", "mean", "variance", "stddev", "mode"):
        try:
            want = getattr(theirs, moment)
            want = want() if callable(want) else want
        except NotImplementedError:
            continue
        got = getattr(ours, moment)
        close(got() if callable(got) else got, want, tolerance(name))
    assert ours.batch_shape == theirs.batch_shape
    assert ours.event_shape == theirs.event_shape
    assert ours.has_rsample
    if not name.startswith("Tanh"):  # whose counterpart names no bounds
        assert repr(ours.support) == repr(theirs.support)


@doubles
@each_case
def test_distribution_functions_are_pytorchs(name):
    case = CASES[name]
    ours, theirs = case.made(), case.counterpart()
    value = theirs.sample((3,))
    try:
        want = theirs.cdf(value)
    except NotImplementedError:
        return
    close(ours.cdf(value), want, tolerance(name))
    close(ours.icdf(want), theirs.icdf(want), tolerance(name))


@each_case
def test_a_sample_with_its_log_density_is_both(name):
    params = CASES[name].params()
    d, key = CASES[name].ours(**params), noise.key(8)
    z, log_prob = d.rsample_and_log_prob((3,), key=key)
    close(z, d.rsample((3,), key=key), 0.0)
    close(log_prob, d.log_prob(z), 1e-6 if name.startswith("Tanh") else 1e-9)
    inputs = list(params.values())
    got = torch.autograd.grad(log_prob.sum(), inputs, retain_graph=True, materialize_grads=True)
    want = torch.autograd.grad(d.log_prob(z).sum(), inputs, materialize_grads=True)
    for g, w in zip(got, want, strict=True):
        close(g, w, 1e-5 if name.startswith("Tanh") else 1e-8)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_are_the_parameters(name, dtype):
    case = CASES[name]
    d = case.made(dtype, validate_args=False)
    z, log_prob = d.rsample_and_log_prob((2,))
    assert z.dtype == log_prob.dtype == d.log_prob(z).dtype == dtype


def test_values_may_be_numbers_and_integers():
    """As PyTorch's own take them where nothing is validated."""
    for kind in ("Normal", "LogNormal", "Laplace", "Gumbel", "Cauchy"):
        ours = getattr(D, kind)(torch.zeros(3), 2.0, validate_args=False)
        theirs = getattr(T, kind)(torch.zeros(3), 2.0, validate_args=False)
        close(
            ours.log_prob(torch.tensor([1, 2, 3])), theirs.log_prob(torch.tensor([1, 2, 3])), 1e-6
        )
        if kind != "LogNormal":
            close(ours.log_prob(0.5), theirs.log_prob(0.5), 1e-6)
    for kind in ("Weibull", "Pareto"):
        ours = getattr(D, kind)(torch.full((3,), 0.4), 2.0, validate_args=False)
        theirs = getattr(T, kind)(torch.full((3,), 0.4), 2.0, validate_args=False)
        close(ours.log_prob(0.5), theirs.log_prob(0.5), 1e-6)


def test_the_normal_is_exact_where_sigma_leaves_the_dtype():
    log_std = torch.tensor([-120.0, 100.0])
    d = D.Normal(torch.zeros(2), log_std=log_std)
    close(d.entropy(), log_std + 0.5 * math.log(2.0 * math.pi * math.e), 1e-6)
    assert bool(D.Normal(0.0, logvar=log_std).log_prob(torch.zeros(2)).isfinite().all())


def test_generalized_pareto_is_smooth_at_a_concentration_of_0():
    value = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)

    def log_prob(c):
        return D.GeneralizedPareto(0.0, 1.0, c).log_prob(value)

    c = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_prob, [c])
    close(log_prob(c), -value)
    close(
        D.GeneralizedPareto(0.0, 2.0, -torch.ones(3)).log_prob(value.float() / 2),
        -torch.full((3,), math.log(2.0)),
        1e-6,
    )


def test_a_density_near_an_end_of_tanh():
    """It is of x: the action itself has been rounded to the bound."""
    d = D.TanhNormal(torch.full((4,), 20.0), log_std=-1.0)
    z, log_prob = d.rsample_and_log_prob()
    assert bool((z == 1.0).all())
    assert bool(log_prob.isfinite().all())


def test_a_score_is_that_of_a_fixed_sample():
    loc = torch.zeros(5, requires_grad=True, dtype=torch.float64)
    d = D.TanhNormal(loc, 0.5)
    z, log_prob = d.sample_and_log_prob((3,))
    assert not z.requires_grad
    want = torch.autograd.grad(d.log_prob(z).sum(), loc)[0]
    close(torch.autograd.grad(log_prob.sum(), loc)[0], want, 1e-7)
