"""Divergences without a sample: of bits, of categories, of a Kumaraswamy to a Beta distribution."""

import math

import mpmath
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Bernoulli, Beta, Categorical, Kumaraswamy, kl_divergence

from fused_reparam import bernoulli_kl, categorical_kl, kumaraswamy_kl
from tests.helpers.loops import where

DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
mp = mpmath.mp.clone()
mp.dps = 60


def random(*shape, scale=3.0, dtype=torch.float32, device="cpu"):
    return (scale * torch.randn(shape)).to(device, dtype).requires_grad_()


def compare(got, want, inputs, exact):
    """Numbers to roundings of their own dtype, gradients to those of the inputs'."""
    assert got.dtype == (torch.float64 if inputs[0].dtype == torch.float64 else torch.float32)
    unit = torch.finfo(got.dtype).eps
    torch.testing.assert_close(got.double(), want, rtol=64 * unit, atol=64 * unit)
    incoming = torch.randn_like(want)
    found = torch.autograd.grad(got, inputs, incoming.to(got.dtype))
    right = torch.autograd.grad(want, exact, incoming)
    unit = torch.finfo(inputs[0].dtype).eps
    for g, w in zip(found, right, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=64 * unit, atol=64 * unit)


def doubles(*tensors):
    return [t.detach().double().requires_grad_() for t in tensors]


def test_bernoulli(device):
    for dtype in DTYPES:
        with where(dtype):
            a, b = inputs = (
                random(3, 1, 5, dtype=dtype, device=device),
                random(4, 5, dtype=dtype, device=device),
            )
            exact = doubles(*inputs)
            want = kl_divergence(
                *map(Bernoulli, torch.broadcast_tensors(*map(torch.sigmoid, exact)))
            ).sum(-1)
            compare(bernoulli_kl(a, b, dims=-1), want, inputs, exact)
            # A number keeps its digits beside 16-bit tensors.
            for given, prob in (
                ({"prior_probs": 0.3}, 0.3),
                ({}, 0.5),
                ({"prior_logits": -1.1}, None),
            ):
                x = exact[0]
                prior = Bernoulli(prob) if prob else Bernoulli(logits=torch.tensor(-1.1).double())
                want = kl_divergence(Bernoulli(logits=x), Bernoulli(prior.probs.to(x)))
                got = bernoulli_kl(a, reduction="none", **given)
                torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=2e-6)


def test_bernoulli_where_both_are_sure(device):
    """Against 40 digits, where p log p + ... has none left."""
    logits = [50.0, -80.0, 30.0, -12.0, 0.0, 100.0, -100.0, 3.0]
    priors = [49.0, -81.0, 30.5, -12.5, 90.0, -100.0, 100.0, 3.0]
    a, b = (torch.tensor(x, device=device, requires_grad=True) for x in (logits, priors))
    got = bernoulli_kl(a, b, reduction="none")
    grads = torch.autograd.grad(got.sum(), (a, b))
    for i, (x, y) in enumerate(zip(logits, priors, strict=True)):
        with where(x, y):
            x, y = mp.mpf(x), mp.mpf(y)
            p, q = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(-y))
            rest = 1 / (1 + mp.exp(x)), 1 / (1 + mp.exp(y))
            want = p * mp.log(p / q) + rest[0] * mp.log(rest[0] / rest[1])
            size = min(p, rest[0]) * abs(x - y) + min(q, rest[1]) + 1e-36
            assert abs(got[i].item() - want) <= 4e-6 * (size + want)
            assert (
                abs(grads[0][i].item() - p * rest[0] * (x - y))
                <= 4e-6 * p * rest[0] * abs(x - y) + 1e-37
            )
            assert abs(grads[1][i].item() - (q - p)) <= 4e-6 * (
                min(q, rest[1]) + min(p, rest[0]) + abs(q - p)
            )
    never = torch.tensor([-math.inf, math.inf], device=device, requires_grad=True)
    same = bernoulli_kl(never, never.detach(), reduction="none")
    assert same.tolist() == [0.0, 0.0]
    assert torch.autograd.grad(same.sum(), never)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_to_what_is_certain(backend, dtype):
    """As kl_divergence of Bernoullis has it: infinite unless the bit is as certain."""
    bits = torch.tensor([-math.inf, -30.0, -1.0, 0.0, 1.0, 30.0, math.inf], dtype=dtype)
    x = bits.requires_grad_()
    for prior, side in ((math.inf, 1.0), (-math.inf, 0.0)):
        kl = bernoulli_kl(x, prior, reduction="none")
        assert kl.isinf().tolist() == (x != prior).tolist()
        assert torch.equal(bernoulli_kl(x, prior_probs=side, reduction="none"), kl)
        grad = torch.autograd.grad(kl[1:-1].sum(), x)[0][1:-1]
        assert ((grad < 0.0) if side else (grad > 0.0)).all()


