"""z of given noise, and of ``rng="torch"``: the bits of PyTorch's ``loc + scale * eps``."""

import pytest
import torch
import torch.distributions as D

import fused_reparam as fr
from tests.helpers.loops import where

DTYPES = (torch.float32, torch.float64)
SHAPE = (3, 8, 5, 7)


def inputs(dtype, device, shape=SHAPE, samples=()):
    """A mean, a positive scale and noise; among their products are some of each magnitude."""
    generator = torch.Generator().manual_seed(1)
    mu, std, eps = (
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in (shape, shape, (*samples, *shape))
    )
    return [t.to(device, dtype) for t in (mu, 10.0 ** (2.0 * std), eps)]


def layouts(mu, std):
    """Of the mean and of the scale, as they come."""
    last = torch.channels_last
    yield "dense", mu, std
    yield "channels_last", mu.to(memory_format=last), std.to(memory_format=last)
    yield "two layouts", mu.to(memory_format=last), std
    yield "a row", mu, std[:1, :, :1, :1]
    yield "one", mu, std[0, 0, 0, 0]
    yield "a mean of a row", mu[0, 0, 0], std
    yield "halves", *torch.cat((mu, std), 1).chunk(2, 1)
    yield "odd", mu.flatten()[1:], std.flatten()[1:]


CALLS = {
    "rsample": lambda mu, std, **o: fr.gaussian_rsample(mu, std=std, **o),
    "latent": lambda mu, std, **o: fr.gaussian_latent(mu, std=std, **o)[0],
    "each": lambda mu, std, **o: fr.gaussian_latent(mu, std=std, reduction="none", **o)[0],
    "prior": lambda mu, std, **o: fr.gaussian_latent(mu, std=std, prior=(0.3, 1.5), **o)[0],
    "densities": lambda mu, std, **o: fr.gaussian_rsample_log_prob(mu, std=std, **o)[0],
    **{
        base: lambda mu, std, base=base, **o: fr.loc_scale_rsample(mu, std, base, **o)
        for base in ("normal", "laplace", "logistic", "gumbel", "uniform", "cauchy")
    },
    "student_t": lambda mu, std, **o: fr.loc_scale_rsample(mu, std, "student_t", df=3.0, **o),
    "laplace latent": lambda mu, std, **o: fr.loc_scale_latent(mu, std, "laplace", **o)[0],
}


@pytest.mark.parametrize("name", CALLS)
def test_noise_that_is_given(target, name):
    device = target[1]
    for dtype in DTYPES:
        for samples in ((), (3,)):
            mean, scale, _ = inputs(dtype, device)
            for layout, mu, std in layouts(mean, scale):
                if target == ("triton", torch.device("cpu")) and layout not in ("halves", "a row"):
                    continue  # the interpreter contracts nothing, and takes its time
                with where(dtype, samples, layout):
                    shape = torch.broadcast_shapes(mu.shape, std.shape)
                    eps = inputs(dtype, device, shape, samples)[2]
                    z = CALLS[name](mu, std, eps=eps, sample_shape=samples)
                    assert torch.equal(z, mu + std * eps)


@pytest.mark.parametrize("scale", ["mixture", "far prior", "learned prior", "prior"])
def test_weights_of_noise_that_is_given(device, scale):
    """softplus(x) is x from 40 on."""
    for dtype in DTYPES:
        mu, rho, eps = inputs(dtype, device)
        rho = 40.0 + rho
        mixed = {"mixture": (0.3, 1.5, 0.2)}
        prior = {
            "prior": (0.2, 1.5), "far prior": (0.2, 1e8), "learned prior": (mu.cos(), rho)
        }  # fmt: skip
        options = mixed if scale == "mixture" else dict(
            zip(("prior_mean", "prior_std"), prior[scale], strict=True)
        )  # fmt: skip
        assert torch.equal(fr.sample_weight(mu, rho, eps=eps, **options)[0], mu + rho * eps)


DISTRIBUTIONS = {
    "normal": D.Normal, "laplace": D.Laplace, "gumbel": D.Gumbel, "cauchy": D.Cauchy,
    "student_t": lambda loc, scale: D.StudentT(3.0, loc, scale),
    "student_t of a tensor": lambda loc, scale: D.StudentT(scale + 1.0, loc, scale),
}  # fmt: skip


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_pytorchs_noise(device, name):
    for dtype in DTYPES:
        mu, std, _ = inputs(dtype, device)
        for samples in ((), (2,)):
            with where(dtype, samples):
                options = {"df": std + 1.0 if "tensor" in name else 3.0} if "_t" in name else {}
                torch.manual_seed(2)
                z = fr.loc_scale_rsample(
                    mu, std, name.split()[0], rng="torch", sample_shape=samples, **options
                )
                torch.manual_seed(2)
                assert torch.equal(z, DISTRIBUTIONS[name](mu, std).rsample(samples))
