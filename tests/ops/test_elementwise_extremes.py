"""The element-wise families of extreme numbers, on every backend."""

import math

import pytest
import torch
from torch import autograd

from fused_reparam import noise, relaxed_bernoulli, sample_weight
from fused_reparam.families import FAMILIES
from tests.helpers.elementwise_cases import gradients, results, spec

MIXTURES = [(0.3, 1.0, 0.2), (0.3, 0.2, 1.0), (0.5, 0.7, 0.7), (0.5, 1.0, 0.0025)]


def log_mixture(z, mean, share, *stds):
    d = (z.unsqueeze(-1) - mean) / z.new_tensor(stds)
    shares = z.new_tensor([share, 1.0 - share]) / z.new_tensor(stds)
    each = shares.log() - 0.5 * d * d
    # Not logsumexp: beside 1e18 it can't tell one part from two.
    most = each.detach().amax(-1, keepdim=True)
    return most[..., 0] + (each - most).exp().sum(-1).log() - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("mixture", MIXTURES, ids=str)
def test_a_mixture_far_from_its_mean(device, mixture):
    """Where the densities are infinitely small, and where they are far from one another."""
    mu = torch.tensor([0.1, 0.11, 0.8, -30.0, 1e3, 1e9, -1e17, 1e20, 1e22, -1e30])
    p = [t.to(device).requires_grad_() for t in (mu, torch.full_like(mu, -3.0))]
    exact = [t.detach().cpu().double().requires_grad_() for t in p]
    eps = torch.linspace(-1.9, 2.0, mu.numel())
    s = spec("mixture")._replace(constants=[-math.inf, math.inf, 0.1, *mixture])
    got = results(p, s, eps=eps.to(device))[1]
    z = exact[0] + exact[1].exp() * eps.double()
    log_q = -0.5 * eps.double() ** 2 - exact[1] - 0.5 * math.log(2 * math.pi)
    want = log_q - log_mixture(z, 0.1, *mixture)
    close = {"rtol": 2e-4, "atol": 2e-5}  # z - mean loses digits where it is small
    torch.testing.assert_close(got.cpu(), want.detach().float(), **close)
    grads = [autograd.grad(v.sum(), t, create_graph=True) for v, t in ((got, p), (want, exact))]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a.cpu(), b.float(), **close)
    seconds = [autograd.grad(g[0].sum(), t[0])[0] for g, t in zip(grads, (p, exact), strict=True)]
    torch.testing.assert_close(seconds[0].cpu(), seconds[1].float(), rtol=2e-3, atol=0.1)


EXTREME_MIXTURES = [
    *((0.3, 1.0, 1e-25), (0.7, 1e-25, 1.0)),  # the square of 1 / std is beyond float32
    *((0.3, 1.0, 1e-15), (0.3, 1.0, 8e-16), (0.6, 1e15, 1.0), (0.6, 2e15, 1.0)),
    *((0.3, 2e-18, 1e-18), (0.3, 2e-19, 1e-19), (0.3, 1e20, 1e5), (0.3, 2e25, 1e25)),
]


@pytest.mark.parametrize("mixture", EXTREME_MIXTURES, ids=str)
def test_a_mixture_of_extreme_stds(device, mixture):
    """Of numbers and of tensors, within some stds of the narrower normal and of the wider one."""
    narrow, wide = sorted(mixture[1:])
    steps = torch.tensor([0.0, 0.1, -1.0, 5.0, 15.0, -20.0, 1e5])
    x = torch.cat((steps * narrow, torch.tensor([-0.1, 0.5, 2.0]) * wide))
    sigma = 0.3 * narrow
    rho = math.log(math.expm1(sigma)) if sigma < 1.0 else sigma  # of no large sigma more than that
    for numbers in (True, False):
        p = [t.to(device).requires_grad_() for t in (x, *map(torch.tensor, mixture))]
        exact = [t.detach().cpu().double().requires_grad_() for t in p]
        prior, leaves = (mixture, 1) if numbers else (tuple(p[1:]), 4)
        eps = torch.zeros_like(p[0])
        _, got = sample_weight(p[0], rho, reduction="none", mixture=prior, eps=eps)
        log_q = -math.log(sigma) - 0.5 * math.log(2 * math.pi)
        d = exact[0].unsqueeze(-1) / torch.stack(exact[2:])
        shares = torch.stack((exact[1], 1.0 - exact[1])) / torch.stack(exact[2:])
        log_p = torch.logsumexp(shares.log() - 0.5 * d * d, -1) - 0.5 * math.log(2 * math.pi)
        torch.testing.assert_close(got.cpu(), (log_q - log_p).float(), rtol=1e-5, atol=2e-5)
        found = autograd.grad(got.sum(), p[:leaves])
        want = autograd.grad((log_q - log_p).sum(), exact[:leaves])
        for a, b, std in zip(found, want, (narrow, 1.0, *mixture[1:]), strict=False):
            torch.testing.assert_close(a.cpu().double() * std, b * std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1e-30, 1.0])
