"""``dims=``: divergences and log-densities summed over the dims that a user names."""

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.loops import where

KEY = noise.key(12)
SHAPE = (2, 3, 4, 5, 6)
DIMS = (-1, 4, 0, 2, (1, 2, 3, 4), [1, 2, 3], (-1, -3), (0, 1, 2, 3, 4), torch.Size((3, 4)), ())


def tensors(count, shape=SHAPE, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (0.3 + 0.4 * torch.rand(shape, generator=generator)).to(device, dtype).requires_grad_()
        for _ in range(count)
    ]


def summed(elements, dims, samples=0):
    """As torch.sum, but that () is over none; dims are of one sample."""
    count = elements.dim() - (1 if samples else 0)
    chosen = [d % count - count for d in ((dims,) if isinstance(dims, int) else dims)]
    return elements.sum(chosen) if chosen else elements


def check(call, inputs, dims, samples=0, each=None):
    """A call with dims is the element-wise one summed, in its numbers and its gradients."""
    got, each = call(dims=dims), call(**(each or {"reduction": "none"}))
    want = summed(each.double(), dims, samples)
    torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=1e-5)
    incoming = torch.randn_like(want)
    found = torch.autograd.grad(got, inputs, incoming.to(got.dtype))
    right = torch.autograd.grad(want, inputs, incoming)
    for g, w in zip(found, right, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5)


def test_the_divergence_of_a_gaussian(device):
    mu, x, mean, scale = inputs = tensors(4, device=device)
    prior = mean, {"std": scale}
    for dims in DIMS[::3] if device.type == "cpu" and fr.current_backend() == "triton" else DIMS:
        with where(dims):
            check(lambda **o: fr.gaussian_kl(mu, std=x, prior=prior, **o), inputs, dims)
            latent = lambda **o: fr.gaussian_latent(mu, rho=x, num_samples=2, key=KEY, **o)[1]  # noqa: E731
            check(latent, (mu, x), dims)


def test_channels_last_and_moments(backend):
    """Where the elements of one sum are apart in memory, and the gradient of both halves is one."""
    last = torch.channels_last_3d
    mu, x = [t.detach().to(memory_format=last).requires_grad_() for t in tensors(2)]
    moments = torch.cat((mu, x), 1).detach().to(memory_format=last).requires_grad_()
    for dims in DIMS:
        with where(dims):
            check(lambda **o: fr.gaussian_kl(mu, std=x, **o), (mu, x), dims)
            of_moments = lambda **o: fr.gaussian_latent_from_moments(moments, key=KEY, **o)[1]  # noqa: E731
            check(of_moments, (moments,), dims)
    # A prior wider than the moments decides what the dims are.
    wide = torch.zeros(7, *SHAPE), 1.0
    assert fr.gaussian_latent_from_moments(moments, prior=wide, dims=(1, -1))[1].shape == (
        7,
        3,
        4,
        5,
    )


