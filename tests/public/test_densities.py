"""Log-densities at given points: of a Gaussian, and of the tanh of one between two bounds."""

import math
from functools import partial

import mpmath
import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Normal

from fused_reparam import (
    gaussian_log_prob,
    gaussian_rsample_log_prob,
    noise,
    tanh_normal_log_prob,
    tanh_normal_rsample,
    tanh_normal_sample,
)
from tests.helpers.loops import where

KEY = noise.key(5)
SCALES = {
    "logvar": lambda x: torch.exp(0.5 * x),
    "log_std": torch.exp,
    "std": lambda x: x,
    "var": torch.sqrt,
    "rho": torch.nn.functional.softplus,
}
DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
mp = mpmath.mp.clone()
mp.dps = 60


def leaves(*shapes, dtype=torch.float32, device="cpu"):
    return [(0.4 + 0.6 * torch.rand(shape)).to(device, dtype).requires_grad_() for shape in shapes]


def compare(call, inputs):
    """With float64: the number, which is float32, and every gradient, by roundings of its dtype."""
    exact = [t.detach().double().requires_grad_() for t in inputs]
    (got, want), dtype = (call(*inputs), call(*exact)), inputs[0].dtype
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    unit = torch.finfo(got.dtype).eps
    torch.testing.assert_close(got.double(), want, rtol=64 * unit, atol=64 * unit)
    incoming = torch.randn_like(want)
    found = torch.autograd.grad(got, inputs, incoming.to(got.dtype))
    right = torch.autograd.grad(want, exact, incoming)
    unit = torch.finfo(dtype).eps
    for g, w in zip(found, right, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=32 * unit, atol=32 * unit)


def test_a_gaussian_is_that_of_torch_distributions(device):
    """Every scale and dtype; of float64 to a few roundings."""
    for kind, dtype in ((kind, dtype) for kind in SCALES for dtype in DTYPES):
        with where(kind, dtype):
            z, mu, x = leaves((3, 1, 7), (1, 5, 7), (7,), dtype=dtype, device=device)
            compare(lambda z, m, x, k=kind: gaussian_log_prob(z, m, dims=-1, **{k: x}), (z, mu, x))
            z, mu, x = (t.detach().double() for t in (z, mu, x))
            want = Normal(mu, SCALES[kind](x)).log_prob(z)
            got = gaussian_log_prob(z, mu, **{kind: x})
            torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


def test_a_scale_for_all_for_a_pixel_or_a_number(device):
    """One learned number, as a sigma-VAE has it, has the gradient of all that it served."""
    x, mean = leaves((6, 5, 7), (6, 5, 7), device=device)
    scales = [t for shape in ((), (1,), (5, 7), (6, 5, 7)) for t in leaves(shape, device=device)]
    every = ("none", "sum", "mean", "sample", "batchmean")
    calls = [*({"reduction": r} for r in every), {"dims": (1, 2)}]
    for options in calls:
        for kind, scale in ((kind, scale) for kind in SCALES for scale in scales):
            with where(options, kind, scale.shape):
                made = partial(_of_scale, kind, options)
                compare(made, (x, mean, scale))
            right = Normal(mean.double(), SCALES[kind](scale.double())).log_prob(x.double())
            found = gaussian_log_prob(x, mean, **{kind: scale}).double()
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
        number = gaussian_log_prob(x, mean, std=0.5, **options)
        tensor = gaussian_log_prob(x, mean, std=torch.tensor(0.5, device=device), **options)
        torch.testing.assert_close(number, tensor)


def _of_scale(kind, options, x, mean, scale):
    return gaussian_log_prob(x, mean, **{kind: scale}, **options)


def test_reductions_clamp_and_numbers(backend):
    z, mu, x = leaves((4, 3, 5), (5,), (3, 1), dtype=torch.float64)
    each = Normal(mu, torch.exp(x.clamp(0.5, 0.8))).log_prob(z)
    for options, want in (
        ({}, each), ({"reduction": "none"}, each), ({"reduction": "sum"}, each.sum()),
        ({"reduction": "mean"}, each.mean()), ({"reduction": "sample"}, each.sum((1, 2))),
        ({"reduction": "batchmean"}, each.sum() / 4), ({"dims": (0, 2)}, each.sum((0, 2))),
    ):  # fmt: skip
        got = gaussian_log_prob(z, mu, log_std=x, clamp=(0.5, 0.8), **options)
        torch.testing.assert_close(got, want)
    got = gaussian_log_prob(z, 0.25, std=2.0)
    torch.testing.assert_close(got, Normal(0.25, 2.0).log_prob(z))
    (grad,) = torch.autograd.grad(gaussian_log_prob(z, mu, 40.0, clamp=(-1.0, 1.0)).sum(), mu)
    assert grad.isfinite().all()


def test_it_is_the_density_of_the_samples(backend):
    mu, x = leaves((4, 3), (4, 3))
    z, log_q, log_p = gaussian_rsample_log_prob(mu, log_std=x, num_samples=3, key=KEY)
    torch.testing.assert_close(gaussian_log_prob(z, mu, log_std=x, dims=-1), log_q)
    torch.testing.assert_close(gaussian_log_prob(z, 0.0, std=1.0, dims=-1), log_p)


