"""The log-likelihoods of counts: negative binomial."""

from functools import cache

import mpmath
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import NegativeBinomial

from fused_reparam import negative_binomial_log_prob
from tests.helpers.formulas import within_twice_the_error
from tests.helpers.loops import where

DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
mp = mpmath.mp.clone()
mp.dps = 60


def written(x, mu, theta):
    """As users write it, who add a small number to what is under a logarithm."""
    m = torch.log(theta + mu + 1e-8)
    of_gamma = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return of_gamma + theta * (torch.log(theta + 1e-8) - m) + x * (torch.log(mu + 1e-8) - m)


def leaves(dtype, device="cpu", shape=(6, 5, 7)):
    """Counts of which many are 0, means, and a theta for each of the last dim."""
    x = torch.poisson(torch.rand(shape) * torch.logspace(-1, 1.5, shape[-1]))
    mu, theta = torch.rand(shape) * torch.logspace(-1, 1.5, shape[-1]) + 0.05, torch.rand(shape[-1])
    return [t.to(device, dtype).requires_grad_() for t in (x, mu, 3 * theta + 0.3)]


def with_gradients(call, inputs):
    found = call(*inputs)
    incoming = torch.linspace(-1.0, 2.0, found.numel(), device=found.device).view(found.shape)
    return found, *torch.autograd.grad(found, inputs, incoming.to(found.dtype))


def test_it_is_what_users_write(device):
    for dtype in DTYPES:
        with where(dtype):
            inputs = leaves(dtype, device)
            exact = [t.detach().double().requires_grad_() for t in inputs]
            x, mu, theta = exact
            law = NegativeBinomial(theta, logits=mu.log() - theta.log()).log_prob(x)
            torch.testing.assert_close(
                negative_binomial_log_prob(*exact), law, rtol=1e-12, atol=1e-12
            )
            got = with_gradients(negative_binomial_log_prob, inputs)
            assert got[0].dtype == torch.promote_types(dtype, torch.float32)
            want = with_gradients(negative_binomial_log_prob, exact)
            plain = with_gradients(written, inputs)
            for g, w, p in zip(got, want, plain, strict=True):
                assert within_twice_the_error(g, w, p, roundings=2)


@cache
def truth(dtype):
    """Counts, means, thetas, and of each the log-likelihood and its derivatives."""
    counts = 0.0, 1.0, 2.0, 3.5, 17.0, 1000.0, 1048576.0
    means = 1e-25, 1e-8, 1e-3, 0.4, 1.0, 2.7, 16.0, 990.0, 1e6, 1e8
    thetas = 1e-8, 1e-4, 0.03, 0.6, 1.0, 5.0, 300.0, 1e5, 1e8
    each = torch.cartesian_prod(*(torch.tensor(t, dtype=dtype) for t in (counts, means, thetas)))
    numbers = [tuple(map(mp.mpf, row)) for row in each.tolist()]
    return each.unbind(-1), [exactly(*row) for row in numbers]


def exactly(x, mu, theta):
    n, m = x + theta, mu + theta
    value = mp.loggamma(n) - mp.loggamma(theta) - mp.loggamma(x + 1)
    value += theta * mp.log(theta / m) + x * mp.log(mu / m)
    to_x = mp.digamma(n) - mp.digamma(x + 1) + mp.log(mu / m)
    to_theta = mp.digamma(n) - mp.digamma(theta) + mp.log(theta / m) + (mu - x) / m
    return value, to_x, theta * (x - mu) / (mu * m), to_theta


def test_far_out(device):
    """Relative to the largest of 1, the number, and what a last bit of x - mu changes."""
    for dtype, bits in ((torch.float32, 8), (torch.float64, 24)):  # which sums three times as many
        made, right = truth(dtype)
        inputs = [t.to(device).requires_grad_() for t in made]
        found = negative_binomial_log_prob(*inputs)
        each = torch.stack((found, *torch.autograd.grad(found.sum(), inputs)), -1).tolist()
        for got, want, point in zip(each, right, zip(*made, strict=True), strict=True):
            with where(dtype, *point):
                x, mu, theta = (t.item() for t in point)
                m = theta + mu
                unit = abs(x - mu) * theta / m, 0, 0, abs(x - mu) / m
                for g, w, moved in zip(got, want, unit, strict=True):
                    assert abs(mp.mpf(g) - w) <= bits * torch.finfo(dtype).eps * max(
                        1, abs(w), moved
                    )


