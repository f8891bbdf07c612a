"""Distributions in graphs: torch.compile, torch.jit.trace, vmap, checkpointing."""

import pytest
import torch
from torch.distributions import kl_divergence
from torch.utils.checkpoint import checkpoint

from fused_reparam import distributions as D
from fused_reparam import noise
from tests.helpers.distribution_cases import CASES, close

each_case = pytest.mark.parametrize("name", CASES)
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
KEY = noise.key(6)
WITHOUT_KL = {"Logistic", "StudentT", "GeneralizedPareto", "Kumaraswamy"}


def has_kl(name):
    return name not in WITHOUT_KL and not name.startswith("Relaxed")


def everything(name, key):
    """A sample, its log-density, and divergences where there are some, of parameters."""
    case = CASES[name]

    def call(*values):
        d = case.ours(**dict(zip(case.names, values, strict=True)), validate_args=False)
        z = d.rsample((2,), key=key)
        found = [z, d.log_prob(z)]
        if has_kl(name):
            given = dict(zip(case.names, values, strict=True))
            of_prior = {k: t if k in ("low", "high") else 0.9 * t for k, t in given.items()}
            prior = case.ours(**{k: t.detach() for k, t in of_prior.items()}, validate_args=False)
            found += [kl_divergence(d, prior), *d.rsample_and_kl(prior, key=key)]
        return tuple(found)

    return call


@each_case
def test_it_compiles_without_a_break(name):
    torch._dynamo.reset()
    call = everything(name, KEY)
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    results = []
    for f in (call, compiled):
        params = list(CASES[name].params().values())
        found = f(*params)
        loss = sum(t.sum() for t in found)
        results.append((*found, *torch.autograd.grad(loss, params, materialize_grads=True)))
    for got, want in zip(*results, strict=True):
        close(got, want, 1e-9)


@pytest.mark.parametrize("name", ["Normal", "Normal log_std", "Laplace", "OneHotCategorical"])
def test_compiled_draws_differ(name):
    torch._dynamo.reset()
    case = CASES[name]
    params = list(case.params(torch.float32).values())

    @torch.compile(fullgraph=True, backend="aot_eager")  # which merges what is the same
    def draw(*values):
        return case.ours(**dict(zip(case.names, values, strict=True))).rsample((50,))

    assert not torch.equal(draw(*params), draw(*params))


def test_numbers_and_broadcasts_compile_once_for_all_batches():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    @torch.compile(fullgraph=True, backend=backend, dynamic=True)
    def loss(loc, log_std):
        q = D.Normal(loc, log_std=log_std)
        z, kl = q.rsample_and_kl(D.Normal(0.0, 1.0))
        return z.sum() + kl.sum() + D.Normal(z, 0.5).log_prob(loc).sum()

    for batch in (3, 5, 8):
        loss(torch.zeros(batch, 4), torch.zeros(4)).item()
    assert len(graphs) == 1


@each_case
def test_a_trace_draws_anew_at_each_replay(name):
    case = CASES[name]
    params = [t.detach().float() for t in case.params().values()]

    def draw(*values):
        d = case.ours(**dict(zip(case.names, values, strict=True)), validate_args=False)
        return d.rsample((40,))

    traced = torch.jit.trace(draw, params, check_trace=False)
    assert not torch.equal(traced(*params), traced(*params))
    torch.manual_seed(3)
    first = traced(*params)
    torch.manual_seed(3)
    assert torch.equal(first, traced(*params))


def test_a_trace_has_densities_and_divergences():
    def call(loc, log_std):
        q = D.Normal(loc, log_std=log_std, validate_args=False)
        z = q.rsample()
        return z, q.log_prob(z), kl_divergence(q, D.Normal(0.0, 1.0, validate_args=False))

    inputs = torch.zeros(3, 4), torch.zeros(4)
    traced = torch.jit.trace(call, inputs, check_trace=False)
    z, log_prob, kl = traced(torch.zeros(5, 4), torch.ones(4))
    q = D.Normal(torch.zeros(5, 4), log_std=1.0)
    close(log_prob, q.log_prob(z), 1e-6)
    close(kl, kl_divergence(q, D.Normal(0.0, 1.0)), 1e-6)


@pytest.mark.parametrize("name", ["Normal", "Normal rho", "Gumbel", "Weibull", "RelaxedBernoulli"])
def test_examples_of_a_vmap_are_their_own(name):
    case = CASES[name]
    params = list(case.params().values())

    def draw(*values):
        return case.ours(
            **dict(zip(case.names, values, strict=True)), validate_args=False
        ).rsample()

    z = torch.vmap(draw, randomness="different")(*params)
    assert z.shape == params[0].shape
    same = torch.vmap(draw, randomness="same")(*[t[:1].expand_as(t) for t in params])
    assert torch.equal(same[0], same[1])


def test_checkpointing_gives_the_same_gradients():
    def run(loc, log_std):
        return D.Normal(loc, log_std=log_std).rsample().sin().sum()

    grads = []
    for through in (lambda f, *a: f(*a), lambda f, *a: checkpoint(f, *a, use_reentrant=False)):
        params = [torch.zeros(50, requires_grad=True), torch.zeros(50, requires_grad=True)]
        torch.manual_seed(2)
        grads.append(torch.autograd.grad(through(run, *params), params))
    for got, want in zip(*grads, strict=True):
        assert torch.equal(got, want)


def test_a_narrow_scale_first_seen_without_gradients_has_one():
    scale = torch.ones(3, requires_grad=True)
    d = D.Normal(torch.zeros(2, 3), scale, validate_args=False)
    with torch.no_grad():
        assert d.scale.shape == (2, 3)
    d.scale.sum().backward()
    assert torch.equal(scale.grad, torch.full((3,), 2.0))
