"""Priors, free bits, beta and several samples of the Gaussian functions."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fused_reparam import (
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
    noise,
)

KEY = noise.key(11, 3)


def leaves(*shapes, dtype=torch.float64):
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def scale_of(x, kind):
    return {
        "logvar": lambda: torch.exp(0.5 * x),
        "log_std": lambda: torch.exp(x),
        "rho": lambda: torch.nn.functional.softplus(x),
        "std": lambda: x,
        "var": lambda: x.sqrt(),
    }[kind]()


def same_gradients(ours, theirs, tensors, **tolerance):
    found = torch.autograd.grad(ours, tensors, retain_graph=True)
    wanted = torch.autograd.grad(theirs, tensors, retain_graph=True)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, **tolerance)


@pytest.mark.parametrize("kind", ["logvar", "log_std", "std", "var", "rho"])
def test_a_prior_of_numbers(kind):
    (mu,) = leaves((5, 7))
    x = (torch.rand(5, 7, dtype=torch.float64) + 0.2).requires_grad_()
    z, kl = gaussian_latent(mu, **{kind: x}, prior=(0.7, 0.3), reduction="none", key=KEY)
    normal = Normal(mu, scale_of(x, kind))
    want = kl_divergence(normal, Normal(*torch.tensor([0.7, 0.3], dtype=torch.float64)))
    torch.testing.assert_close(kl, want)
    eps = noise.normal(KEY, (5, 7), dtype=torch.float64)
    weight = torch.randn(5, 7, dtype=torch.float64)
    same_gradients(
        (weight * kl).sum() + z.sin().sum(),
        (weight * want).sum() + (normal.loc + normal.scale * eps).sin().sum(),
        (mu, x),
    )
    alone = gaussian_kl(mu, **{kind: x}, prior=(0.7, 0.3), reduction="sample")
    torch.testing.assert_close(alone, want.sum(1))


@pytest.mark.parametrize("kind", ["logvar", "log_std", "std", "var", "rho"])
def test_a_learned_prior_broadcasts_and_learns(kind):
    mu, log_std, prior_mean = leaves((6, 3, 5), (6, 3, 5), (5,))
    prior_x = (torch.rand(3, 1, dtype=torch.float64) + 0.2).requires_grad_()
    prior = prior_mean, {kind: prior_x}
    tensors = (mu, log_std, prior_mean, prior_x)
    z, kl = gaussian_latent(mu, log_std=log_std, prior=prior, reduction="sample", key=KEY)
    normal = Normal(mu, log_std.exp())
    want = kl_divergence(normal, Normal(prior_mean, scale_of(prior_x, kind)))
    torch.testing.assert_close(kl, want.sum((1, 2)))
    torch.testing.assert_close(z, gaussian_rsample(mu, log_std=log_std, key=KEY))
    weight = torch.randn(6, dtype=torch.float64)
    same_gradients((weight * kl).sum(), (weight * want.sum((1, 2))).sum(), tensors)
    alone = gaussian_kl(mu, log_std=log_std, prior=prior, reduction="mean")
    torch.testing.assert_close(alone, want.mean())


def test_forms_of_the_same_prior_agree():
    mu, logvar = leaves((4, 6), (4, 6), dtype=torch.float32)
    expected = gaussian_kl(mu, logvar, prior=(0.5, 2.0))
    half, two = torch.tensor(0.5), torch.tensor(2.0)
    for prior in [(half, 2.0), (half, {"std": two}), (0.5, {"var": 4.0}), [0.5, {"std": two}]]:
        torch.testing.assert_close(gaussian_kl(mu, logvar, prior=prior), expected)
    standard = gaussian_latent(mu, logvar, key=KEY)
    for prior in [(0.0, 1.0), (0, 1)]:
        for ours, plain in zip(
            gaussian_latent(mu, logvar, prior=prior, key=KEY), standard, strict=True
        ):
            assert torch.equal(ours, plain)
    widened = gaussian_kl(mu, logvar, prior=(half.double().expand(4, 1), {"std": two}))
    assert widened.dtype == torch.float64


def test_a_prior_of_another_dtype_keeps_16_bit_results_16_bit():
    mu = torch.randn(8, 16, dtype=torch.bfloat16)
    z, kl = gaussian_latent(mu, 0.0, prior=(torch.tensor(1.0), {"log_std": 0.0}), key=KEY)
    assert (z.dtype, kl.dtype) == (torch.bfloat16, torch.float32)
    want = (0.5 * (mu.double() - 1.0).square()).sum() / 8
    torch.testing.assert_close(kl.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["sample", "sum", "mean", "batchmean"])
@pytest.mark.parametrize("prior", [None, (0.3, 0.8)])
def test_free_bits_of_a_sample(reduction, prior):
    mu, logvar = leaves((9, 4), (9, 4))
    each = gaussian_kl(mu, logvar, prior=prior, reduction="sample")
    least = each.median().item() + 1e-9
    bounded = each.clamp_min(least)
    want = {
        "sample": bounded,
        "sum": bounded.sum(),
        "mean": bounded.sum() / 36,
        "batchmean": bounded.mean(),
    }[reduction]
    options = {"reduction": reduction, "prior": prior, "free_bits": least}
    z, kl = gaussian_latent(mu, logvar, key=KEY, **options)
    torch.testing.assert_close(kl, want)
    torch.testing.assert_close(gaussian_kl(mu, logvar, **options), want)
    _, of_samples = gaussian_latent(mu, logvar, num_samples=2, **options)
    torch.testing.assert_close(of_samples, want)
    moments = torch.cat((mu, logvar), 1)
    again, of_moments = gaussian_latent_from_moments(moments, key=KEY, **options)
    torch.testing.assert_close(of_moments, want)
    torch.testing.assert_close(again, z)
    same_gradients(kl.sum(), want.sum(), (mu, logvar))
    rows = torch.autograd.grad(kl.sum() + 0.0 * z.sum(), mu)[0].abs().sum(1)
    assert torch.equal(rows == 0, each < least), "no gradient below, all above"


@pytest.mark.parametrize("prior", [None, (0.3, 0.8), "tensors"])
def test_free_bits_of_an_element(prior):
    mu, logvar = leaves((9, 4), (9, 4))
    if prior == "tensors":
        prior = torch.randn(4, dtype=torch.float64), {"log_std": torch.zeros(4).double()}
    each = gaussian_kl(mu, logvar, prior=prior, reduction="none")
    least = each.median().item() + 1e-9
    want = each.clamp_min(least)
    options = {"prior": prior, "free_bits": least, "free_bits_per": "element"}
    for reduction, value in (
        ("none", want),
        ("sample", want.sum(1)),
        ("batchmean", want.sum() / 9),
    ):
        _, kl = gaussian_latent(mu, logvar, reduction=reduction, key=KEY, **options)
        torch.testing.assert_close(kl, value)
        torch.testing.assert_close(gaussian_kl(mu, logvar, reduction=reduction, **options), value)
    same_gradients(kl, want.sum() / 9, (mu, logvar))


def test_beta():
    mu, logvar = leaves((5, 3), (5, 3), dtype=torch.float32)
    plain = gaussian_kl(mu, logvar, reduction="sample")
    beta = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    for factor in (0.25, beta):
        for options in ({}, {"free_bits": 1.0}, {"prior": (0.0, 1.0), "num_samples": 2}):
            _, kl = gaussian_latent(mu, logvar, beta=factor, reduction="sample", **options)
            want = 0.25 * (plain.clamp_min(1.0) if "free_bits" in options else plain)
            assert kl.dtype == torch.float32
            torch.testing.assert_close(kl, want)
    (to_beta,) = torch.autograd.grad(kl.sum(), beta)
    torch.testing.assert_close(to_beta, plain.sum().double())
    assert gaussian_kl(mu, logvar, beta=0).item() == 0.0


@pytest.mark.parametrize("rng", ["philox", "torch", "eps", "key"])
@pytest.mark.parametrize("layout", ["plain", "channels_last", "broadcast"])
def test_several_samples(rng, layout):
    shape = (2, 3, 4, 5)
    mu, x = leaves(shape, (5,) if layout == "broadcast" else shape, dtype=torch.float32)
    if layout == "channels_last":
        mu = mu.detach().to(memory_format=torch.channels_last).requires_grad_()
    given = {"philox": {}, "key": {"key": KEY}, "torch": {"rng": "torch"}}.get(rng)
    if given is None:
        given = {"eps": torch.randn(6, *shape).requires_grad_()}
    z, kl, eps = gaussian_latent(mu, x, num_samples=6, return_eps=True, **given)
    assert z.shape == eps.shape == (6, *shape)
    torch.testing.assert_close(z, mu + torch.exp(0.5 * x) * eps, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(kl, gaussian_kl(mu, x))
    if layout == "channels_last":
        assert z[0].is_contiguous(memory_format=torch.channels_last)
    if rng == "key" and layout == "plain":
        assert torch.equal(eps, noise.normal(KEY, (6, *shape)))
    if rng == "torch" and layout == "plain":
        torch.manual_seed(5)
        _, drawn = gaussian_rsample(mu, x, num_samples=6, rng="torch", return_eps=True)
        torch.manual_seed(5)
        assert torch.equal(drawn, torch.randn(6, *shape))
    weight = torch.randn(z.shape)
    tensors = (mu, x, *((eps,) if rng == "eps" else ()))
    same_gradients(
        (weight * z).sum() + kl,
        (weight * (mu + torch.exp(0.5 * x) * eps)).sum() + gaussian_kl(mu, x),
        tensors,
        rtol=1e-5,
        atol=1e-4,
    )
    moments = torch.cat(torch.broadcast_tensors(mu, x), 1)
    of_moments, _ = gaussian_latent_from_moments(moments, num_samples=6, eps=eps)
    torch.testing.assert_close(of_moments, z, rtol=1e-6, atol=1e-5)


def test_samples_differ_and_one_sample_keeps_its_dim():
    mu = torch.zeros(3, 4)
    z = gaussian_rsample(mu, std=1.0, num_samples=2)
    assert not torch.equal(z[0], z[1])
    one = gaussian_rsample(mu, std=1.0, num_samples=1, key=KEY)
    torch.testing.assert_close(one[0], gaussian_rsample(mu, std=1.0, key=KEY), rtol=0, atol=4e-6)
    assert gaussian_rsample(torch.zeros(()), std=1.0, num_samples=3).shape == (3,)
    assert gaussian_rsample(torch.zeros(0, 4), std=1.0, num_samples=3).shape == (3, 0, 4)


def test_small_and_empty():
    for shape in ((), (0, 3), (1,)):
        mu = torch.ones(shape, requires_grad=True)
        z, kl = gaussian_latent(mu, std=1.0, prior=(0.0, 2.0), free_bits=0.1, reduction="sum")
        assert z.shape == shape
        # KL = 0.5 (1/4 + 1/4 - 1 + 2 log 2), which is above the free bits.
        torch.testing.assert_close(
            kl.item(), mu.numel() * (math.log(2.0) - 0.25), rtol=1e-6, atol=0
        )
        kl.backward()


def test_compiled_with_a_learned_prior():
    mu, x, m = leaves((8, 6), (8, 6), (6,), dtype=torch.float32)
    beta = torch.tensor(0.5)

    def latent(mu, x, m):
        z, kl = gaussian_latent(
            mu, x, prior=(m, {"logvar": 0.0}), free_bits=3.0, beta=beta, num_samples=3, key=KEY
        )
        return z.sum() + kl

    ours = torch.compile(latent, fullgraph=True, backend="aot_eager")(mu, x, m)
    plain = latent(mu, x, m)
    torch.testing.assert_close(ours, plain)
    same_gradients(ours, plain, (mu, x, m))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("dim", "wider"), [(1, (4, 3)), (1, (2, 4, 3)), (0, (5, 1, 3))])
def test_moments_beside_a_wider_prior(dim, wider, compiled, backend):
    """The gradient of the moments is the sum over what the prior adds."""
    shape = (1, 6) if dim == 1 else (2, 3)
    moments = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(wider, dtype=torch.float64), {"std": torch.full(wider, 2.0).double()}
    key = noise.key(5, 6)

    def joined(m):
        return gaussian_latent_from_moments(m, dim, prior=prior, key=key)

    def apart(m):
        mu, logvar = m.chunk(2, dim)
        return gaussian_latent(mu, logvar, prior=prior, key=key)

    if compiled:
        joined = torch.compile(joined, backend="aot_eager", fullgraph=True)
    for got, want in zip(joined(moments), apart(moments), strict=True):
        torch.testing.assert_close(got, want)
        grads = [
            torch.autograd.grad(t.square().sum(), moments, retain_graph=True)[0]
            for t in (got, want)
        ]
        torch.testing.assert_close(*grads)
