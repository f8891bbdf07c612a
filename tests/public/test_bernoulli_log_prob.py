"""The Bernoulli likelihood of values in [0, 1], and the continuous Bernoulli's."""

from functools import cache

import mpmath
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import ContinuousBernoulli
from torch.nn.functional import binary_cross_entropy_with_logits

from fused_reparam import bernoulli_log_prob
from tests.helpers.formulas import within_twice_the_error
from tests.helpers.loops import where

DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
BOTH = False, True
mp = mpmath.mp.clone()
mp.dps = 400  # where a sum of 1e308 and 1 is to keep 60


def written(x, logits, continuous=False):
    """As users write it."""
    if continuous:
        return ContinuousBernoulli(logits=logits, validate_args=False).log_prob(x)
    return -binary_cross_entropy_with_logits(logits, x, reduction="none")


def leaves(dtype, device="cpu", shape=(6, 5, 7)):
    """Values of which some are 0 and 1, and logits of both signs, near 0 too."""
    x = (1.4 * torch.rand(shape) - 0.2).clamp(0.0, 1.0)
    logits = torch.randn(shape) * torch.logspace(-2, 1, shape[-1])
    return [t.to(device, dtype).requires_grad_() for t in (x, logits)]


def with_gradients(call, inputs):
    found = call(*inputs)
    incoming = torch.linspace(-1.0, 2.0, found.numel(), device=found.device).view(found.shape)
    return found, *torch.autograd.grad(found, inputs, incoming.to(found.dtype))


@pytest.mark.parametrize("continuous", BOTH)
def test_it_is_what_users_write(device, continuous):
    for dtype in DTYPES:
        with where(dtype):
            inputs = leaves(dtype, device)
            exact = [t.detach().double().requires_grad_() for t in inputs]
            law = written(*exact, continuous)
            # PyTorch's holds probabilities of the continuous one within float32's of 1.
            off = 1e-5 if continuous else 1e-13
            own = bernoulli_log_prob(*exact, continuous=continuous)
            torch.testing.assert_close(own, law, rtol=off, atol=off)
            got = with_gradients(lambda *t: bernoulli_log_prob(*t, continuous=continuous), inputs)
            assert got[0].dtype == torch.promote_types(dtype, torch.float32)
            want = with_gradients(lambda *t: bernoulli_log_prob(*t, continuous=continuous), exact)
            plain = with_gradients(lambda *t: written(*t, continuous), inputs)
            for g, w, p in zip(got, want, plain, strict=True):
                assert within_twice_the_error(g, w, p, roundings=2)


@cache
def truth(dtype, continuous):
    """Values, logits, and of each pair the log-density and both derivatives, to 60 digits."""
    sizes = (0.0, 1e-30, 1e-6, 1e-3, 0.3, 0.7, 1.9, 2.1, 9.0, 40.0, 90.0, 800.0)
    sizes = torch.tensor((*sizes, 3e38 if dtype == torch.float32 else 1e308), dtype=dtype)
    values = torch.tensor((0.0, 1e-30, 1e-3, 0.3, 0.5, 1.0), dtype=dtype)
    x, logits = torch.cartesian_prod(values, torch.cat((sizes, -sizes))).unbind(-1)
    pairs = zip(x.tolist(), logits.tolist(), strict=True)
    return x, logits, [exactly(mp.mpf(v), mp.mpf(s), continuous) for v, s in pairs]


def exactly(x, s, continuous):
    half = mp.mpf(1) / 2
    if not continuous:
        return x * s - mp.log1p(mp.exp(s)), s, x - 1 / (1 + mp.exp(-s))
    if not s:
        return mp.mpf(0), s, x - half
    log_size = mp.log((mp.exp(s) - 1) / s)
    return x * s - log_size, s, x - 1 / (1 - mp.exp(-s)) + 1 / s


@pytest.mark.parametrize("continuous", BOTH)
def test_far_out(device, continuous):
    """Relative to the larger of 1 and the number: never NaN."""
    for dtype in (torch.float32, torch.float64):
        x, logits, right = truth(dtype, continuous)
        inputs = [t.to(device).requires_grad_() for t in (x, logits)]
        found = bernoulli_log_prob(*inputs, continuous=continuous)
        each = torch.stack((found, *torch.autograd.grad(found.sum(), inputs)), -1).tolist()
        for got, want, pair in zip(each, right, zip(x, logits, strict=True), strict=True):
            with where(dtype, *pair):
                for g, w in zip(got, want, strict=True):
                    assert abs(mp.mpf(g) - w) <= 8 * torch.finfo(dtype).eps * max(1, abs(w))


