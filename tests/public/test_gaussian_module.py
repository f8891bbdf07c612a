"""The Gaussian latent's module: priors, free bits, beta and several samples, as the function's."""

import copy
import inspect
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributions import Normal, kl_divergence

from fused_reparam import (
    FusedGaussianLatent,
    gaussian_latent,
    gaussian_latent_from_moments,
    noise,
)

KEY = noise.key(12)
LEARNED = torch.linspace(-1.0, 1.0, 6), {"log_std": torch.linspace(-0.5, 0.5, 6)}
# Of the layer, of its call.
OPTIONS = [
    ({}, {}),
    ({"prior": (0.3, 2.0)}, {}),
    ({"free_bits": 4.0, "beta": 0.25}, {}),
    ({"free_bits": 0.5, "free_bits_per": "element", "num_samples": 3}, {}),
    ({"prior": (0.3, 2.0)}, {"prior": LEARNED, "beta": torch.tensor(0.5)}),
    ({"beta": torch.tensor(2.0), "num_samples": 1}, {"prior": (-0.5, 0.7)}),
]
EACH = pytest.mark.parametrize(("options", "given"), OPTIONS)


def parameters():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, 8, 6, generator=generator).unbind()


@EACH
def test_training_calls_the_function(options, given):
    mu, x = parameters()
    moments = torch.cat((mu, x), 1)
    layer = FusedGaussianLatent("log_std", "sample", (-0.5, 0.5), dim=1, **options)
    same = {"reduction": "sample", "clamp": (-0.5, 0.5)} | options | given
    for source in ({"key": KEY}, {"eps": torch.ones(layer(mu, x, **given)[0].shape)}):
        want = gaussian_latent(mu, log_std=x, **same, **source)
        for got, right in zip(layer(mu, x, **given, **source), want, strict=True):
            assert torch.equal(got, right)
        want = gaussian_latent_from_moments(moments, scale="log_std", **same, **source)
        for got, right in zip(layer(moments, **given, **source), want, strict=True):
            assert torch.equal(got, right)


@EACH
def test_eval_gives_the_mean_and_the_same_kl(options, given):
    mu, x = parameters()
    layer = FusedGaussianLatent(reduction="sample", dim=1, **options)
    drawn, want = layer(mu, x, **given)
    layer.eval()
    before = torch.get_rng_state()
    for inputs in ((mu, x), (torch.cat((mu, x), 1),)):
        z, kl = layer(*inputs, key=KEY, **given)
        assert z.shape == drawn.shape
        assert torch.equal(z, mu.expand(drawn.shape))
        torch.testing.assert_close(kl, want)
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn"
    assert layer(mu, x, **given)[0].data_ptr() == mu.data_ptr(), "no copy"


def test_the_kl_is_pytorchs():
    mu, x = (t.double() for t in parameters())
    layer = FusedGaussianLatent("std", "sample", free_bits=3.0, beta=0.5).eval()
    mean, log_std = LEARNED[0], LEARNED[1]["log_std"]
    posterior, prior = Normal(mu, x.exp()), Normal(mean.double(), log_std.double().exp())
    for given, right in (({}, Normal(0.0, 1.0)), ({"prior": LEARNED}, prior)):
        want = 0.5 * kl_divergence(posterior, right).sum(1).clamp_min(3.0)
        torch.testing.assert_close(layer(mu, x.exp(), **given)[1], want)


def test_a_priors_tensors_have_a_say_in_eval_as_in_training():
    mu, x = (t[:1].half() for t in parameters())
    prior = torch.zeros(8, 6), {"std": torch.ones(6)}
    layer = FusedGaussianLatent(num_samples=2)
    for _ in range(2):
        z, kl = layer(mu, x, prior=prior)
        assert (z.shape, z.dtype, kl.dtype) == ((2, 8, 6), torch.float32, torch.float32)
        layer.eval()


def test_a_learned_prior_gets_gradients_in_eval_too():
    mu, x = parameters()
    layer = FusedGaussianLatent().eval()
    mean = torch.zeros(6, requires_grad=True)
    layer(mu, x, prior=(mean, {"logvar": torch.zeros(6)}))[1].backward()
    torch.testing.assert_close(mean.grad, -mu.mean(0))


def test_annealing_without_compiling_anew():
    torch._dynamo.reset()
    mu, x = parameters()
    layer = FusedGaussianLatent("std", beta=torch.tensor(0.0))
    compiles = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=compiles)
    whole = gaussian_latent(mu, std=x.exp())[1]
    for beta in (0.25, 0.5, 1.0):
        layer.beta.fill_(beta)
        torch.testing.assert_close(compiled(mu, x.exp())[1], beta * whole)
        torch.testing.assert_close(layer(mu, x.exp(), beta=beta)[1], beta * whole)
    assert compiles.frame_count == 1
    plain = FusedGaussianLatent("std")
    for plain.beta in (0.25, 0.5):
        torch.testing.assert_close(plain(mu, x.exp())[1], plain.beta * whole)


def test_signature_state_and_copies():
    assert str(inspect.signature(FusedGaussianLatent)).startswith(
        "(scale: str = 'logvar', reduction: str = 'batchmean', "
        "clamp: tuple[float, float] | None = None, dim: int | None = None,"
    )
    layer = FusedGaussianLatent("rho", prior=(0.3, 2.0), free_bits=1.0, num_samples=3)
    assert repr(layer) == (
        "FusedGaussianLatent(scale='rho', prior=(0.3, 2.0), free_bits=1.0, num_samples=3)"
    )
    mu, x = parameters()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.half()):
        assert repr(other) == repr(layer)
        assert other.state_dict() == {}
        for a, b in zip(other(mu, x, key=KEY), layer(mu, x, key=KEY), strict=True):
            assert torch.equal(a, b)


WRONG = [
    ({"prior": 1.0}, TypeError, "prior must be None, (mean, std) of numbers"),
    ({"prior": (0.0, -1.0)}, ValueError, "prior std must be positive, got -1.0"),
    ({"free_bits": -1.0}, ValueError, "free_bits must be at least 0, got -1.0"),
    ({"free_bits_per": "batch"}, ValueError, "free_bits_per must be one of sample, element"),
    ({"free_bits": 1.0, "reduction": "none"}, ValueError, 'reduction="none" has no sums'),
    ({"beta": "1"}, TypeError, "beta must be a number, got '1'"),
    ({"beta": torch.ones(2)}, ValueError, "beta must be a number or a 0-d tensor"),
    ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
    ({"num_samples": 2.0}, TypeError, "num_samples must be an integer, got 2.0"),
]


@pytest.mark.parametrize(("options", "kind", "said"), WRONG)
def test_wrong_options(options, kind, said):
    with pytest.raises(kind) as caught:
        FusedGaussianLatent(**options)
    assert said in str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_wrong_options_of_a_call(training):
    layer = FusedGaussianLatent().train(training)
    mu, x = parameters()
    with pytest.raises(ValueError, match="prior std must be positive, got 0"):
        layer(mu, x, prior=(0.0, 0))
    with pytest.raises(ValueError, match="must have shapes that broadcast"):
        layer(mu, x, prior=(torch.zeros(5), 1.0))
    with pytest.raises(TypeError, match="beta must be a number"):
        layer(mu, x, beta="1")