def test_gradcheck(backend):
    a, b = random(3, 2, dtype=torch.float64), random(2, dtype=torch.float64)
    for call in (
        lambda a, b: bernoulli_kl(a, b, dims=()),
        lambda a, b: categorical_kl(a, b, dims=()),
        lambda a, b: categorical_kl(a, b, 0.05, dims=()),
        lambda a, b: kumaraswamy_kl(a.exp(), b.exp(), 2.0, b.cosh(), dims=()),
    ):
        assert gradcheck(call, (a, b))
        assert gradgradcheck(call, (a, b), fast_mode=True)


@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_categories(unimix):
    for dtype in DTYPES:
        with where(dtype):
            inputs = random(3, 7, 4, dtype=dtype), random(3, 7, 4, dtype=dtype)
            exact = doubles(*inputs)
            mixed = [(1 - unimix) * t.softmax(1) + unimix / 7 for t in exact]
            want = kl_divergence(*(Categorical(p.movedim(1, -1)) for p in mixed)).sum(-1)
            got = categorical_kl(*inputs, unimix, dim=1, dims=-1)
            compare(got, want, inputs, exact)
    uniform = categorical_kl(inputs[0], unimix=unimix, dim=1, reduction="none").double()
    want = (mixed[0] * mixed[0].log()).sum(1) + math.log(7)
    torch.testing.assert_close(uniform, want, rtol=1e-5, atol=1e-5)


def test_classes_that_are_never_drawn():
    logits = torch.tensor([[1.0, -math.inf, 2.0]], requires_grad=True)
    prior = torch.tensor([[0.5, -math.inf, 1.0]], requires_grad=True)
    for unimix in (0.0, 0.1):
        kl = categorical_kl(logits, prior, unimix)
        grads = torch.autograd.grad(kl, (logits, prior))
        assert kl.isfinite()
        assert all(g.isfinite().all() for g in grads)
    assert categorical_kl(torch.zeros(1, 3), prior).item() == math.inf


def test_the_halves_of_a_balanced_divergence():
    post, prior = random(5, 3, 8), random(5, 3, 8)
    dynamics = categorical_kl(post.detach(), prior, 0.01, dims=-1)
    representation = categorical_kl(post, prior.detach(), 0.01, dims=-1)
    assert torch.equal(dynamics, representation)
    (0.5 * dynamics + 0.1 * representation).mean().backward()
    both = categorical_kl(post, prior, 0.01, dims=-1).mean()
    to_post, to_prior = torch.autograd.grad(both, (post, prior))
    torch.testing.assert_close(post.grad, 0.1 * to_post)
    torch.testing.assert_close(prior.grad, 0.5 * to_prior)


def by_integration(a, b, alpha, beta):
    """KL of Kumaraswamy(a, b) to Beta(alpha, beta)."""
    a, b, alpha, beta = map(mp.mpf, (a, b, alpha, beta))

    def integrand(t):  # of u = e^-t, the survival function
        s = t / b
        log_x = (mp.log(-mp.expm1(-s)) if s < 0.5 else mp.log1p(-mp.exp(-s))) / a
        log_rest = mp.log(-mp.expm1(log_x))
        log_q = mp.log(a * b) + (a - 1) * log_x - (b - 1) * t / b
        log_p = (alpha - 1) * log_x + (beta - 1) * log_rest - mp.log(mp.beta(alpha, beta))
        return mp.exp(-t) * (log_q - log_p)

    return float(mp.quad(integrand, [0, 1, 10, 80]))