FAMILIES = {
    "log_normal": lambda p, **o: fr.log_normal_latent(p[0], std=p[1], **o),
    "laplace": lambda p, **o: fr.loc_scale_latent(*p, "laplace", **o),
    "normal": lambda p, **o: fr.loc_scale_latent(*p, **o),
    "gumbel": lambda p, **o: fr.loc_scale_latent(*p, "gumbel", **o),
    "exponential": lambda p, **o: fr.exponential_latent(p[0], **o),
    "weibull": lambda p, **o: fr.weibull_latent(*p, **o),
    "half_normal": lambda p, **o: fr.half_normal_latent(p[0], **o),
    "pareto": lambda p, **o: fr.pareto_latent(*p, prior_scale=0.1, prior_alpha=1.0, **o),
    "half_cauchy": lambda p, **o: fr.half_cauchy_latent(p[0], **o),
    "continuous_bernoulli": lambda p, **o: fr.continuous_bernoulli_latent(p[0], **o),
    "bernoulli": lambda p, **o: (None, fr.bernoulli_kl(*p, **o)),
    "kumaraswamy": lambda p, **o: (None, fr.kumaraswamy_kl(*p, **o)),
    "categorical": lambda p, **o: fr.categorical_latent(p[0].movedim(1, -1)[:, None], dim=1, **o),
    "categorical_kl": lambda p, **o: (None, fr.categorical_kl(*p, dim=1, **o)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(backend, name):
    params = tensors(2, (2, 3, 4))
    options = {} if name.endswith(("bernoulli", "kumaraswamy", "kl")) else {"key": KEY}
    if name == "continuous_bernoulli":
        options = {"key": KEY}
    got = FAMILIES[name](params, reduction="none", **options)[1]
    grads = torch.autograd.grad(got.sum(), params, allow_unused=True)
    used = [p for p, g in zip(params, grads, strict=True) if g is not None]
    for dims in (-1, (0, 1), 0, -2):
        with where(dims):
            check(lambda **o: FAMILIES[name](params, **o, **options)[1], used, dims)


def test_dims_of_categories_are_those_of_the_variables(backend):
    logits = torch.randn(2, 5, 3, 4)
    each = fr.categorical_latent(logits, dim=1, reduction="none", key=KEY)[1]
    assert each.shape == (2, 3, 4)
    for dims, shape in (((1, 2), (2,)), (-1, (2, 3)), (0, (3, 4)), ((), (2, 3, 4))):
        kl = fr.categorical_latent(logits, dim=1, dims=dims, key=KEY)[1]
        assert kl.shape == shape
        torch.testing.assert_close(kl, summed(each, dims))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) of one sample, got \(3,\)"):
        fr.categorical_latent(logits, dim=1, dims=3)


def test_densities_of_samples(backend):
    mu, x = inputs = tensors(2, (2, 3, 4))
    for samples in (None, 2):
        for dims in (-1, (0, 2), (1, 2), ()):
            with where(samples, dims):
                options = {"rho": x, "num_samples": samples, "key": KEY}
                for i in (1, 2):
                    call = lambda i=i, **o: fr.gaussian_rsample_log_prob(mu, **o, **options)[i]  # noqa: E731
                    check(call, inputs, dims, samples, each={"dims": ()})
    for dims in (-1, (0, 2), 0, ()):
        call = lambda dims: fr.tanh_normal_rsample(mu, std=x, dims=dims, key=KEY)[1]  # noqa: E731
        check(call, inputs, dims, each={"dims": ()})
    # The defaults: all but the first, and the last.
    both = (
        fr.gaussian_rsample_log_prob(mu, rho=x, key=KEY),
        fr.gaussian_rsample_log_prob(mu, rho=x, key=KEY, dims=(1, 2)),
    )
    assert all(map(torch.equal, *both))
    both = [
        fr.tanh_normal_rsample(mu, std=x, key=KEY, **o)[1] for o in ({}, {"dims": -1}, {"dims": 2})
    ]
    assert all(torch.equal(both[0], other) for other in both[1:])


def test_free_bits_and_beta(backend):
    """Each sum has its floor, and below it no gradient; then comes the factor."""
    mu, x = inputs = tensors(2, (2, 3, 4))
    with torch.no_grad():
        mu[0, :2] += 2.0
        mu[0, :, :2] += 2.0
    for dims, floor in ((-1, 5.0), ((1, 2), 20.0), (1, 4.0)):
        with where(dims):
            each = summed(fr.gaussian_kl(mu, std=x, reduction="none"), dims)
            assert (each > floor).any()
            assert (each < floor).any()
            want = torch.where(each < floor, floor, each) * 0.5
            got = fr.gaussian_kl(mu, std=x, dims=dims, free_bits=floor, beta=torch.tensor(0.5))
            torch.testing.assert_close(got, want)
            for g, w in zip(
                torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(want.sum(), inputs),
                strict=True,
            ):  # fmt: skip
                torch.testing.assert_close(g, w)
    by_element = fr.gaussian_kl(mu, std=x, dims=(0, 2), free_bits=0.7, free_bits_per="element")
    each = fr.gaussian_kl(mu, std=x, reduction="none").clamp_min(0.7)
    torch.testing.assert_close(by_element, each.sum((0, 2)))
    with pytest.raises(ValueError, match="has no sums"):
        fr.gaussian_kl(mu, std=x, dims=(), free_bits=1.0)


def test_small_tensors(backend):
    assert fr.gaussian_kl(torch.tensor(0.5), std=1.0, dims=-1).shape == ()
    assert fr.gaussian_kl(torch.zeros(3), std=1.0, dims=0).shape == ()
    assert fr.gaussian_kl(torch.zeros(0, 3), std=1.0, dims=0).tolist() == [0.0] * 3
    assert fr.gaussian_kl(torch.zeros(2, 3), std=torch.ones(4, 1, 1), dims=1).shape == (4, 3)


def test_what_is_wrong():
    mu = torch.zeros(2, 3)
    for function in (
        lambda **o: fr.gaussian_kl(mu, std=1.0, **o),
        lambda **o: fr.exponential_latent(mu + 1.0, **o),
        lambda **o: fr.categorical_kl(torch.zeros(2, 3, 4), **o),
    ):
        with pytest.raises(ValueError, match=r"dims must be different dims of the shape \(2, 3\)"):
            function(dims=2)
        with pytest.raises(ValueError, match=r"got \(1, -1\)"):
            function(dims=(1, -1))
        with pytest.raises(TypeError, match=r"dims must be an integer, got 0\.5 of type float"):
            function(dims=0.5)
        with pytest.raises(ValueError, match=r"give reduction or dims, not both.*reduction='sum'"):
            function(dims=1, reduction="sum")
    with pytest.raises(ValueError, match="dims must be different"):
        fr.tanh_normal_rsample(mu, std=1.0, dims=(0, 5))