def test_far_out(device):
    """Where sigma, or what divides by it, is beyond float32, against 60 digits."""
    cases = [
        (1e-20, 0.0, "logvar", -180.0), (3.0, 1.0, "logvar", 180.0), (1e18, 0.0, "logvar", 170.0),
        (0.5, 0.5, "logvar", -400.0), (1e30, -1e30, "log_std", 70.0), (1e-3, 0.0, "log_std", -40.0),
        (1e25, 0.0, "std", 1e25), (1e-25, 0.0, "std", 3e-25), (2e-30, 0.0, "rho", -68.0),
        (3e12, 0.0, "var", 1e24), (-5e4, 5.0, "rho", -20.0),
    ]  # fmt: skip
    for z, mu, kind, x in cases:
        with where(z, mu, kind, x):
            given = [torch.tensor(v, device=device, requires_grad=True) for v in (z, mu, x)]
            exact = [mp.mpf(t.item()) for t in given]
            sigma = {
                "logvar": lambda x: mp.exp(x / 2), "log_std": mp.exp, "std": lambda x: x,
                "var": mp.sqrt, "rho": lambda x: mp.log1p(mp.exp(x)),
            }[kind]  # fmt: skip

            def density(z, mu, x, sigma=sigma):
                return -(((z - mu) / sigma(x)) ** 2) / 2 - mp.log(sigma(x)) - mp.log(2 * mp.pi) / 2

            got = gaussian_log_prob(given[0], given[1], **{kind: given[2]})
            want = density(*exact)
            assert abs(got.item() - want) <= 5e-6 * max(1, abs(want))
            grads = torch.autograd.grad(got, given)
            for i, grad in enumerate(grads):
                at = lambda v, i=i: density(*exact[:i], v, *exact[i + 1 :])  # noqa: E731
                right = mp.diff(at, exact[i], h=mp.mpf("1e-30") * (abs(exact[i]) or 1))
                if 1e-37 < abs(right) < 3e38:
                    assert abs(grad.item() - right) <= 2e-5 * abs(right), i