def test_counts_of_none(device):
    """To the last bits of themselves, and so are their gradients; a mean of 0 has no other."""
    mu = torch.tensor([1e-6, 0.3, 40.0, 1e7, 0.0], device=device, requires_grad=True)
    theta = torch.tensor([1e-6, 1e6, 1e-3, 2.0, 1.0], device=device, requires_grad=True)
    wide = [t.detach().double().requires_grad_() for t in (mu, theta)]
    found = negative_binomial_log_prob(torch.zeros_like(mu), mu, theta)
    right = -wide[1] * torch.log1p(wide[0] / wide[1])
    torch.testing.assert_close(found.double(), right, rtol=1e-6, atol=0.0)
    got, want = (torch.autograd.grad(t.sum(), s) for t, s in ((found, (mu, theta)), (right, wide)))
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got[1].double(), want[1], rtol=2e-6, atol=1e-12)
    assert negative_binomial_log_prob(torch.ones(1, device=device), 0.0, 1.0) == -float("inf")


def test_never_nan(device):
    """Of any finite numbers in the domain, and no gradient, where x / (theta + mu) is in the dtype
    too. NaN of NaN."""
    for dtype in (torch.float32, torch.float64):
        most, least = torch.finfo(dtype).max / 4, torch.finfo(dtype).tiny
        sizes = torch.tensor((0.0, least, 1e-20, 1.0, 1e20, most), dtype=dtype, device=device)
        each = torch.cartesian_prod(sizes, sizes, sizes[1:])
        assert not negative_binomial_log_prob(*each.unbind(-1)).isnan().any()
        each = each[(each[:, 0] / (each[:, 1] + each[:, 2])).isfinite()]
        inputs = [t.clone().requires_grad_() for t in each.unbind(-1)]
        found = negative_binomial_log_prob(*inputs)
        for t in torch.autograd.grad(found.sum(), inputs[1:]):
            assert not t.isnan().any(), each[t.isnan()][:3]
    for place in range(3):
        given = [torch.ones(3, device=device) for _ in range(3)]
        given[place][1] = float("nan")
        assert negative_binomial_log_prob(*given).isnan().tolist() == [False, True, False]


def test_reductions_and_shapes(backend):
    x, mu, theta = leaves(torch.float64)
    each = NegativeBinomial(theta, logits=mu.log() - theta.log()).log_prob(x)
    for options, want in (
        ({}, each), ({"reduction": "none"}, each), ({"reduction": "sum"}, each.sum()),
        ({"reduction": "mean"}, each.mean()), ({"reduction": "sample"}, each.sum((1, 2))),
        ({"reduction": "batchmean"}, each.sum() / 6), ({"dims": (0, 2)}, each.sum((0, 2))),
    ):  # fmt: skip
        torch.testing.assert_close(negative_binomial_log_prob(x, mu, theta, **options), want)
    given = negative_binomial_log_prob(x, 2.5, 0.75)
    like = torch.full_like(x, 2.5), torch.full_like(x, 0.75)
    torch.testing.assert_close(given, negative_binomial_log_prob(x, *like))


def test_derivatives(backend):
    def call(x, mu, theta):
        return negative_binomial_log_prob(x, mu, theta, dims=-1)

    x, mu, theta = leaves(torch.float64, shape=(2, 3))
    above = (x.detach() + 0.5).requires_grad_()
    assert gradcheck(call, (above, mu, theta))
    assert gradgradcheck(call, (above, mu, theta))
    assert gradcheck(lambda m, t: call(x.detach(), m, t), (mu, theta))
    assert gradgradcheck(lambda m, t: call(x.detach(), m, t), (mu, theta))


def test_what_is_wrong():
    x = torch.ones(4, 3)
    with pytest.raises(TypeError, match="x must be a floating tensor, got 1 of type int"):
        negative_binomial_log_prob(1, x, x)
    with pytest.raises(TypeError, match=r"x must be float32.*got torch\.int64 of shape \(4, 3\)"):
        negative_binomial_log_prob(x.long(), x, x)
    with pytest.raises(ValueError, match=r"broadcast, got x \(4, 3\).*theta \(5,\)"):
        negative_binomial_log_prob(x, x, torch.ones(5))
    with pytest.raises(ValueError, match="reduction must be one of"):
        negative_binomial_log_prob(x, x, x, reduction="avg")
