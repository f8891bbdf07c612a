"""``torch.jit.trace``: every sampling call traces, and each replay draws new noise."""

import io

import pytest
import torch
from torch import nn

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.public_cases import EVERY, EVERY_NOISY, assert_same, loss

# PyTorch warns that its tracer is deprecated, of python numbers that it keeps, and of each
# trace that is not deterministic: of every one here.
pytestmark = pytest.mark.filterwarnings("ignore")


def traced(function, example):
    return torch.jit.trace(function, example, check_trace=False)


def detached(params):
    return tuple(p.detach() for p in params)


MODULES = {
    "gaussian": (fr.FusedGaussianLatent(), 2),
    "moments": (fr.FusedGaussianLatent(dim=0), 1),
    "samples": (fr.FusedGaussianLatent(num_samples=3, prior=(0.1, 2.0), beta=0.5), 2),
    "tanh": (fr.FusedTanhNormal(), 2),
    "bernoulli": (fr.FusedRelaxedBernoulli(), 1),
    "gumbel": (fr.FusedGumbelSoftmax(), 1),
    "hard": (fr.FusedGumbelSoftmax(hard=True), 1),
    "categorical": (fr.FusedCategoricalLatent(), 1),
    "one hot": (fr.FusedOneHotCategorical(), 1),
    "linear": (fr.BayesianLinear(5, 3), 1),
    "mixture": (fr.BayesianLinear(5, 3, mixture=(0.3, 1.5, 0.2)), 1),
    "local": (fr.BayesianLinear(5, 3, local_reparameterization=True), 1),
    "conv": (fr.BayesianConv2d(4, 2, 3, padding=1), 1),
}


def outputs(graph, params):
    found = graph(*params)
    return found if isinstance(found, tuple) else (found,)


def assert_replays(graph, params):
    torch.manual_seed(1)
    first, second = outputs(graph, params), outputs(graph, params)
    assert not torch.equal(first[0], second[0])
    torch.manual_seed(1)
    assert_same(outputs(graph, params), first)


@pytest.mark.parametrize("samples", [None, 3])
def test_the_noise_is_given_back_at_each_replay(samples):
    def call(mu, log_std):
        return fr.gaussian_rsample(mu, log_std=log_std, num_samples=samples, return_eps=True)

    params = torch.randn(4, 3), torch.randn(4, 3)
    graph = traced(call, params)
    assert_replays(graph, params)
    for batch in (4, 7):
        mu, log_std = torch.randn(batch, 3), torch.randn(batch, 3)
        z, eps = graph(mu, log_std)
        torch.testing.assert_close(z, mu + log_std.exp() * eps)


@EVERY_NOISY
def test_each_replay_of_a_function_draws_anew(case):
    params = detached(case.params())
    assert_replays(traced(lambda *p: case(*p), params), params)


@pytest.mark.parametrize("name", MODULES)
def test_each_replay_of_a_module_draws_anew(name):
    module, count = MODULES[name]
    params = tuple(torch.rand(4, 3, 5) for _ in range(count))

    graph = traced(module, params)
    assert_replays(graph, params)


@EVERY
def test_a_given_key_is_a_constant_and_gradients_are_those_of_eager_calls(case):
    params, sources = case.params(), {"key": noise.key(7, 3)} if case.noisy else {}
    graph = traced(lambda *p: case(*p, **sources), detached(params))
    want = case(*params, **sources)
    for _ in range(3):  # the profiling executor changes the graph after two runs
        got = graph(*params)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w)
        for g, w in zip(
            torch.autograd.grad(loss(got), params),
            torch.autograd.grad(loss(want), params, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(g, w)


def test_a_graph_serves_other_batches_than_the_one_it_was_traced_with():
    """Means too, whose factor is 1 for a batch of one."""
    kl = fr.FusedCategoricalLatent(reduction="batchmean").eval()
    calls = (
        lambda x: fr.gaussian_kl(x, x),
        lambda x: fr.gaussian_kl(x, x, reduction="mean"),
        lambda x: fr.gaussian_latent(x, x, free_bits=0.1, eps=torch.zeros_like(x))[1],
        lambda x: kl(x)[1],
    )
    more = torch.rand(5, 1)
    for call in calls:
        for first in (more[:1], more[:2]):
            torch.testing.assert_close(traced(call, (first,))(more), call(more))


def test_a_key_can_be_an_input():
    mu, logvar = torch.randn(3, 4), torch.randn(3, 4)
    graph = traced(lambda m, v, k: fr.gaussian_latent(m, v, key=k), (mu, logvar, noise.key(1)))
    for seed in (1, 2):
        assert_same(
            graph(mu, logvar, noise.key(seed)), fr.gaussian_latent(mu, logvar, key=noise.key(seed))
        )


def test_two_calls_of_one_graph_differ_and_gradients_take_the_noise_of_their_pass():
    def two(mu, std):
        return fr.gaussian_rsample(mu, std=std), fr.gaussian_rsample(mu, std=std)

    mu, std = torch.zeros(20), torch.ones(20, requires_grad=True)
    graph = traced(two, (mu, std.detach()))
    for _ in range(4):
        a, b = graph(mu, std)
        assert not torch.equal(a, b)
        # z is eps here, which is the gradient of std.
        torch.testing.assert_close(torch.autograd.grad(a.sum(), std)[0], a.detach())


def test_a_traced_model_is_saved_and_loaded():
    model = nn.Sequential(fr.BayesianLinear(5, 3), nn.ReLU(), fr.FusedGumbelSoftmax())
    x = torch.randn(2, 5)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, (x,), check_trace=False), file)
    loaded = torch.jit.load(io.BytesIO(file.getvalue()))
    assert not torch.equal(loaded(x), loaded(x))


def test_a_generator_is_refused_in_one_line():
    mu = torch.zeros(3)
    generator = torch.Generator()
    with pytest.raises(RuntimeError, match="can't record a generator"):
        traced(lambda m: fr.gaussian_rsample(m, std=1.0, generator=generator), (mu,))
