"""Where the noise comes from: generators, manual_seed, rng="torch", modules, the module's modes."""

import copy
import pickle
from itertools import product

import pytest
import torch

from fused_reparam import (
    FusedGaussianLatent,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
    noise,
)
from tests.helpers.formulas import parameters
from tests.helpers.loops import where


def test_manual_seed_decides(device):
    mu, x = (t.detach() for t in parameters("logvar", (9, 5), torch.float32, device))
    torch.manual_seed(7)
    a, b = gaussian_rsample(mu, x), gaussian_rsample(mu, x)
    torch.manual_seed(7)
    assert torch.equal(gaussian_rsample(mu, x), a)
    assert not torch.equal(a, b)
    torch.manual_seed(8)
    assert not torch.equal(gaussian_rsample(mu, x), a)


def test_fork_rng_replays(device):
    mu = torch.zeros(9, 5, device=device)
    with torch.random.fork_rng():
        a = gaussian_rsample(mu, mu)
    assert torch.equal(gaussian_rsample(mu, mu), a)


def test_a_generator_of_the_callers(device):
    mu = torch.zeros(9, 5, device=device)
    runs = []
    for _ in range(2):
        generator = torch.Generator(device).manual_seed(3)
        runs.append([gaussian_rsample(mu, mu, generator=generator) for _ in range(2)])
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[0][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rng_torch_draws_what_randn_like_draws(device, dtype):
    for layout, own_generator in product(["contiguous", "channels_last", "halves"], [False, True]):
        with where(layout, own_generator):
            mu, x = (t.detach() for t in parameters("logvar", (3, 4, 5, 6), dtype, device))
            if layout == "channels_last":
                mu = mu.to(memory_format=torch.channels_last)
            if layout == "halves":
                mu = torch.cat((mu, x), 1).chunk(2, 1)[0]
            generator = torch.Generator(device).manual_seed(5) if own_generator else None

            def seed():
                if own_generator:
                    generator.manual_seed(5)
                else:
                    torch.manual_seed(5)

            seed()
            z, _, eps = gaussian_latent(mu, x, rng="torch", generator=generator, return_eps=True)
            after = torch.randn(3, device=device, generator=generator)
            seed()
            want = (
                torch.empty_like(mu).normal_(generator=generator)
                if own_generator
                else torch.randn_like(mu)
            )
            assert torch.equal(eps, want)
            assert torch.equal(torch.randn(3, device=device, generator=generator), after), (
                "generator's state"
            )
            tolerance = {torch.float32: 1e-6, torch.float64: 1e-15}.get(dtype, 0.02)
            torch.testing.assert_close(
                z, (mu.double() + torch.exp(0.5 * x.double()) * want.double()).to(dtype),
                rtol=tolerance, atol=tolerance,
            )  # fmt: skip


def test_rng_torch_reproduces_a_textbook_step(device):
    mu, x = parameters("logvar", (16, 6), torch.float32, device)
    torch.manual_seed(2)
    z, kl = gaussian_latent(mu, x, rng="torch")
    got = torch.autograd.grad(z.square().sum() + kl, (mu, x))
    torch.manual_seed(2)
    std = torch.exp(0.5 * x)
    want_z = mu + torch.randn_like(std) * std
    want_kl = -0.5 * torch.sum(1 + x - mu.pow(2) - x.exp()) / 16
    want = torch.autograd.grad(want_z.square().sum() + want_kl, (mu, x))
    torch.testing.assert_close(z, want_z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kl, want_kl, rtol=1e-6, atol=1e-6)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5)


def test_module_trains_like_the_function(device):
    for scale in ["logvar", "log_std", "std", "var", "rho"]:
        with where(scale):
            mu, x = parameters(scale, (8, 6), torch.float32, device)
            key = noise.key(1, device=device)
            layer = FusedGaussianLatent(scale, reduction="sample", dim=1)
            for got, want in zip(
                layer(mu, x, key=key),
                gaussian_latent(mu, **{scale: x}, key=key, reduction="sample"),
                strict=True,
            ):
                assert torch.equal(got, want)
            moments = torch.cat((mu, x), 1)
            for got, want in zip(
                layer(moments, key=key),
                gaussian_latent_from_moments(moments, scale=scale, key=key, reduction="sample"),
                strict=True,
            ):
                assert torch.equal(got, want)


def test_module_gives_the_mean_in_eval(device):
    mu, x = parameters("logvar", (8, 6), torch.float32, device)
    layer = FusedGaussianLatent(dim=1).eval()
    z, kl = layer(mu, x)
    assert torch.equal(z, mu)
    assert torch.equal(kl, gaussian_latent(mu, x)[1])
    z, kl2 = layer(torch.cat((mu, x), 1))
    assert torch.equal(z, mu)
    assert torch.equal(kl2, kl)
    (z.sum() + kl2).backward()
    torch.testing.assert_close(mu.grad, 1 + mu / 8)
    z, _ = layer(mu.half(), torch.zeros(6, device=device))
    assert z.dtype == torch.float32
    z, _ = layer(mu[:1], x)
    assert z.shape == (8, 6)


def test_module_has_no_state_and_travels():
    layer = FusedGaussianLatent("rho", "sum", dim=-1)
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}
    assert repr(layer) == "FusedGaussianLatent(scale='rho', reduction='sum', dim=-1)"
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(other) == repr(layer)


def test_a_key_on_the_cpu_serves_any_device(device):
    mu = torch.zeros(3, 4, device=device)
    a = gaussian_rsample(mu, mu, key=noise.key(1))
    b = gaussian_rsample(mu, mu, key=noise.key(1, device=device))
    assert torch.equal(a, b)
