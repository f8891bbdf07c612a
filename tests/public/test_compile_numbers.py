"""Numbers of a compiled call that change from step to step: two graphs for any number of values."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import fused_reparam as fr

np = pytest.importorskip("numpy")

KEY = fr.noise.key(5)
X = torch.linspace(-1.0, 1.0, 24).view(4, 6)
STEPS = [0.3 + 0.05 * i for i in range(14)]


def latent(x, a, **options):
    return fr.gaussian_latent(x, std=0.7, key=KEY, **options)


def weights(x, **prior):
    return fr.sample_weight(x, x - 2.0, key=KEY, **prior)


# Of a tensor and one number.
CALLS = {
    "gumbel_softmax": lambda x, a: fr.gumbel_softmax(x, a, key=KEY),
    "gumbel_softmax hard": lambda x, a: fr.gumbel_softmax(x, a, True, key=KEY),
    "categorical_latent": lambda x, a: fr.categorical_latent(x, a, key=KEY),
    "one_hot_categorical": lambda x, a: fr.one_hot_categorical(x, a, key=KEY),
    "relaxed_bernoulli": lambda x, a: fr.relaxed_bernoulli(x, a, key=KEY),
    "df": lambda x, a: fr.loc_scale_rsample(x, 1.0, "student_t", df=a, key=KEY),
    "df, scale": lambda x, a: fr.loc_scale_rsample(x, a, "student_t", df=a, key=KEY),
    "low": lambda x, a: fr.tanh_normal_rsample(x, std=0.5, low=-a, key=KEY),
    "low, high": lambda x, a: fr.tanh_normal_rsample(x, std=0.5, low=-2 * a, high=a, key=KEY),
    "lists": lambda x, a: fr.tanh_normal_rsample(
        x, std=0.5, low=[-a, -1.0] * 3, high=[a] * 6, key=KEY
    ),
    "gumbel_softmax_log_prob": lambda x, a: fr.gumbel_softmax_log_prob(x.softmax(-1), x, a),
    "relaxed_bernoulli_log_prob": lambda x, a: fr.relaxed_bernoulli_log_prob(x.sigmoid(), x, a),
    "categorical_kl": lambda x, a: fr.categorical_kl(x, x.flip(-1), 0.5 * a),
    "std": lambda x, a: fr.gaussian_latent(x, std=a, key=KEY),
    "scale": lambda x, a: fr.loc_scale_latent(x, a, "laplace", key=KEY),
    "prior mean": lambda x, a: latent(x, a, prior=(a, 1.5)),
    "prior std": lambda x, a: latent(x, a, prior=(0.1, a)),
    "log_prob": lambda x, a: fr.gaussian_rsample_log_prob(x, std=0.5, prior=(a, a), key=KEY),
    "free_bits": lambda x, a: latent(x, a, free_bits=a),
    "free_bits of elements": lambda x, a: latent(x, a, free_bits=a, free_bits_per="element"),
    "beta": lambda x, a: latent(x, a, beta=a),
    "clamp": lambda x, a: fr.gaussian_latent(x, x, clamp=(-a, 0.5 * a), key=KEY),
    "clamp of moments": lambda x, a: fr.gaussian_latent_from_moments(
        torch.cat([x, x], 1), clamp=(-a, 0.5 * a), key=KEY
    ),
    "min_std": lambda x, a: fr.gaussian_rsample(x, rho=a, min_std=a, key=KEY),
    "clamp of a policy": lambda x, a: fr.tanh_normal_rsample(x, log_std=x, clamp=(-a, a), key=KEY),
    "exponential": lambda x, a: fr.exponential_latent(x.exp(), prior_rate=a, key=KEY),
    "weibull": lambda x, a: fr.weibull_latent(
        x.exp(), 1.3, prior_scale=a, prior_concentration=a, key=KEY
    ),
    "pareto": lambda x, a: fr.pareto_latent(
        1.0 + x.exp(), 3.0, prior_scale=a, prior_alpha=a, key=KEY
    ),
    "continuous_bernoulli": lambda x, a: fr.continuous_bernoulli_latent(x, prior_logits=a, key=KEY),
    "weights": lambda x, a: weights(x, prior_mean=a, prior_std=2 * a),
    "share": lambda x, a: weights(x, mixture=(0.9 * a, 1.0, 0.2)),
    "mixture": lambda x, a: weights(x, mixture=(0.3, a, 0.2)),
    "mixture of all": lambda x, a: weights(x, prior_mean=a, mixture=(0.9 * a, 2 * a, 0.3 * a)),
    "mean of a mixture": lambda x, a: weights(x, prior_mean=a, mixture=(0.3, 1.0, 0.2)),
}


def as_tuple(found):
    return found if isinstance(found, tuple) else (found,)


def outcome(call, a):
    x = X.clone().requires_grad_()
    found = as_tuple(call(x, a))
    sum(o.sum() for o in found).backward()
    return *found, x.grad


# Of a tensor and a number of samples.
COUNTED = {
    "latent": lambda x, k: latent(x, 1.0, num_samples=k),
    "log_prob": lambda x, k: fr.gaussian_rsample_log_prob(x, std=0.5, key=KEY, num_samples=k),
    "two dims": lambda x, k: fr.relaxed_bernoulli(x, 0.7, key=KEY, sample_shape=(k, 2)),
    "gumbel_softmax": lambda x, k: fr.gumbel_softmax(x, 0.7, key=KEY, sample_shape=k),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_of_samples(name):
    call = COUNTED[name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for count in (3, 4, 5, 8, 2):
        torch.testing.assert_close(outcome(compiled, count), outcome(call, count))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("name", CALLS)
def test_fourteen_values_of_a_number(name):
    if torch.__version__ < (2, 13) and name in ("low", "categorical_kl"):
        pytest.skip("PyTorch 2.11 makes a graph for each value of some products of a number")
    call = CALLS[name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for a in STEPS:
        got = outcome(compiled, a)
        if a in (STEPS[0], STEPS[-1]):
            torch.testing.assert_close(got, outcome(call, a))
    assert counter.frame_count <= 2


def test_numbers_of_numpy_and_tensors():
    torch._dynamo.reset()
    for make in (np.float64, np.float32, torch.tensor):
        counter = CompileCounterWithBackend("aot_eager")
        call = CALLS["gumbel_softmax"]
        compiled = torch.compile(call, fullgraph=True, backend=counter)
        for a in STEPS:
            got = outcome(compiled, make(a))
        torch.testing.assert_close(got, outcome(call, STEPS[-1]))
        assert counter.frame_count <= 2


def keyed(layer):
    return as_tuple(layer(X, key=KEY))


def of_two(layer):
    return layer(X, X, key=KEY)


def with_its_kl(layer):
    return layer.kl(), layer(X)


@pytest.mark.parametrize(
    ("layer", "call", "name", "value"),
    [
        (fr.FusedGumbelSoftmax(), keyed, "tau", lambda a: a),
        (fr.FusedCategoricalLatent(), keyed, "tau", lambda a: a),
        (fr.FusedOneHotCategorical(0.1), keyed, "unimix", lambda a: a),
        (fr.FusedRelaxedBernoulli(), keyed, "tau", lambda a: a),
        (fr.FusedGaussianLatent(), of_two, "clamp", lambda a: (-a, 0.5 * a)),
        (fr.FusedGaussianLatent(), of_two, "prior", lambda a: (0.1 * a, a)),
        (fr.FusedTanhNormal(), of_two, "clamp", lambda a: (-a, 0.5 * a)),
        (fr.BayesianLinear(6, 2), with_its_kl, "mixture", lambda a: (0.9 * a, 1.0, 0.1 * a)),
    ],
    ids=lambda p: p if isinstance(p, str) else getattr(p, "__name__", type(p).__name__),
)
def test_a_layers_numbers(layer, call, name, value):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for a in STEPS:
        setattr(layer, name, value(a))
        torch.manual_seed(0)
        got = compiled(layer)
    torch.manual_seed(0)
    torch.testing.assert_close(got, call(layer))
    assert counter.frame_count <= 2


def test_a_mixture_is_as_exact_as_in_eager_mode():
    torch._dynamo.reset()

    def call(x, rho, a, **noise):
        given = noise or {"key": KEY}
        return fr.sample_weight(x, rho, a, mixture=(0.9 * a, 2 * a, 0.3 * a), **given)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(40, 50, generator=generator) for _ in range(2)]
    eps = fr.gaussian_rsample(made[0], rho=made[1], key=KEY, return_eps=True)[1].double()
    for a in STEPS[:4]:
        x, rho = (t.double().requires_grad_() for t in made)
        w, kl = call(x, rho, a, eps=eps)
        want = w, kl, *torch.autograd.grad(kl, (x, rho))
        errors = []
        for way in (call, compiled):
            x, rho = (t.clone().requires_grad_() for t in made)
            w, kl = way(x, rho, a)
            found = w, kl, *torch.autograd.grad(kl, (x, rho))
            errors.append([(f - t).abs().max() for f, t in zip(found, want, strict=True)])
        for of_eager, of_compiled in zip(*errors, strict=True):
            assert of_compiled <= 2.0 * of_eager


def test_a_mixture_of_bfloat16_weights():
    """Its numbers don't become bfloat16 and leave the dtype of the weights as it is."""
    torch._dynamo.reset()

    def call(x, rho, a):
        return fr.sample_weight(x, rho, a, mixture=(0.9 * a, 2 * a, 0.3 * a), key=KEY)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for x in (X.bfloat16(), torch.tensor(0.5, dtype=torch.bfloat16)):
        for a in STEPS[:3]:
            torch.testing.assert_close(compiled(x, x - 2.0, a), call(x, x - 2.0, a))


def test_a_constant_of_the_graph_is_checked():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: fr.gumbel_softmax(x, -1.0), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"tau must be positive, got -1\.0"):
        compiled(X)


def test_compiled_to_machine_code():
    """Where the compiler may find out late that a number has to be a constant."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")

    def step(x, a):
        y = fr.gumbel_softmax(x, a, key=KEY)
        return y, *fr.gaussian_latent(x, std=0.7, prior=(0.1, a), beta=a, key=KEY)

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for a in STEPS:
        got = compiled(X, a)
    torch.testing.assert_close(got, step(X, STEPS[-1]))
    assert counter.frame_count <= 2