def truth(action, mean, log_std, low, high):
    """By float64, of an action that float32 holds."""
    a, m, s = (t.detach().double() for t in (action, mean, log_std))
    above, below = a - low, high - a
    x = 0.5 * (torch.log(above) - torch.log(below))
    slope = math.log(0.5 * (high - low)) - torch.log(above) - torch.log(below)
    return Normal(m, s.exp()).log_prob(x) + slope


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-3.0, 2.0), (0.0, 5.0)])
def test_an_action_up_to_the_last_number_below_the_bound(device, low, high):
    distance = torch.logspace(-7, -0.2, 30, dtype=torch.float64)
    action = torch.cat((high - (high - low) * distance, low + (high - low) * distance)).float()
    action = action[(action > low) & (action < high)].to(device).requires_grad_()
    mean, log_std = (torch.full_like(action, v, requires_grad=True) for v in (0.3, -0.5))
    got = tanh_normal_log_prob(action, mean, log_std=log_std, low=low, high=high, dims=())
    want = truth(action, mean, log_std, low, high)
    torch.testing.assert_close(got.double(), want, rtol=4e-6, atol=4e-6)
    compare(
        lambda a, m, s: tanh_normal_log_prob(a, m, log_std=s, low=low, high=high),
        [t.detach()[:20].requires_grad_() for t in (action * 0.5 + 0.2, mean, log_std)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_on_the_bound_and_beyond(backend, dtype):
    """An action that was rounded to the bound is the last one below it; none has a gradient."""
    high = 2.0
    below = torch.nextafter(torch.tensor(high, dtype=dtype), torch.tensor(0.0, dtype=dtype))
    action = torch.tensor([high, 5.0, -3.0, -7.0], dtype=dtype, requires_grad=True)
    mean = torch.zeros(4, dtype=dtype, requires_grad=True)
    log_prob = tanh_normal_log_prob(action, mean, std=1.0, low=-3.0, high=high, dims=())
    grads = torch.autograd.grad(log_prob.sum(), (action, mean))
    assert log_prob.isfinite().all()
    assert all(g.isfinite().all() for g in grads)
    assert (grads[0] == 0).all()
    assert (grads[1] != 0).all()
    assert log_prob[0] == log_prob[1]
    nearest = tanh_normal_log_prob(below, mean[0], std=1.0, low=-3.0, high=high)
    assert abs(log_prob[0] - nearest) < 3.0


def test_densities_of_actions_against_their_own(backend):
    """Of float64 actions, whose x is what it was; and by gradcheck."""
    mean, log_std = leaves((6, 3), (3,), dtype=torch.float64)
    bounds = {"low": -0.5, "high": 3.0}
    action, log_prob = tanh_normal_rsample(mean, log_std=log_std, key=KEY, **bounds)
    got = tanh_normal_log_prob(action, mean, log_std=log_std, **bounds)
    torch.testing.assert_close(got, log_prob)
    action = action.detach().requires_grad_()
    assert gradcheck(
        lambda a, m, s: tanh_normal_log_prob(a, m, log_std=s, dims=(), **bounds),
        (action[:2].detach().requires_grad_(), mean[:2].detach().requires_grad_(), log_std),
    )


def test_a_fixed_action_and_its_score(device):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        mean, log_std = leaves((5, 3), (3,), dtype=dtype, device=device)
        options = {"low": -1.0, "high": 2.0, "key": KEY.to(device), "clamp": (-2.0, 0.8)}
        moved = tanh_normal_rsample(mean, log_std=log_std, return_pre_tanh=True, **options)
        fixed = tanh_normal_sample(mean, log_std=log_std, return_pre_tanh=True, **options)
        assert all(map(torch.equal, moved, fixed))
        assert [t.requires_grad for t in fixed] == [False, True, False]
        short = tanh_normal_sample(mean, log_std=log_std, **options)
        assert all(map(torch.equal, short, fixed[:2]))
        eps = noise.normal(KEY.to(device), (5, 3), dtype=torch.promote_types(dtype, torch.float32))
        m, s = (t.detach().double().requires_grad_() for t in (mean, log_std))
        held = s.clamp(-2.0, 0.8)
        x = (m + held.exp() * eps.double()).detach()
        unit = torch.finfo(dtype).eps
        torch.testing.assert_close(fixed[2].double(), x, rtol=4 * unit, atol=4 * unit + 2e-5)
        incoming = torch.randn(5, device=device).double()
        right = torch.autograd.grad(Normal(m, held.exp()).log_prob(x).sum(-1), (m, s), incoming)
        got = torch.autograd.grad(fixed[1], (mean, log_std), incoming.to(fixed[1].dtype))
        for g, w in zip(got, right, strict=True):
            torch.testing.assert_close(g.double(), w, rtol=32 * unit, atol=32 * unit + 2e-5)


def test_x_gives_ratios_of_policies(backend):
    """What PPO takes: the tanh's own term is the same of both."""
    old, new, log_std = leaves((6, 3), (6, 3), (3,), dtype=torch.float64)
    action, log_prob, x = tanh_normal_sample(old, log_std=log_std, key=KEY, return_pre_tanh=True)
    ratio = gaussian_log_prob(x, new, log_std=log_std, dims=-1) - gaussian_log_prob(
        x, old, log_std=log_std, dims=-1
    )
    direct = tanh_normal_log_prob(action, new, log_std=log_std) - log_prob
    torch.testing.assert_close(ratio, direct)
    for generator in (torch.Generator().manual_seed(3), None):
        torch.manual_seed(3)
        with_x = tanh_normal_rsample(old, std=1.0, generator=generator, return_pre_tanh=True)
        torch.testing.assert_close(torch.tanh(with_x[2]), with_x[0])


def test_what_is_wrong():
    z, mu = torch.zeros(4, 3), torch.zeros(4, 3)
    with pytest.raises(ValueError, match="exactly one of"):
        gaussian_log_prob(z, mu)
    with pytest.raises(TypeError, match=r"z must be a floating tensor, got 1\.0"):
        gaussian_log_prob(1.0, mu, std=1.0)
    with pytest.raises(ValueError, match=r"broadcast, got mu \(4, 3\) and z \(4, 2\)"):
        gaussian_log_prob(z[:, :2], mu, std=1.0)
    with pytest.raises(ValueError, match="low must be below high"):
        tanh_normal_log_prob(z, mu, std=1.0, low=1.0, high=1.0)
    with pytest.raises(TypeError, match="return_pre_tanh must be True or False"):
        tanh_normal_sample(mu, std=1.0, return_pre_tanh="yes")


def test_x_of_noise_from_elsewhere(backend):
    """Given, PyTorch's own, of a generator for each item, and of several samples."""
    mean, log_std = leaves((4, 3), (3,))
    each = [torch.Generator().manual_seed(i) for i in range(4)]
    for options in (
        {"eps": torch.randn(4, 3)}, {"rng": "torch"}, {"generator": each}, {"sample_shape": (2, 5)},
        {"sample_shape": (2,), "rng": "torch"}, {"sample_shape": (0, 2)},
    ):  # fmt: skip
        for function in (tanh_normal_rsample, tanh_normal_sample):
            with where(function.__name__, *options):
                found = function(mean, log_std=log_std, return_pre_tanh=True, **options)
                action, log_prob, x = found
                front = options.get("sample_shape", ())
                assert action.shape == x.shape == (*front, 4, 3)
                assert log_prob.shape == (*front, 4)
                torch.testing.assert_close(action, torch.tanh(x))
                own = gaussian_log_prob(x, mean, log_std=log_std, dims=-1)
                slope = 2.0 * (math.log(2.0) - x - torch.nn.functional.softplus(-2.0 * x))
                torch.testing.assert_close(log_prob, own - slope.sum(-1), rtol=1e-5, atol=1e-5)
