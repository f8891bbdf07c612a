"""A prior given as a ``torch.distributions.Normal``."""

import pytest
import torch
from torch.distributions import Independent, Laplace, LogNormal, Normal, kl_divergence

import fused_reparam as fr
from fused_reparam import noise

KEY = noise.key(19)
MEAN, STD = torch.linspace(-1.0, 1.0, 6), torch.linspace(0.5, 1.5, 6)


def latents():
    generator = torch.Generator().manual_seed(3)
    return [t.requires_grad_() for t in torch.randn(2, 4, 6, generator=generator)]


CALLS = {
    "latent": lambda mu, x, **o: fr.gaussian_latent(mu, x, key=KEY, **o),
    "kl": lambda mu, x, **o: (fr.gaussian_kl(mu, x, **o),),
    "moments": lambda mu, x, **o: fr.gaussian_latent_from_moments(
        torch.cat((mu, x), 1), key=KEY, **o
    ),
    "log_prob": lambda mu, x, **o: fr.gaussian_rsample_log_prob(mu, x, key=KEY, **o),
    "layer's call": lambda mu, x, **o: fr.FusedGaussianLatent()(mu, x, key=KEY, **o),
    "layer in eval": lambda mu, x, **o: fr.FusedGaussianLatent().eval()(mu, x, **o),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
@pytest.mark.parametrize("wrapped", [False, True])
def test_it_is_the_prior_of_its_tensors(call, wrapped, backend):
    found = []
    for made in (
        lambda m, s: Independent(Normal(m, s), 1) if wrapped else Normal(m, s),
        lambda m, s: (m, {"std": s}),
    ):
        inputs = [*latents(), MEAN.clone().requires_grad_(), STD.clone().requires_grad_()]
        outputs = call(*inputs[:2], prior=made(*inputs[2:]))
        grads = torch.autograd.grad(sum(o.sin().sum() for o in outputs), inputs)
        found.append((*outputs, *grads))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


@each_call
def test_one_of_numbers_is_the_prior_of_numbers(call):
    """Also for tensors elsewhere, as PyTorch's own 0-d tensors are."""
    mu, x = latents()
    for got, want in zip(
        call(mu, x, prior=Normal(0.5, 2.0)), call(mu, x, prior=(0.5, 2.0)), strict=True
    ):
        assert torch.equal(got, want)
    if call not in (CALLS["latent"], CALLS["moments"], CALLS["log_prob"], CALLS["layer's call"]):
        assert call(mu.to("meta"), x.to("meta"), prior=Normal(0.5, 2.0))[-1].is_meta


def test_the_kl_is_pytorchs():
    mu, x = (t.double() for t in latents())
    prior = Normal(MEAN.double(), STD.double())
    want = kl_divergence(Normal(mu, x.mul(0.5).exp()), prior).sum(1)
    torch.testing.assert_close(fr.gaussian_kl(mu, x, prior=prior, reduction="sample"), want)
    expanded = Normal(0.5, 2.0).expand((6,))
    torch.testing.assert_close(
        fr.gaussian_kl(mu, x, prior=expanded), fr.gaussian_kl(mu, x, prior=(0.5, 2.0))
    )


def test_a_layer_is_built_with_one_of_numbers():
    mu, x = latents()
    layer = fr.FusedGaussianLatent(prior=Normal(0.5, 2.0))
    assert repr(layer) == "FusedGaussianLatent(prior=(0.5, 2.0))"
    want = fr.gaussian_latent(mu, x, prior=(0.5, 2.0), key=KEY)
    assert torch.equal(layer(mu, x, key=KEY)[1], want[1])


@each_call
@pytest.mark.parametrize("prior", [Laplace(MEAN, STD), LogNormal(MEAN, STD)])
def test_another_distribution_is_refused(call, prior):
    said = rf"or a torch.distributions.Normal; got an object of type {type(prior).__name__}"
    with pytest.raises(TypeError, match=said):
        call(*latents(), prior=prior)
    with pytest.raises(TypeError, match="object of type Independent"):
        call(*latents(), prior=Independent(prior, 1))


def test_compiled_made_inside_and_outside():
    torch._dynamo.reset()
    mu, x = latents()
    mean, std = MEAN.clone().requires_grad_(), STD.clone().requires_grad_()
    want = fr.gaussian_latent(mu, x, prior=(mean, {"std": std}), key=KEY)
    inside = torch.compile(
        lambda m, s: fr.gaussian_latent(mu, x, prior=Normal(m, s), key=KEY),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    outside = torch.compile(
        lambda prior: fr.gaussian_latent(mu, x, prior=prior, key=KEY),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    for got in (inside(mean, std), outside(Normal(mean, std))):
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w)
        assert torch.autograd.grad(got[1], mean)[0].abs().sum() > 0
    numbers = torch.compile(
        lambda m: fr.gaussian_kl(m, x, prior=Normal(0.5, 2.0)), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(numbers(mu), fr.gaussian_kl(mu, x, prior=(0.5, 2.0)))
