"""Gaussian samples with their log-densities."""

import math

import pytest
import torch
from torch.distributions import Normal

from fused_reparam import gaussian_rsample_log_prob, noise

KEY = noise.key(5)
SCALES = {
    "logvar": lambda x: torch.exp(0.5 * x),
    "log_std": torch.exp,
    "std": lambda x: x,
    "var": torch.sqrt,
    "rho": torch.nn.functional.softplus,
}


def formula(mu, sigma, prior_mean, prior_std, eps):
    """z and the two summed log-densities, by torch.distributions."""
    z = mu + sigma * eps
    summed = tuple(range(mu.dim()))[1:]
    shift = eps.dim() - mu.dim()
    dims = tuple(d + shift for d in summed)
    log_q = Normal(mu, sigma).log_prob(z)
    log_p = Normal(prior_mean, prior_std).log_prob(z)
    return (z, *(t.sum(dims) if dims else t for t in (log_q, log_p)))


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("samples", [None, 3])
def test_densities_and_both_parts_of_the_gradient(kind, samples):
    mu = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    x = (torch.rand(4, 3, 5, dtype=torch.float64) + 0.3).requires_grad_()
    m = torch.randn(5, dtype=torch.float64, requires_grad=True)
    s = (torch.rand(3, 1, dtype=torch.float64) + 0.5).requires_grad_()
    eps = noise.normal(KEY, (*((samples,) if samples else ()), 4, 3, 5), dtype=torch.float64)
    for prior, tensors, numbers in (
        (None, (mu, x), (torch.zeros(()).double(), torch.ones(()).double())),
        ((0.5, 2.0), (mu, x), (torch.tensor(0.5).double(), torch.tensor(2.0).double())),
        ((m, {kind: s}), (mu, x, m, s), (m, SCALES[kind](s))),
    ):
        ours = gaussian_rsample_log_prob(mu, **{kind: x}, prior=prior, num_samples=samples, key=KEY)
        theirs = formula(mu, SCALES[kind](x), *numbers, eps)
        for got, want in zip(ours, theirs, strict=True):
            torch.testing.assert_close(got, want)

        # Each output alone, and an importance-weighted bound, which mixes them.
        def bound(z, log_q, log_p):
            log_w = (log_p - log_q + z.cos().flatten(-2).sum(-1)).reshape(-1, 4)
            return torch.logsumexp(log_w, 0).sum()

        def alone(i, weight):
            return lambda *outputs: (weight * outputs[i]).sum()

        each = [alone(i, torch.randn_like(t)) for i, t in enumerate(ours)]
        for number in (bound, *each):
            got = torch.autograd.grad(
                number(*ours), tensors, retain_graph=True, materialize_grads=True, allow_unused=True
            )
            want = torch.autograd.grad(
                number(*theirs), tensors, retain_graph=True, materialize_grads=True,
                allow_unused=True,
            )  # fmt: skip
            for g, w in zip(got, want, strict=True):
                torch.testing.assert_close(g, w)


def test_the_bound_rises_with_samples_towards_the_evidence():
    """p(x) = N(0, 2) of a standard normal z and x | z ~ N(z, 1), with a bad posterior."""
    x = torch.tensor(1.5)
    evidence = Normal(0.0, math.sqrt(2.0)).log_prob(x)
    mu, log_std = torch.zeros(4000, 1), torch.zeros(4000, 1)
    bounds = []
    for k in (1, 4, 64):
        z, log_q, log_p = gaussian_rsample_log_prob(
            mu, log_std=log_std, num_samples=k, key=noise.key(k)
        )
        log_w = log_p + Normal(z, 1.0).log_prob(x).sum(-1) - log_q
        bounds.append((torch.logsumexp(log_w, 0) - math.log(k)).mean())
    assert bounds[0] < bounds[1] - 0.05
    assert bounds[1] < bounds[2] - 0.01
    assert bounds[2] < evidence + 0.01
    assert abs(bounds[2] - evidence) < 0.03


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit(dtype):
    mu = torch.randn(16, 300).to(dtype).requires_grad_()
    z, log_q, log_p = gaussian_rsample_log_prob(mu, -8.0, prior=(0.0, 0.5), key=KEY)
    assert (z.dtype, log_q.dtype, log_p.dtype) == (dtype, torch.float32, torch.float32)
    eps = noise.normal(KEY, (16, 300)).double()
    want = formula(mu.double(), torch.tensor(math.exp(-4.0)).double(), torch.tensor(0.0).double(),
                   torch.tensor(0.5).double(), eps)  # fmt: skip
    torch.testing.assert_close(log_q.double(), want[1], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(log_p.double(), want[2], rtol=1e-5, atol=1e-3)
    log_p.sum().backward()
    assert mu.grad.dtype == dtype


def test_shapes_and_sources():
    mu = torch.zeros(4, 3)
    for samples, lead in ((None, ()), (1, (1,)), (6, (6,))):
        z, log_q, log_p = gaussian_rsample_log_prob(mu, std=1.0, num_samples=samples)
        assert (z.shape, log_q.shape, log_p.shape) == ((*lead, 4, 3), (*lead, 4), (*lead, 4))
    z, log_q, log_p = gaussian_rsample_log_prob(torch.tensor(0.5), std=2.0, num_samples=2)
    assert (z.shape, log_q.shape, log_p.shape) == ((2,), (2,), (2,))
    torch.testing.assert_close(log_q, Normal(0.5, 2.0).log_prob(z))
    torch.manual_seed(3)
    z, *_ = gaussian_rsample_log_prob(mu, std=1.0, num_samples=2, rng="torch")
    torch.manual_seed(3)
    assert torch.equal(z, torch.randn(2, 4, 3))
    eps = torch.randn(2, 4, 3, requires_grad=True)
    z, log_q, log_p = gaussian_rsample_log_prob(mu, std=2.0, num_samples=2, eps=eps)
    grads = torch.autograd.grad(log_q.sum() + 0.5 * log_p.sum(), eps)[0]
    torch.testing.assert_close(grads, -eps - 0.5 * 4.0 * eps)
