"""Gradients of a learned prior at a corner of its formula, and where it is no prior."""

import math

import pytest
import torch
from torch import autograd

from fused_reparam import (
    continuous_bernoulli_latent,
    gaussian_kl,
    gaussian_latent,
    gaussian_rsample_log_prob,
    noise,
    sample_weight,
)

D = torch.double
INF = math.inf


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_prior_logits_of_zero(backend, zero):
    """The derivative is the prior's mean less the posterior's, the second one its variance."""
    logits = torch.tensor([-80.0, -3.0, -0.1, 0.0, 0.1, 0.5, 3.0, 20.0], dtype=D)
    prior = torch.full_like(logits, zero).requires_grad_()
    _, kl = continuous_bernoulli_latent(logits, prior_logits=prior, reduction="sum")
    (got,) = autograd.grad(kl, prior, create_graph=True)
    b = 0.5 * logits
    want = torch.where(b == 0.0, 0.0, 0.5 / b - 0.5 / b.tanh())
    torch.testing.assert_close(got.detach(), want, rtol=1e-9, atol=1e-12)
    (second,) = autograd.grad(got.sum(), prior)
    torch.testing.assert_close(second, torch.full_like(second, 1 / 12))


@pytest.mark.parametrize(("x", "std"), [(0.5, 1.0), (1e-6, 1e-6), (-3.0, 0.7), (0.0, 2.0)])
def test_a_mixture_of_equal_stds(backend, x, std):
    def derivatives(of):
        p = [torch.tensor(v, dtype=D, requires_grad=True) for v in (x, 0.3, std, std)]
        first = autograd.grad(of(*p), p, create_graph=True)
        second = [autograd.grad(g, p, retain_graph=True, allow_unused=True) for g in first]
        zero = torch.zeros((), dtype=D)
        return torch.stack(first).detach(), torch.stack(
            [torch.stack([zero if h is None else h for h in row]) for row in second]
        )

    def kl(x, *mixture):
        rho = torch.full((1,), -40.0, dtype=D)
        eps = torch.zeros(1, dtype=D)
        return sample_weight(x.expand(1), rho, mixture=mixture, eps=eps)[1]

    def exact(x, share, *stds):
        d = x / torch.stack(stds)
        shares = torch.stack((share, 1.0 - share)) / torch.stack(stds)
        return 0.5 * math.log(2 * math.pi) - torch.logsumexp(shares.log() - 0.5 * d * d, -1)

    scale = torch.tensor([std, 1.0, std, std], dtype=D)
    (got, seconds), (want, others) = derivatives(kl), derivatives(exact)
    torch.testing.assert_close(got * scale, want * scale, rtol=1e-6, atol=1e-6)
    scale = scale[:, None] * scale
    torch.testing.assert_close(seconds * scale, others * scale, rtol=1e-6, atol=1e-6)


def gradients_by(kind, scales, device):
    """Of the KL alone, the KL of a sample, and log p: each value, and its four gradients."""
    scale = torch.tensor(scales, dtype=D, device=device)
    given = [*(torch.full_like(scale, value) for value in (0.5, -0.3, 0.25)), scale]
    options = {"key": noise.key(3)}
    for dtype in (torch.float32, D):
        for call in (
            lambda m, **p: (gaussian_kl(m, reduction="none", **p),),
            lambda m, **p: gaussian_latent(m, reduction="none", **p, **options)[1:],
            lambda m, **p: gaussian_rsample_log_prob(m, dims=(), **p, **options)[2:],
        ):
            p = [t.to(dtype).requires_grad_() for t in given]
            (found,) = call(p[0], log_std=p[1], prior=(p[2], {kind: p[3]}))
            yield found, *autograd.grad(found.sum(), p)


@pytest.mark.parametrize("kind", ["std", "var"])
def test_a_prior_without_a_std_above_zero(target, kind):
    """NaN, and gradients of NaN, of such elements and of no other ones."""
    wrong = [0.0, -0.0, -1.0, -1e-30, -INF, math.nan]
    for found in gradients_by(kind, [0.75, *wrong, 0.5], target[1]):
        for t in found:
            assert t.isnan().tolist() == [False, *[True] * len(wrong), False]


@pytest.mark.parametrize("kind", ["std", "var", "logvar", "log_std", "rho"])
def test_a_prior_that_is_flat(target, kind):
    """An infinite std has no gradient but that of its own logarithm, and of log sigma."""
    slope = {"logvar": 0.5, "log_std": 1.0}.get(kind, 0.0)
    signs = (1, 1, -1)  # of KL, KL, log p
    for found, sign in zip(gradients_by(kind, [INF, 0.5], target[1]), 2 * signs, strict=True):
        value, *of = (t[0].item() for t in found)
        assert value == sign * INF
        wanted = [0.0, -1.0 if sign > 0 else 0.0, 0.0, sign * slope]
        assert of == pytest.approx(wanted, rel=0.0, abs=torch.finfo(torch.float32).tiny)