@pytest.mark.parametrize("continuous", BOTH)
def test_what_is_certain_keeps_its_digits(device, continuous):
    """The probability of what is missed is e^-|logits|, not what 1 - sigmoid(logits) leaves."""
    logits = torch.tensor([-30.0, 30.0], device=device, requires_grad=True)
    x = torch.tensor([0.0, 1.0], device=device)
    found = bernoulli_log_prob(x, logits, continuous=continuous)
    (grad,) = torch.autograd.grad(found.sum(), logits)
    right = torch.tensor(1 / 30 if continuous else 9.357623e-14, device=device)
    torch.testing.assert_close(grad, torch.stack((-right, right)), rtol=1e-5, atol=0.0)
    if not continuous:
        torch.testing.assert_close(found, -right.expand(2), rtol=1e-5, atol=0.0)


def test_masked_and_impossible(device):
    """Infinite logits: a value that they are certain of has a density of 1, and no gradient."""
    logits = torch.tensor([float("inf"), -float("inf")], device=device, requires_grad=True)
    found = bernoulli_log_prob(torch.tensor([1.0, 0.0], device=device), logits)
    (grad,) = torch.autograd.grad(found.sum(), logits)
    assert found.tolist() == [0.0, 0.0]
    assert grad.tolist() == [0.0, 0.0]
    found = bernoulli_log_prob(torch.tensor([0.0, 0.5], device=device), logits)
    assert found.tolist() == [-float("inf")] * 2
    nan = torch.tensor([float("nan"), 0.0], device=device)
    for continuous in BOTH:
        assert bernoulli_log_prob(nan, nan.flip(0), continuous=continuous).isnan().all()


def test_reductions_and_shapes(backend):
    x, logits = leaves(torch.float64)
    each = written(x, logits)
    for options, want in (
        ({}, each), ({"reduction": "none"}, each), ({"reduction": "sum"}, each.sum()),
        ({"reduction": "mean"}, each.mean()), ({"reduction": "sample"}, each.sum((1, 2))),
        ({"reduction": "batchmean"}, each.sum() / 6), ({"dims": (0, 2)}, each.sum((0, 2))),
    ):  # fmt: skip
        torch.testing.assert_close(bernoulli_log_prob(x, logits, **options), want)
    samples = torch.randn(3, 6, 5, 7, dtype=torch.float64)
    want = written(x.expand(3, 6, 5, 7), samples).sum((-1, -2))
    torch.testing.assert_close(bernoulli_log_prob(x, samples, dims=(-2, -1)), want)
    torch.testing.assert_close(bernoulli_log_prob(x, 0.5), written(x, torch.full_like(x, 0.5)))


@pytest.mark.parametrize("continuous", BOTH)
def test_derivatives(backend, continuous):
    def call(x, logits):
        return bernoulli_log_prob(x, logits, dims=-1, continuous=continuous)

    inputs = leaves(torch.float64, shape=(2, 3))
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)
    x, logits = inputs
    assert gradcheck(lambda s: call(x.detach(), s), (logits,))
    assert gradcheck(lambda v: call(v, logits.detach()), (x,))


def test_what_is_wrong():
    x = torch.full((4, 3), 0.5)
    with pytest.raises(TypeError, match="x must be a floating tensor, got 1 of type int"):
        bernoulli_log_prob(1, x)
    with pytest.raises(TypeError, match=r"x must be float32.*got torch\.uint8 of shape \(4, 3\)"):
        bernoulli_log_prob(x.byte(), x)
    with pytest.raises(ValueError, match=r"broadcast, got x \(4, 3\) and logits \(5,\)"):
        bernoulli_log_prob(x, torch.zeros(5))
    with pytest.raises(TypeError, match="continuous must be True or False"):
        bernoulli_log_prob(x, x, continuous="yes")
    with pytest.raises(ValueError, match="reduction must be one of"):
        bernoulli_log_prob(x, x, reduction="avg")
