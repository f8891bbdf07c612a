"""Bounds of actions that are tensors: what numbers give, and the gradients of the bounds."""

import math
import re

import pytest
import torch
from torch.distributions import Normal

from fused_reparam import noise, tanh_normal_log_prob, tanh_normal_rsample, tanh_normal_sample

KEY = noise.key(3)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def log_density(action, mean, log_std, low, high):
    above, below = action - low, high - action
    x = 0.5 * (above.log() - below.log())
    slope = above.log() + below.log() - torch.log(0.5 * (high - low))
    return Normal(mean, log_std.exp()).log_prob(x) - slope


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ends", [(-2.0, 3.0), (0.0, 5.0), (-1.0, 1.0), (100.0, 108.0)])
def test_tensors_give_what_numbers_do(backend, dtype, ends):
    """On a bound, next to it, beyond it and between: near one its distance to the action counts."""
    low, high = ends
    close = torch.tensor([low, high], dtype=dtype)
    inner = torch.nextafter(close, close.flip(0))
    near = low + (high - low) * torch.tensor([1e-6, 1e-3, 0.3, 0.999], dtype=torch.float64)
    beyond = torch.tensor([low - 1.0, high + 1.0], dtype=dtype)
    action = torch.cat([close, inner, near.to(dtype), beyond]).requires_grad_()
    mean, kind = torch.zeros(10, dtype=dtype, requires_grad=True), {"std": 2.0, "dims": ()}
    tensors = {"low": torch.tensor(low), "high": torch.full((10,), high)}
    wanted = tanh_normal_log_prob(action, mean, low=low, high=high, **kind)
    grads = torch.autograd.grad(wanted.sum(), (action, mean))
    for given in (tensors, {"low": [low] * 10, "high": high}):
        found = tanh_normal_log_prob(action, mean, **given, **kind)
        assert found.isfinite().all()
        fixed = tanh_normal_log_prob(action.detach(), mean, **given, **kind)
        torch.testing.assert_close(fixed, found, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(found, wanted, rtol=2e-6, atol=2e-6)
        for a, b in zip(torch.autograd.grad(found.sum(), (action, mean)), grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2 if dtype.itemsize == 2 else 1e-4, atol=1e-6)


@pytest.mark.parametrize("sample_shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dims", [-1, (), 0, (0, 1), (-2,)])
def test_a_score_is_also_of_the_bounds(backend, sample_shape, dims):
    torch.manual_seed(0)
    mean, log_std = torch.randn(4, 3, dtype=torch.float64), torch.full((3,), -1.0).double()
    low, high = -torch.rand(3, dtype=torch.float64) - 0.5, torch.rand(3, dtype=torch.float64) + 0.5
    inputs = [0.3 * mean, log_std, low, high]
    mean, log_std, low, high = inputs = [t.requires_grad_() for t in inputs]
    action, found = tanh_normal_sample(
        mean, log_std=log_std, low=low, high=high, key=KEY, dims=dims, sample_shape=sample_shape
    )
    assert not action.requires_grad
    over = [d - 2 if d >= 0 else d for d in ((dims,) if isinstance(dims, int) else dims)]
    wanted = log_density(action, *inputs)
    wanted = wanted.sum(over) if over else wanted
    torch.testing.assert_close(found, wanted)
    weight = torch.rand_like(wanted)
    grads = torch.autograd.grad(wanted, inputs, weight)
    found = torch.autograd.grad(found, inputs, weight)
    torch.testing.assert_close(found, grads, rtol=1e-7, atol=1e-9)


def test_the_score_of_bounds_in_transforms():
    mean, high = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)

    def score(low):
        return tanh_normal_sample(mean, std=0.5, low=low, high=2.0 * high, key=KEY)[1]

    low = -high.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(score(low), low)
    torch.testing.assert_close(torch.func.grad(score)(low), wanted)
    torch.testing.assert_close(torch.vmap(torch.func.grad(score))(low.expand(2, 3))[1], wanted)
    compiled = torch.compile(score, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(low), low)[0], wanted)


def test_the_wider_dtype_decides():
    action, mean = torch.tensor([0.25, 0.5]), torch.zeros(2, dtype=torch.float64)
    low = torch.tensor([-0.1, -0.3], dtype=torch.float64)
    found = tanh_normal_log_prob(action, mean, std=1.0, low=low, high=[0.7, 0.9], dims=())
    high = torch.tensor([0.7, 0.9], dtype=torch.float64)
    wanted = log_density(action.double(), mean, torch.zeros_like(mean), low, high)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_lists_keep_gradients_and_are_checked():
    mean, end = torch.zeros(2, 2), torch.tensor(-1.0, requires_grad=True)
    action, _ = tanh_normal_rsample(mean, std=1.0, low=[end, -2.0], high=2.0, key=KEY)
    assert torch.autograd.grad(action[:, 0].sum(), end)[0] > 0.0
    for low in ([-math.inf, 0.0], torch.tensor([-math.inf, 0.0]).numpy()):
        with pytest.raises(ValueError, match="low must be finite, got"):
            tanh_normal_rsample(mean, std=1.0, low=low, high=2.0)


def test_lists_whose_ends_are_not_in_order():
    mean = torch.zeros(4, 2)
    calls = (
        lambda **ends: tanh_normal_rsample(mean, std=1.0, **ends),
        lambda **ends: tanh_normal_sample(mean, std=1.0, **ends),
        lambda **ends: tanh_normal_log_prob(mean, mean, std=1.0, **ends),
    )
    for call in calls:
        for low, high in (
            ([0.0, 1.0], [1.0, 1.0]),
            (-1.0, (1.0, -2.0)),
            (torch.tensor([0.5, 2.0]).numpy(), 1),
        ):
            said = re.escape(f"low must be below high, got low {low} and high {high}")
            with pytest.raises(ValueError, match=said):
                call(low=low, high=high)
        with pytest.raises(ValueError, match=r"low must be below high, got low 2\.0 and high 1\.0"):
            call(low=2.0, high=1.0)


def test_bounds_that_do_not_fit():
    action, mean = torch.zeros(4, 3), torch.zeros(4, 3)
    for given in ({"low": [-1.0] * 2, "high": 2.0}, {"low": -2.0, "high": torch.ones(2)}):
        name = "low" if isinstance(given["low"], list) else "high"
        with pytest.raises(ValueError, match=rf"got {name} \(2,\) and action \(4, 3\)"):
            tanh_normal_log_prob(action, mean, std=1.0, **given)
    with pytest.raises(ValueError, match=r"low \(5, 1\) and high \(6, 1\)"):
        tanh_normal_log_prob(
            action[:1], mean[:1], std=1.0, low=-torch.ones(5, 1), high=torch.ones(6, 1)
        )


@pytest.mark.parametrize("std", [1.0, 1e-5, 1e-30])
def test_no_gradient_where_an_action_is_held(backend, std):
    """Also where the density's own is infinite."""
    action = torch.tensor([0.0, 1.0, -0.5, 1.5], requires_grad=True)
    for low in (0.0, torch.tensor(0.0)):
        found = tanh_normal_log_prob(action, torch.ones(4), std=std, low=low, high=1.0)
        assert torch.autograd.grad(found, action)[0].tolist() == [0.0] * 4
