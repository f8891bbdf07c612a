"""Bounded actions: values, densities where tanh saturates, the module."""

import copy
import math

import pytest
import torch
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from fused_reparam import FusedTanhNormal, noise, tanh_normal_rsample

KEY = noise.key(21)


def policy(mean, std, low, high):
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    maps = [TanhTransform(cache_size=1), AffineTransform(middle, half, cache_size=1)]
    return TransformedDistribution(Normal(mean, std), maps)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.5, 3.0)])
def test_against_torch_distributions(low, high):
    mean = torch.randn(50, 6, dtype=torch.float64, requires_grad=True)
    log_std = torch.randn(6, dtype=torch.float64, requires_grad=True)
    action, log_prob = tanh_normal_rsample(mean, log_std=log_std, low=low, high=high, key=KEY)
    eps = noise.normal(KEY, (50, 6), dtype=torch.float64)
    x = mean + log_std.exp() * eps
    want = 0.5 * (low + high) + 0.5 * (high - low) * torch.tanh(x)
    torch.testing.assert_close(action, want)
    density = policy(mean, log_std.exp(), low, high).log_prob(want).sum(-1)
    torch.testing.assert_close(log_prob, density, rtol=1e-6, atol=1e-6)
    # The cached pre-image makes torch's density exact in its gradient, too.
    weight, other = torch.randn(50, 6).double(), torch.randn(50).double()
    found = torch.autograd.grad((weight * action).sum() + (other * log_prob).sum(), (mean, log_std))
    exact = Normal(mean, log_std.exp()).log_prob(x) - torch.log(1.0 - torch.tanh(x) ** 2)
    exact = exact.sum(-1) - 6 * math.log(0.5 * (high - low))
    wanted = torch.autograd.grad((weight * want).sum() + (other * exact).sum(), (mean, log_std))
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [20.0, 60.0])
def test_saturated(size, dtype):
    """log(1 - tanh(x)^2) = 2 (log 2 - |x| - log1p(exp(-2 |x|))) in float64, at |x| near size."""
    mean = (size * torch.tensor([1.0, -1.0, 1.0])).repeat(16, 1).to(dtype).requires_grad_()
    log_std = torch.full_like(mean, -1.0, requires_grad=True)
    action, log_prob = tanh_normal_rsample(mean, log_std=log_std, key=KEY)
    assert action.abs().max() <= 1.0
    eps = noise.normal(KEY, (16, 3)).double()
    x = mean.detach().double() + math.exp(-1.0) * eps
    slope = 2 * (math.log(2.0) - x.abs() - torch.log1p(torch.exp(-2 * x.abs())))
    want = (-0.5 * eps**2 + 1.0 - 0.5 * math.log(2 * math.pi) - slope).sum(-1)
    torch.testing.assert_close(log_prob.double(), want, rtol=1e-6, atol=1e-4)
    to_mean, to_log_std = torch.autograd.grad(log_prob.sum(), (mean, log_std))
    # d log p / dx = 2 tanh(x), which is +-2 here.
    torch.testing.assert_close(to_mean.double(), 2 * x.sign())
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    right = 2 * x.sign() * math.exp(-1.0) * eps - 1.0
    torch.testing.assert_close(to_log_std.double(), right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_near_zero(device, dtype):
    """tanh(x) and its slope to their last digits, where 1 - exp(-2 |x|) has few left."""
    x = torch.logspace(-8, 1.5, 199, dtype=dtype)
    x = torch.cat((x, -x)).to(device).view(2, 199).requires_grad_()
    action, log_prob = tanh_normal_rsample(x, std=1e-30, key=KEY)
    exact, unit = x.detach().double(), torch.finfo(dtype).eps
    tanh, slope = torch.tanh(exact), torch.cosh(exact) ** -2
    (of_action,) = torch.autograd.grad(action.sum(), x, retain_graph=True)
    (of_density,) = torch.autograd.grad(log_prob.sum(), x)
    torch.testing.assert_close(action.double(), tanh, rtol=4 * unit, atol=0.0)
    torch.testing.assert_close(of_action.double(), slope, rtol=8 * unit, atol=0.0)
    torch.testing.assert_close(of_density.double(), 2 * tanh, rtol=8 * unit, atol=0.0)


def test_bounds_hold_and_clamp_stops_the_gradient():
    mean = torch.linspace(-40, 40, 999).requires_grad_()
    log_std = torch.linspace(-9, 5, 999).requires_grad_()
    action, log_prob = tanh_normal_rsample(
        mean, log_std=log_std, low=0.1, high=0.7, clamp=(-5.0, 2.0), key=KEY
    )
    low, high = torch.tensor([0.1, 0.7])
    assert action.min() >= low
    assert action.max() <= high
    assert log_prob.shape == ()
    (grad,) = torch.autograd.grad(log_prob + action.sum(), log_std)
    outside = (log_std < -5.0) | (log_std > 2.0)
    assert (grad[outside] == 0).all()
    assert (grad[~outside] != 0).any()


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (4, 0), (2, 3, 4)])
def test_shapes(shape):
    action, log_prob = tanh_normal_rsample(torch.zeros(shape), std=1.0)
    assert action.shape == shape
    assert log_prob.shape == shape[:-1]
    assert not log_prob.isnan().any()


def test_module():
    head = FusedTanhNormal(low=-2.0, high=2.0, clamp=(-3.0, 1.0))
    mean, log_std = torch.randn(8, 3, requires_grad=True), torch.randn(3)
    action, log_prob = head(mean, log_std, key=KEY)
    want = tanh_normal_rsample(
        mean, log_std=log_std, low=-2.0, high=2.0, clamp=(-3.0, 1.0), key=KEY
    )
    assert torch.equal(action, want[0])
    assert torch.equal(log_prob, want[1])
    assert not torch.equal(head(mean, log_std)[0], head(mean, log_std)[0])
    quiet = copy.deepcopy(head).eval()
    action, log_prob = quiet(mean, log_std)
    torch.testing.assert_close(action, 2.0 * torch.tanh(mean))
    density = policy(mean, log_std.clamp(-3.0, 1.0).exp(), -2.0, 2.0).log_prob(action).sum(-1)
    torch.testing.assert_close(log_prob, density, rtol=1e-3, atol=1e-3)
    assert torch.autograd.grad(action.sum(), mean)[0].abs().min() > 0
    assert "low=-2.0, high=2.0, clamp=(-3.0, 1.0)" in repr(head)
    by_rho = FusedTanhNormal("rho")(mean, 0.5, key=KEY)
    assert torch.equal(by_rho[0], tanh_normal_rsample(mean, rho=0.5, key=KEY)[0])