def test_shares_of_a_mixture_at_their_ends(device, share):
    """Where one of the normals has no share, what a share of it would add is the gradient."""
    x = torch.tensor([0.0, 0.5, -2.0, 3.0])
    p = [t.to(device).requires_grad_() for t in (x, *map(torch.tensor, (share, 1.5, 0.4)))]
    (got,) = results(p, spec("mixture_density", reduction="none", sample=False))
    normals = [torch.distributions.Normal(0.0, std) for std in (1.5, 0.4)]
    first, second = (normal.log_prob(x.double()).exp() for normal in normals)
    both = share * first + (1.0 - share) * second
    torch.testing.assert_close(got.cpu(), both.log().float(), rtol=1e-5, atol=1e-5)
    (to_share,) = autograd.grad(got.sum(), p[1])
    want = ((first - second) / both).sum().float()
    torch.testing.assert_close(to_share.cpu(), want, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_laplace_kl_at_the_smallest_scales(device, dtype):
    tiny = torch.finfo(dtype).tiny
    locs, scales = [0.0, 1e-3, -2.0, -1e30], [tiny / 1024, 8 * tiny, 1e-25, 1e-10, 0.5]
    pairs = torch.cartesian_prod(*(torch.tensor(t, dtype=torch.float64) for t in (locs, scales)))
    p = [t.to(device, dtype).requires_grad_() for t in pairs.t()]
    (kl,) = results(p, spec("laplace", sample=False))
    loc, scale = (t.detach().cpu().double() for t in p)
    t = loc.abs() / scale
    want = scale * torch.exp(-t) + loc.abs() - scale.log() - 1.0
    torch.testing.assert_close(kl.cpu(), want.to(dtype), rtol=1e-6, atol=1e-6)
    near = torch.where(t < 700.0, t, 700.0)
    right = loc.sign() * -torch.expm1(-near), torch.exp(-near) * (1.0 + near) - 1.0 / scale
    for got, exact in zip(autograd.grad(kl.sum(), p), right, strict=True):
        torch.testing.assert_close(got.cpu(), exact.to(dtype), rtol=1e-6, atol=1e-6)
    none = [torch.zeros(3, dtype=dtype, device=device) for _ in p]
    assert results(none, spec("laplace", sample=False))[0].tolist() == [math.inf] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kumaraswamy_of_extreme_concentrations(device, dtype):
    """z is 0 or 1 there, and its gradient 0; the sound elements beside them keep theirs."""
    a = torch.tensor([1.0, 1.0, 1e-30, 1e30, 2.0], dtype=dtype, device=device)
    b = torch.tensor([1e-30, 1e30, 1.0, 1.0, 3.0], dtype=dtype, device=device)
    leaves = [t.clone().requires_grad_() for t in (a, b)]
    key = noise.key(7, 2**40, device=device)
    (z,) = results(leaves, spec("kumaraswamy"), key)
    grads = gradients([z], leaves, [torch.ones_like(z)])
    assert z[:4].tolist() == pytest.approx([1.0, 0.0, 0.0, 1.0], abs=1e-6)
    for grad in grads:
        assert grad[:4].abs().tolist() == pytest.approx([0.0] * 4, abs=1e-6)
        assert grad[4].abs() > 1e-3
    tiny = [torch.tensor(t, dtype=dtype, device=device).requires_grad_()
            for t in ([1e-20, 1e-6, 1e-30], [1e-20, 1e-30, 1e-3])]  # fmt: skip
    (z,) = results(tiny, spec("kumaraswamy"), key)
    for grad in gradients([z], tiny, [torch.ones_like(z)]):
        assert not grad.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kumaraswamy_keeps_its_digits(backend, dtype):
    """Of a quotient eps / b so large that 1 - exp(-eps / b) rounds to 1, or so small that it has
    no reciprocal, or is no number of the dtype."""
    check_kumaraswamy(dtype)


def test_kumaraswamy_on_each_instruction_set(isa):
    check_kumaraswamy(torch.float32)


def check_kumaraswamy(dtype):
    b = [1.0, 1e20, 1e38, 3e38] if dtype == torch.float32 else [1.0, 1e160, 1e307, 1.5e308]
    grid = [torch.tensor(t, dtype=dtype) for t in ([1e-5, 0.5, 50.0], b, [1e-9, 0.7, 10.0, 20.0])]
    a, b, eps = torch.cartesian_prod(*grid).T.contiguous()
    p = [t.clone().requires_grad_() for t in (a, b)]
    (z,) = results(p, spec("kumaraswamy"), eps=eps)
    grads = gradients([z], p, [torch.ones_like(z)])
    # t may be below float64's smallest number: its logarithm is not.
    a, b, eps = a.double(), b.double(), eps.double()
    t, log_t = eps / b, eps.log() - b.log()
    ordinary = torch.where(t < 0.5, torch.log(-torch.expm1(-t)), torch.log1p(-torch.exp(-t)))
    log_base = torch.where(t < 1e-20, log_t, ordinary)
    want = torch.exp(log_base / a)
    slope = torch.where(t < 1e-20, 1.0, t / torch.expm1(t))
    close = {"rtol": 1e-4 if dtype == torch.float32 else 1e-11, "atol": 1e-37}
    torch.testing.assert_close(z.double(), want, **close)
    right = -want * log_base / a / a, -want * slope / a / b
    for got, exact in zip(grads, right, strict=True):
        torch.testing.assert_close(got.double(), exact, **close)


def test_a_cauchy_kl_of_the_largest_numbers(backend):
    """The root of the sum of squares is beyond the dtype, the divergence is not."""
    p = [torch.full((3,), v) for v in (3e38, 3.3e38)]
    kl = results(p, spec("cauchy", sample=False))[0].tolist()
    assert kl == pytest.approx([math.log((3.3**2 + 3.0**2) * 1e38 / 3.3 / 4.0)] * 3, rel=1e-6)


def test_relaxed_bernoulli_at_a_tiny_temperature(device):
    """0 or 1, and its gradient 0 however large the one that arrives."""
    logits = torch.tensor([1.0, -2.0], device=device, requires_grad=True)
    z = relaxed_bernoulli(logits, tau=1e-37, key=noise.key(3))
    assert ((z == 0) | (z == 1)).all()
    assert torch.autograd.grad(z, logits, torch.full_like(z, 1e6))[0].tolist() == [0.0, 0.0]


# Family, prior, parameters, noise, what arrives for z and for the KL, the exact gradients.
FAR_QUOTIENTS = [
    ("exponential", (1.0,), (1e-19,), 20.0, (1e-6, 0.0), (-2e33,)),
    ("exponential", (1e-30,), (1e-30,), 1.0, (0.0, 1e-6), (0.0,)),
    ("exponential", (1.0,), (1e-20,), 1.0, (0.0, 1e-6), (-1e34,)),
    ("pareto", (1.0, 1.0), (3e38, 1e6), 0.5, (1.0, 0.0), (1.0, -1.5e26)),
    ("pareto", (1.0, 1.0), (1e37, 1e30), 0.5, (1.0, 0.0), (1.0, -5e-24)),
    ("weibull", (1.0, 1.0), (3e38, 1e6), math.e, (1.0, 0.0), (1.0, -3e26)),
    ("generalized_pareto", (), (0.5, 1e38, -1e6), 22.0, (1.0,), (1.0, 1e-6, 1e26)),
    ("continuous_bernoulli", (1e30,), (1e25,), 0.7, (0.0, 1.0), (-1e-20,)),
    ("continuous_bernoulli", (1.0,), (3e38,), 0.7, (0.0, 1e4), (1e4 / 3e38,)),
]


def test_quotients_whose_parts_are_far_out(device):
    """The gradient fits where a square of the divisor does not."""
    for family, prior, numbers, eps, came, exact in FAR_QUOTIENTS:
        s = spec(family)._replace(
            constants=list(FAMILIES[family].prior_constants(*prior)), reduction="none"
        )
        p = [torch.full((3,), v, device=device).requires_grad_() for v in numbers]
        outputs = results(p, s, eps=torch.full((3,), eps, device=device))
        grads = gradients(
            outputs, p, [torch.full_like(o, g) for o, g in zip(outputs, came, strict=True)]
        )
        for got, want in zip(grads, exact, strict=True):
            assert got.tolist() == pytest.approx([want] * 3, rel=1e-5, abs=1e-37), (family, numbers)


def test_a_weibull_kl_beyond_the_dtype_is_infinite(device):
    for dtype in (torch.float32, torch.float64):
        p = [
            torch.full((3,), v, dtype=dtype, device=device)
            for v in (1.0, torch.finfo(dtype).tiny / 1024)
        ]
        assert results(p, spec("weibull", sample=False))[0].tolist() == [math.inf] * 3
