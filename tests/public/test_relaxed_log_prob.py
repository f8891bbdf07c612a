"""Log-densities of relaxed samples, at samples and at points that were rounded to an end."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import RelaxedBernoulli, RelaxedOneHotCategorical

from fused_reparam import (
    gumbel_softmax,
    gumbel_softmax_log_prob,
    noise,
    relaxed_bernoulli,
    relaxed_bernoulli_log_prob,
)
from tests.helpers.loops import where

DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
KEY = noise.key(4)
TAU = 0.75  # exact in every dtype


def compare(got, want, inputs, exact):
    assert got.dtype == (torch.float64 if inputs[0].dtype == torch.float64 else torch.float32)
    unit = torch.finfo(got.dtype).eps
    torch.testing.assert_close(got.double(), want, rtol=128 * unit, atol=128 * unit)
    incoming = torch.rand_like(want)
    found = torch.autograd.grad(got, inputs, incoming.to(got.dtype))
    right = torch.autograd.grad(want, exact, incoming)
    unit = torch.finfo(inputs[0].dtype).eps
    for g, w in zip(found, right, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=256 * unit, atol=64 * unit)


def points(y, logits):
    """Samples and logits that require grad, and the same in float64."""
    inputs = [t.detach().requires_grad_() for t in (y, logits)]
    return inputs, [t.detach().double().requires_grad_() for t in inputs]


def test_bits(device):
    for dtype in DTYPES:
        with where(dtype):
            logits = torch.randn(4, 3, 5).to(device, dtype)
            y = relaxed_bernoulli(logits, TAU, key=KEY.to(device)).clamp(0.02, 0.98)
            inputs, exact = points(y, logits)
            want = RelaxedBernoulli(torch.tensor(TAU).to(exact[0]), logits=exact[1])
            want = want.log_prob(exact[0]).sum(-1)
            compare(relaxed_bernoulli_log_prob(*inputs, TAU, dims=-1), want, inputs, exact)


def test_bits_that_were_rounded(backend):
    for dtype in DTYPES:
        y = torch.tensor([0.0, 1.0, torch.finfo(dtype).tiny], dtype=dtype).requires_grad_()
        logits = torch.zeros(3, dtype=dtype, requires_grad=True)
        log_prob = relaxed_bernoulli_log_prob(y, logits, 0.5)
        grads = torch.autograd.grad(log_prob.sum(), (y, logits))
        assert log_prob.isfinite().all()
        assert log_prob[0] == log_prob[2]
        assert grads[0][:2].tolist() == [0.0, 0.0]
        assert grads[1].isfinite().all()


def test_a_temperature_that_is_a_tensor(backend):
    y = (0.1 + 0.8 * torch.rand(4, 3)).double().requires_grad_()
    logits = torch.randn(3).double().requires_grad_()
    tau = torch.tensor([0.5, 0.7, 1.5]).double().requires_grad_()
    want = RelaxedBernoulli(tau, logits=logits).log_prob(y)
    torch.testing.assert_close(relaxed_bernoulli_log_prob(y, logits, tau), want)
    assert gradcheck(relaxed_bernoulli_log_prob, (y, logits, tau))
    shares = torch.randn(2, 4).double().softmax(-1).requires_grad_()
    one = torch.tensor(0.7).double().requires_grad_()
    assert gradcheck(gumbel_softmax_log_prob, (shares, torch.randn(4).double(), one))


def test_categories(backend):
    for dtype in DTYPES:
        with where(dtype):
            logits = torch.randn(4, 6, 5).to(dtype)
            y = gumbel_softmax(logits, TAU, dim=1, key=KEY).clamp(min=0.01)
            inputs, exact = points(y, logits)
            y64, logits64 = (t.movedim(1, -1) for t in exact)
            law = RelaxedOneHotCategorical(
                torch.tensor(TAU).double(), logits=logits64, validate_args=False
            )
            got = gumbel_softmax_log_prob(*inputs, TAU, dim=1, dims=-1)
            compare(got, law.log_prob(y64).sum(-1), inputs, exact)


def test_shares_that_were_rounded_to_zero():
    y = torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True)
    logits = torch.zeros(1, 3, requires_grad=True)
    log_prob = gumbel_softmax_log_prob(y, logits, 0.1)
    grads = torch.autograd.grad(log_prob.sum(), (y, logits))
    assert log_prob.isfinite().all()
    assert all(g.isfinite().all() for g in grads)
    assert grads[0][0, 0] == 0.0


def test_what_is_wrong():
    y = torch.full((4, 3), 0.5)
    with pytest.raises(ValueError, match="tau must be positive"):
        relaxed_bernoulli_log_prob(y, y, 0.0)
    with pytest.raises(ValueError, match=r"logits \(5,\) and y \(4, 3\)"):
        relaxed_bernoulli_log_prob(y, torch.zeros(5))
    with pytest.raises(
        ValueError, match=r"tau must be one number for each variable.*got shape \(1, 3\)"
    ):
        gumbel_softmax_log_prob(y, y, torch.ones(3))
    with pytest.raises(TypeError, match="y must be a floating tensor, got 1 of type int"):
        gumbel_softmax_log_prob(1, y)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_a_temperature_for_each_variable(dim):
    logits = torch.randn(4, 3, 5, dtype=torch.float64)
    shape = list(logits.shape)
    shape[dim] = 1
    tau = (0.5 + torch.rand(shape, dtype=torch.float64)).requires_grad_()
    y = torch.randn_like(logits).softmax(dim)
    found = gumbel_softmax_log_prob(y, logits, tau, dim)
    each = zip(
        y.movedim(dim, -1).flatten(0, 1), logits.movedim(dim, -1).flatten(0, 1),
        tau.movedim(dim, -1).flatten(), strict=True,
    )  # fmt: skip
    wanted = torch.stack([
        torch.distributions.RelaxedOneHotCategorical(t, logits=x).log_prob(point)
        for point, x, t in each
    ]).view_as(found)  # fmt: skip
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(t.sum(), tau)[0] for t in (found, wanted)]
    torch.testing.assert_close(*grads)
