"""The log-likelihood of counts with more zeros than a negative binomial distribution has."""

import mpmath
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import softplus

from fused_reparam import negative_binomial_log_prob, zero_inflated_negative_binomial_log_prob
from tests.helpers.formulas import within_twice_the_error
from tests.helpers.loops import where

DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
mp = mpmath.mp.clone()
mp.dps = 60


def written(x, mu, theta, logits):
    """As users write it."""
    m = torch.log(theta + mu)
    of_gamma = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    value = of_gamma + theta * (torch.log(theta) - m) + x * (torch.log(mu) - m)
    both = torch.where(x == 0, torch.logaddexp(logits, value), value)
    return both - softplus(logits)


def leaves(dtype, device="cpu", shape=(6, 5, 7)):
    """Counts, which are data, means, a theta for each of the last dim, and logits."""
    x = torch.poisson(torch.rand(shape) * torch.logspace(-1, 1.5, shape[-1]))
    mu, theta = torch.rand(shape) * torch.logspace(-1, 1.5, shape[-1]) + 0.05, torch.rand(shape[-1])
    made = [t.to(device, dtype) for t in (x, mu, 3 * theta + 0.3, 3 * torch.randn(shape))]
    return [made[0], *(t.requires_grad_() for t in made[1:])]


def with_gradients(call, inputs):
    found = call(*inputs)
    incoming = torch.linspace(-1.0, 2.0, found.numel(), device=found.device).view(found.shape)
    return found, *torch.autograd.grad(found, inputs[1:], incoming.to(found.dtype))


def test_it_is_what_users_write(device):
    for dtype in DTYPES:
        with where(dtype):
            inputs = leaves(dtype, device)
            exact = [t.detach().double().requires_grad_() for t in inputs]
            got = with_gradients(zero_inflated_negative_binomial_log_prob, inputs)
            want = with_gradients(written, exact)
            plain = with_gradients(written, inputs)
            for g, w, p in zip(got, want, plain, strict=True):
                assert within_twice_the_error(g, w, p, roundings=4)


def exactly(x, mu, theta, s):
    """The log-likelihood and its derivatives in mu, theta and the logits."""
    n, m = x + theta, mu + theta
    value = mp.loggamma(n) - mp.loggamma(theta) - mp.loggamma(x + 1)
    value += theta * mp.log(theta / m) + x * mp.log(mu / m)
    to_mu = theta * (x - mu) / (mu * m)
    to_theta = mp.digamma(n) - mp.digamma(theta) + mp.log(theta / m) + (mu - x) / m
    share = 1 / (1 + mp.exp(-s))
    if x:
        return value - mp.log1p(mp.exp(s)), to_mu, to_theta, -share
    both = mp.exp(s) + mp.exp(value)
    of_count, others = mp.exp(value) / both, mp.exp(s) / both
    found = mp.log(both / (1 + mp.exp(s)))
    return found, of_count * to_mu, of_count * to_theta, others - share


def test_far_out(device):
    """Relative to the largest of 1, the number, and what a last bit of x - mu changes."""
    counts, means = (0.0, 1.0, 1000.0), (1e-8, 0.4, 16.0, 990.0, 1e8)
    thetas, logits = (1e-8, 0.6, 300.0, 1e8), (-1000.0, -30.0, -1.0, 0.0, 2.0, 40.0, 1000.0)
    for dtype, bits in ((torch.float32, 8), (torch.float64, 24)):
        made = [torch.tensor(t, dtype=dtype) for t in (counts, means, thetas, logits)]
        made = torch.cartesian_prod(*made).unbind(-1)
        inputs = [made[0].to(device), *(t.to(device).requires_grad_() for t in made[1:])]
        found = zero_inflated_negative_binomial_log_prob(*inputs)
        grads = torch.autograd.grad(found.sum(), inputs[1:])
        each = torch.stack((found, *grads), -1).tolist()
        for got, point in zip(each, zip(*made, strict=True), strict=True):
            with where(dtype, *point):
                x, mu, theta, s = (mp.mpf(t.item()) for t in point)
                m = theta + mu
                unit = abs(x - mu) * theta / m, 0, abs(x - mu) / m, 0
                for g, w, moved in zip(got, exactly(x, mu, theta, s), unit, strict=True):
                    assert abs(mp.mpf(g) - w) <= bits * torch.finfo(dtype).eps * max(
                        1, abs(w), moved
                    )


def test_certain_and_never_nan(device):
    """Infinite logits, and any finite numbers in the domain; NaN of NaN."""
    x, mu = torch.tensor([0.0, 2.0], device=device), torch.tensor([0.3, 0.7], device=device)
    for logits, want in (
        (-float("inf"), negative_binomial_log_prob(x, mu, 2.0).tolist()),
        (float("inf"), [0.0, -float("inf")]),
    ):
        got = zero_inflated_negative_binomial_log_prob(x, mu, 2.0, logits)
        assert got.tolist() == pytest.approx(want, rel=1e-6)
    sizes = torch.tensor((0.0, 1e-20, 1.0, 1e10, 1e30), device=device)
    logits = torch.tensor((-3e38, -80.0, 0.0, 80.0, 3e38), device=device)
    each = torch.cartesian_prod(sizes, sizes, sizes[1:], logits)
    each = each[(each[:, 0] / (each[:, 1] + each[:, 2])).isfinite()]
    x, *inputs = (t.clone().requires_grad_() for t in each.unbind(-1))
    found = zero_inflated_negative_binomial_log_prob(x.detach(), *inputs)
    for t in (found, *torch.autograd.grad(found.sum(), inputs)):
        assert not t.isnan().any(), each[t.isnan()][:3]
    for place in range(4):
        given = [torch.ones(3, device=device) for _ in range(4)]
        given[place][1] = float("nan")
        found = zero_inflated_negative_binomial_log_prob(*given)
        assert found.isnan().tolist() == [False, True, False]


def test_derivatives(backend):
    def call(*params):
        return zero_inflated_negative_binomial_log_prob(*params, dims=-1)

    x, *rest = leaves(torch.float64, shape=(2, 4))
    assert (x == 0).any()
    assert gradcheck(lambda *t: call(x, *t), rest)
    assert gradgradcheck(lambda *t: call(x, *t), rest)
    above = (x + 0.5).requires_grad_()
    assert gradcheck(call, (above, *rest))
    assert gradgradcheck(call, (above, *rest))
