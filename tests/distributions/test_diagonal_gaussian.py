"""The distribution of an autoencoder's moments, against its formulas in float64."""

import copy
import math

import pytest
import torch

from fused_reparam import distributions as D
from fused_reparam import noise

SHAPES = [(3, 8), (3, 8, 5), (3, 8, 4, 5), (2, 6, 3, 4, 5)]


def moments(shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    t[0, -1] = -50.0  # below the bounds
    return t.to(dtype).requires_grad_()


def formulas(t):
    mean, logvar = t.double().chunk(2, 1)
    return mean, logvar.clamp(-30.0, 20.0)


def over(t):
    return tuple(range(1, min(t.dim(), 4)))


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, backend):
    found = []
    for ours in (True, False):
        t, other = moments(shape), moments(shape, seed=1)
        mean, logvar = formulas(t)
        eps = noise.normal(noise.key(3), mean.shape, dtype=torch.float64)
        if ours:
            d, q = D.DiagonalGaussian(t), D.DiagonalGaussian(other)
            z = d.sample(key=noise.key(3))
            parts = [z, d.kl(), d.kl(q), d.nll(z.detach()), d.std, d.var, d.mode(), d.logvar]
        else:
            z = mean + torch.exp(0.5 * logvar) * eps
            mean_q, logvar_q = formulas(other)
            kl = 0.5 * (mean**2 + logvar.exp() - 1.0 - logvar)
            ratio = ((mean - mean_q) ** 2 + logvar.exp()) / logvar_q.exp()
            to_other = 0.5 * (ratio - 1.0 - logvar + logvar_q)
            nll = math.log(2.0 * math.pi) + logvar + (z.detach() - mean) ** 2 / logvar.exp()
            sums = [x.sum(over(t)) for x in (kl, to_other, 0.5 * nll)]
            parts = [z, *sums, torch.exp(0.5 * logvar), logvar.exp(), mean, logvar]
        grads = torch.autograd.grad(sum(p.sum() for p in parts), [t, other])
        found.append((*parts, *grads))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_16_bit_divergence_does_not_overflow(dtype):
    t = torch.full((2, 32, 64, 64), 4.0, dtype=dtype)
    d = D.DiagonalGaussian(t)
    z, kl = d.sample_and_kl()
    want = (16.0 + math.exp(4.0) - 5.0) * 0.5 * 16 * 64 * 64
    torch.testing.assert_close(d.kl(), torch.full((2,), want), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(kl, d.kl())
    assert z.dtype == d.std.dtype == dtype


def test_samples():
    t = moments((3, 8, 4, 5), torch.float32).detach()
    d = D.DiagonalGaussian(t)
    one, two = (torch.Generator().manual_seed(5) for _ in range(2))
    assert torch.equal(d.sample(one), d.sample(two))
    assert not torch.equal(d.sample(), d.sample())
    torch.manual_seed(0)
    z = d.sample(rng="torch")
    torch.manual_seed(0)
    torch.testing.assert_close(z, d.mean + d.std * torch.randn(d.mean.shape))
    each = [torch.Generator().manual_seed(seed) for seed in range(3)]
    alone = D.DiagonalGaussian(t[1:2]).sample(torch.Generator().manual_seed(1))
    assert torch.equal(d.sample(each)[1:2], alone)
    key = noise.key(1)
    z, kl = d.sample_and_kl(key=key, dims=(1,))
    assert torch.equal(z, d.sample(key=key))
    assert kl.shape == d.kl(dims=(1,)).shape == (3, 4, 5)


def test_a_deterministic_one():
    t = moments((3, 8, 4, 5))
    d = D.DiagonalGaussian(t, deterministic=True)
    assert torch.equal(d.sample(), d.mean)
    assert torch.equal(d.sample_and_kl()[0], d.mode())
    assert not d.std.any()
    assert not d.var.any()
    for nothing in (d.kl(), d.nll(d.mean), d.sample_and_kl()[1]):
        assert nothing.shape == (1,)
        assert nothing.item() == 0.0
    assert D.DiagonalGaussian(t).kl(d).isinf().all()


def test_layouts_and_the_dim():
    t = moments((2, 8, 4, 5), torch.float32).detach()
    last = t.to(memory_format=torch.channels_last).requires_grad_()
    z = D.DiagonalGaussian(last).sample()
    assert z.is_contiguous(memory_format=torch.channels_last)
    z.sum().backward()
    assert last.grad.is_contiguous(memory_format=torch.channels_last)
    front = D.DiagonalGaussian(t.movedim(1, 3), dim=-1)
    torch.testing.assert_close(front.kl(), D.DiagonalGaussian(t).kl())


def test_it_compiles_and_is_copied():
    t = moments((2, 8, 4, 5), torch.float32).detach()

    def call(t):
        d = D.DiagonalGaussian(t)
        z, kl = d.sample_and_kl(key=noise.key(1))
        return z, kl, d.kl(), d.nll(z), d.std

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    for got, want in zip(compiled(t), call(t), strict=True):
        torch.testing.assert_close(got, want)
    new = copy.deepcopy(D.DiagonalGaussian(t))
    assert torch.equal(new.kl(), D.DiagonalGaussian(t).kl())


def test_mistakes():
    with pytest.raises(ValueError, match="even size along dim 1"):
        D.DiagonalGaussian(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="moments must be a floating tensor"):
        D.DiagonalGaussian([1.0, 2.0])