@pytest.mark.parametrize(
    ("a", "b", "off"),
    [(0.5, 0.5, 5e-4), (1.0, 1.0, 2e-4), (2.0, 3.0, 5e-4), (0.2, 2.0, 1e-5), (5.0, 0.5, 6e-3)],
)  # fmt: skip
def test_kumaraswamy_to_beta(a, b, off):
    """Ten terms and the rest, as the docstring says; more terms are nearer."""
    want = by_integration(a, b, 1.5, 3.0)
    given = torch.tensor(a, dtype=torch.float64), b, 1.5, 3.0
    errors = [abs(kumaraswamy_kl(*given, terms=n).item() - want) for n in (10, 40)]
    assert errors[0] <= off
    assert errors[1] < 0.3 * errors[0] + 1e-6
    single = kumaraswamy_kl(torch.tensor(a), b, 1.5, 3.0)
    assert abs(single.item() - want) <= off + 2e-5 * max(1.0, want)
    exact = kumaraswamy_kl(given[0], b, 2.0, 1.0).item()  # beta is 1: no sum is left
    assert abs(exact - by_integration(a, b, 2.0, 1.0)) < 1e-9 * max(1.0, exact)


def test_ten_terms_are_as_near_as_the_docstring_says():
    grid = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0], dtype=torch.float64)
    given = grid[:, None], grid

    def series(terms):  # what beta = 2 adds, but for log B(1, 2)
        apart = (kumaraswamy_kl(*given, 1.0, beta, terms=terms, dims=()) for beta in (2.0, 1.0))
        return torch.sub(*apart) + math.log(2.0)

    right = series(20_000)
    off = (series(10) - right).abs() / right.clamp_min(1.0)
    assert 0.02 < off.max() <= 0.021
    assert 4e-5 < off.median() <= 5e-5


def test_kumaraswamy_is_the_density_that_torch_has():
    a, b = torch.tensor(2.0).double(), torch.tensor(1.5).double()
    x = Kumaraswamy(a, b).sample((200_000,))
    estimate = (Kumaraswamy(a, b).log_prob(x) - Beta(3.0, 2.0).log_prob(x)).mean()
    assert abs(kumaraswamy_kl(a, b, 3.0, 2.0) - estimate) < 0.01
    assert kumaraswamy_kl(torch.tensor([30.0, 0.02]), 20.0, 2.0, 4.0, dims=()).isfinite().all()


def test_what_is_wrong():
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="at most one of prior_logits and prior_probs"):
        bernoulli_kl(x, x, prior_probs=0.5)
    with pytest.raises(ValueError, match=r"logits \(4, 3\) and prior_logits \(5,\)"):
        bernoulli_kl(x, x[0].new_zeros(5))
    with pytest.raises(ValueError, match=r"unimix must be in \[0, 1\)"):
        categorical_kl(x, x, 1.0)
    with pytest.raises(ValueError, match=r"logits of shape \(4, 3\) have no dim 2"):
        categorical_kl(x, x, dim=2)
    with pytest.raises(ValueError, match="terms must be at least 1, got 0"):
        kumaraswamy_kl(x + 1.0, 1.0, terms=0)


@pytest.mark.parametrize("shape", [(), (3, 1), (1,)])
def test_a_share_that_is_a_tensor(shape):
    p, q = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    unimix = torch.full(shape, 0.2, dtype=torch.float64, requires_grad=True)
    found = categorical_kl(p, q, unimix)
    torch.testing.assert_close(found, categorical_kl(p, q, 0.2))
    assert torch.autograd.gradcheck(lambda *t: categorical_kl(*t), (p, q, unimix))
    assert torch.autograd.gradgradcheck(lambda *t: categorical_kl(*t), (p, q, unimix))


def test_no_share_in_a_tensor():
    """As of the number 0, also where a class is never drawn."""
    p = torch.tensor([[-math.inf, 0.0, 1.0]], requires_grad=True)
    q = torch.tensor([[-math.inf, 1.0, 0.0]], requires_grad=True)
    wanted = categorical_kl(p, q, 0.0)
    found = categorical_kl(p, q, torch.tensor(0.0))
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(kl, (p, q)) for kl in (found, wanted)]
    torch.testing.assert_close(*grads)
    with pytest.raises(ValueError, match=r"unimix must be one number for each variable"):
        categorical_kl(p, q, torch.full((3,), 0.1))
