"""``min_std``, locations that are numbers, and samples of moments."""

import pytest
import torch
from torch.nn.functional import softplus

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.loops import where

KEY = noise.key(8)
LEAST = 0.125  # exact in every dtype


def tensors(count, *shape, dtype=torch.float32):
    return [torch.randn(shape).to(dtype).requires_grad_() for _ in range(count)]


CALLS = {
    "gaussian_latent": lambda mu, **s: fr.gaussian_latent(mu, key=KEY, **s),
    "gaussian_latent to a prior": lambda mu, **s: fr.gaussian_latent(
        mu, key=KEY, prior=(0.3, 2.0), free_bits=0.1, **s
    ),
    "gaussian_rsample": lambda mu, **s: (fr.gaussian_rsample(mu, key=KEY, **s),),
    "gaussian_kl": lambda mu, **s: (fr.gaussian_kl(mu, dims=-1, **s),),
    "gaussian_rsample_log_prob": lambda mu, **s: fr.gaussian_rsample_log_prob(mu, key=KEY, **s),
    "gaussian_log_prob": lambda mu, **s: (fr.gaussian_log_prob(torch.ones(2, 3, 4), mu, **s),),
    "tanh_normal_rsample": lambda mu, **s: fr.tanh_normal_rsample(mu, key=KEY, **s),
    "tanh_normal_sample": lambda mu, **s: fr.tanh_normal_sample(mu, key=KEY, **s)[1:],
    "tanh_normal_log_prob": lambda mu, **s: (
        fr.tanh_normal_log_prob(torch.full((2, 3, 4), 0.5), mu, **s),
    ),
    "log_normal_latent": lambda mu, **s: fr.log_normal_latent(mu, key=KEY, **s),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_added_everywhere(backend, name):
    """In sample, divergence, density and gradient: of the std that it makes."""
    call = CALLS[name]
    for kind, std in (("std", lambda x: x + LEAST), ("rho", lambda x: softplus(x) + LEAST)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            with where(kind, dtype):
                mu, x = inputs = tensors(2, 2, 3, 4, dtype=dtype)
                with torch.no_grad():
                    x.abs_()
                got, want = call(mu, min_std=LEAST, **{kind: x}), call(mu, std=std(x))
                unit = torch.finfo(dtype).eps
                for g, w in zip(got, want, strict=True):
                    torch.testing.assert_close(g, w, rtol=4 * unit, atol=4 * unit)
                found, right = (
                    torch.autograd.grad(sum(o.sum() for o in outputs), inputs)
                    for outputs in (got, want)
                )
                for g, w in zip(found, right, strict=True):
                    torch.testing.assert_close(g, w, rtol=16 * unit, atol=16 * unit)
    # Of numbers, too.
    got, want = (
        call(mu, rho=0.5, min_std=LEAST),
        call(mu, std=softplus(torch.tensor(0.5)).item() + LEAST),
    )
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


def test_moments(backend):
    """The halves of one tensor as two: sample alone, and with min_std, also of any dim."""
    for dim, shape in ((1, (2, 8, 3)), (-1, (2, 3, 8))):
        moments = torch.randn(shape).requires_grad_()
        mu, x = moments.chunk(2, dim)
        for options, beside in (
            ({}, {"logvar": x}),
            ({"scale": "rho", "min_std": LEAST}, {"rho": x}),
            ({"clamp": (-0.5, 0.5), "num_samples": 3}, {"logvar": x}),
        ):
            beside |= {name: value for name, value in options.items() if name != "scale"}
            want = fr.gaussian_rsample(mu.contiguous(), key=KEY, **beside)
            got = fr.gaussian_rsample_from_moments(moments.contiguous(), dim, key=KEY, **options)
            if dim == 1:
                torch.testing.assert_close(got, want)
                pair = [torch.autograd.grad(z.sin().sum(), moments)[0] for z in (got, want)]
                torch.testing.assert_close(*pair)
            assert got.shape == want.shape
    z, eps = fr.gaussian_rsample_from_moments(moments, -1, return_eps=True)
    torch.testing.assert_close(z, mu + torch.exp(0.5 * x) * eps)
    latent = fr.gaussian_latent_from_moments(moments, -1, key=KEY)[0]
    assert torch.equal(fr.gaussian_rsample_from_moments(moments, -1, key=KEY), latent)
    with pytest.raises(ValueError, match="even size along dim 1"):
        fr.gaussian_rsample_from_moments(torch.zeros(2, 3))


def test_a_location_that_is_a_number(backend):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for scale in (torch.rand(4, 3).to(dtype).requires_grad_(), torch.rand(()).to(dtype)):
            with where(dtype, scale.shape):
                full = torch.full(scale.shape, 0.5, dtype=dtype)
                for name, call in CALLS.items():
                    if "log_prob" in name and "rsample" not in name:
                        continue
                    got, want = call(0.5, std=scale), call(full, std=scale)
                    for g, w in zip(got, want, strict=True):
                        assert (g.dtype, g.shape) == (w.dtype, w.shape)
                        torch.testing.assert_close(g, w)
    assert fr.loc_scale_rsample(0.0, torch.ones(3), "laplace").shape == (3,)


def test_two_numbers_say_no_shape():
    for call in (
        lambda: fr.gaussian_latent(0.0, std=1.0),
        lambda: fr.gaussian_kl(0, 0.5, prior=(0.0, 2.0)),
        lambda: fr.tanh_normal_rsample(0.0, rho=1.0),
        lambda: fr.loc_scale_rsample(0.0, 1.0),
    ):
        with pytest.raises(
            TypeError, match=r"must be a floating tensor, got .*: of .* one at least must say"
        ):
            call()


def test_what_is_wrong():
    mu = torch.zeros(2, 3)
    for options, says in (
        ({"log_std": mu, "min_std": 0.1}, "min_std is added to std or .* given is log_std"),
        ({"std": 1.0, "min_std": -0.1}, "min_std must be at least 0, got -0.1"),
        ({"std": 1.0, "min_std": float("inf")}, "min_std must be finite"),
        ({"std": 1.0, "min_std": "0.1"}, "min_std must be a number"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            fr.gaussian_kl(mu, **options)
