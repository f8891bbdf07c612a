"""A gradient of zero stays zero, whatever infinite derivative it meets.

An output whose gradient is missing, a parameter beyond its clamp, a divergence below its free bits
or of weight zero: none of them counts, also where the derivative that it would be multiplied by
overflows.
"""

import itertools
import math

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise

KINDS = ("logvar", "log_std", "std", "var", "rho")


def leaf(value, device, n=6):
    return torch.full((n,), value, device=device).requires_grad_()


def gradients(output, *leaves):
    return [g.tolist() for g in torch.autograd.grad(output.sum(), leaves)]


def test_a_log_normal_beyond_its_clamp(device):
    loc, log_std = leaf(89.0, device), leaf(-0.5, device)
    z = fr.log_normal_rsample(loc, log_std=log_std, clamp=(0.0, 0.0))
    assert z.isinf().any()
    assert gradients(z, log_std) == [[0.0] * 6]


@pytest.mark.parametrize("kind", ["logvar", "log_std"])
@pytest.mark.parametrize("beyond", [-300.0, 300.0])
def test_a_clamped_scale_of_every_function(kind, beyond, device):
    """The bounds are finite where the parameter, left as it is, would overflow."""
    bounds = {"clamp": (-2.0, 2.0)}
    for function in (fr.gaussian_rsample, fr.tanh_normal_rsample, fr.log_normal_rsample,
                     fr.gaussian_rsample_log_prob, fr.gaussian_latent, fr.gaussian_kl):  # fmt: skip
        x = leaf(beyond, device)
        found = function(torch.ones(6, device=device), **{kind: x}, **bounds)
        for output in found if isinstance(found, tuple) else (found,):
            (grad,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
            assert grad.tolist() == [0.0] * 6, function.__name__


def test_bounds_beyond_the_dtype_are_none(device):
    mu, logvar = leaf(0.5, device), leaf(1.0, device)
    z, kl = fr.gaussian_latent(mu, logvar, clamp=(-1e300, 1e300), eps=torch.ones(6, device=device))
    assert z.tolist() == pytest.approx([0.5 + math.exp(0.5)] * 6)
    assert gradients(z.sum(), logvar)[0] == pytest.approx([0.5 * math.exp(0.5)] * 6)
    assert kl.isfinite()


def test_only_z_of_a_sample_whose_density_overflows(device):
    eps = noise.normal(noise.key(1).to(device), 6)
    loc, log_std = leaf(1.0, device), leaf(89.0, device)
    z, _, _ = fr.gaussian_rsample_log_prob(loc, log_std=log_std, key=noise.key(1).to(device))
    to_loc, to_log_std = gradients(z, loc, log_std)
    assert to_loc == [1.0] * 6
    # exp(89) is beyond float32, so the derivative sigma * eps is infinite, of eps's sign.
    assert to_log_std == [math.copysign(math.inf, e) for e in eps.tolist()]


def test_only_one_of_the_two_densities(device):
    """log q's gradient is finite where log p's overflows."""
    loc, log_std = leaf(1.0, device), leaf(60.0, device)
    _, log_q, log_p = fr.gaussian_rsample_log_prob(loc, log_std=log_std)
    assert log_p.isinf().all()
    assert gradients(log_q, loc, log_std) == [[0.0] * 6, [-1.0] * 6]


@pytest.mark.parametrize(("kind", "value"), [("std", 1e-40), ("var", 1e-41), ("logvar", -190.0)])
def test_only_the_action_of_a_tiny_scale(kind, value, device):
    key = noise.key(2).to(device)
    eps = noise.normal(key, 6).double()
    mean, x = leaf(1.0, device), leaf(value, device)
    action, _ = fr.tanh_normal_rsample(mean, **{kind: x}, key=key)
    to_mean, to_x = torch.autograd.grad(action.sum(), (mean, x))
    slope = 1 - math.tanh(1.0) ** 2
    torch.testing.assert_close(to_mean.double(), torch.full_like(eps, slope), rtol=1e-5, atol=0)
    dsigma = {"std": 1.0, "var": 0.5 / math.sqrt(abs(float(x[0]))), "logvar": 0.0}[kind]
    torch.testing.assert_close(to_x.double(), slope * dsigma * eps, rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [fr.gaussian_kl, fr.gaussian_latent, fr.sample_weight])
def test_a_divergence_of_weight_zero(function, kind, device):
    """beta = 0 takes the divergence out of the loss, also where its slope 1 / sigma overflows."""
    value = {"logvar": -190.0, "log_std": -95.0, "std": 1e-40, "var": 1e-41, "rho": -95.0}[kind]
    mu, x = leaf(0.5, device), leaf(value, device)
    if function is fr.sample_weight:
        if kind != "rho":
            return  # it takes no other
        _, kl = function(mu, x)
        kl = 0.0 * kl
    else:
        found = function(mu, **{kind: x}, beta=0.0)
        kl = found if isinstance(found, torch.Tensor) else found[1]
    assert gradients(kl, mu, x) == [[0.0] * 6, [0.0] * 6]


@pytest.mark.parametrize("reduction", ["batchmean", "sample", "none"])
@pytest.mark.parametrize(
    ("kind", "value"), [("logvar", 100.0), ("log_std", 60.0), ("std", 1e-40), ("var", 1e-41)]
)
def test_a_divergence_of_weight_zero_beside_a_sample(kind, value, reduction, device):
    """A warm-up of beta from 0: the sample's gradient is what it would be alone."""
    key = noise.key(4)
    found = []
    for beta in (None, 0.0):
        mu, x = leaf(0.5, device), leaf(value, device)
        if beta is None:
            z, kl = fr.gaussian_rsample(mu, **{kind: x}, key=key), torch.zeros(1, device=device)
        else:
            z, kl = fr.gaussian_latent(mu, **{kind: x}, beta=beta, reduction=reduction, key=key)
        found.append(gradients(z.sum() + kl.where(kl.isfinite(), 0.0).sum(), mu, x))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(*map(torch.tensor, (found[0][1], found[1][1])), rtol=1e-6, atol=0)


def test_free_bits_that_are_not_reached(device):
    mu, std = leaf(0.0, device), leaf(1e-40, device)
    options = {"free_bits": 1000.0, "free_bits_per": "element", "reduction": "none"}
    kl = fr.gaussian_kl(mu, std=std, **options)
    assert kl.tolist() == [1000.0] * 6
    assert gradients(kl, mu, std) == [[0.0] * 6, [0.0] * 6]


@pytest.mark.parametrize(("a", "b"), [(1e-40, 1.0), (1.0, 1e-40), (1e-40, 1e-40), (1e-41, 3.0)])
def test_kumaraswamy_of_tiny_concentrations(a, b, device):
    """z is 0 or 1 there to the last bit, and its gradient 0."""
    one, two = leaf(a, device), leaf(b, device)
    z = fr.kumaraswamy_rsample(one, two)
    assert set(z.tolist()) <= {0.0, 1.0}
    assert gradients(z, one, two) == [[0.0] * 6, [0.0] * 6]


TINY = [
    (1e-34, 1e-32),
    (1e-32, 1e-32),
    (-3e-33, 1e-32),
    (1e-38, 2e-38),
    (0.0, 1e-35),
    (1e-30, 1e-35),
]


@pytest.mark.parametrize(("loc", "scale"), TINY)
def test_laplace_divergence_of_tiny_scales(loc, scale, device):
    """d KL / d loc = sign(loc) (1 - exp(-|loc| / scale)), of the ratio alone."""
    location, spread = leaf(loc, device), leaf(scale, device)
    _, kl = fr.loc_scale_latent(location, spread, "laplace", reduction="none")
    to_loc, to_scale = torch.autograd.grad(kl.sum(), (location, spread))
    loc, scale = location[0].item(), spread[0].item()
    t = abs(loc) / scale
    want = math.copysign(-math.expm1(-t), loc) if loc else 0.0
    torch.testing.assert_close(
        to_loc.double(), torch.full_like(to_loc, want).double(), rtol=2e-6, atol=1e-7
    )
    want = math.exp(-t) * (1 + t) - 1 / scale
    torch.testing.assert_close(
        to_scale.double(), torch.full((6,), want, device=device).double(), rtol=2e-6, atol=0
    )
    want = scale * math.exp(-t) + abs(loc) - math.log(scale) - 1
    torch.testing.assert_close(
        kl.double(), torch.full((6,), want, device=device).double(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("base", ["laplace", "gumbel", "uniform", "cauchy"])
def test_a_divergence_that_is_not_used(base, device):
    loc, scale = leaf(0.0, device), leaf(1e-40, device)
    z, _ = fr.loc_scale_latent(loc, scale, base)
    assert gradients(z, loc)[0] == [1.0] * 6
    z, kl = fr.loc_scale_latent(loc, scale, base)
    (to_scale,) = torch.autograd.grad(z.sum() + 0.0 * kl.sum().nan_to_num(), scale)
    assert to_scale.isfinite().all()


FAR = {
    "logvar": (-190.0, 190.0, 1000.0),
    "log_std": (-95.0, 95.0, 500.0),
    "std": (1e-40, 3e38),
    "var": (1e-41, 3e38),
    "rho": (-95.0, 3e38),
}


def all_outputs(kind, x, loc, samples):
    """Those of every function with a sampled value or a prior, each with its leaves."""
    many = {"num_samples": samples}
    learned = {"prior": (torch.zeros_like(x), {kind: torch.ones_like(x)})}
    yield (fr.gaussian_rsample(loc, **{kind: x}, **many),)
    yield fr.gaussian_latent(loc, **{kind: x}, reduction="none", **many)
    yield fr.gaussian_latent(loc, **{kind: x}, prior=(0.3, 2.0), reduction="none", **many)
    yield fr.gaussian_latent(loc, **{kind: x}, **learned, reduction="none", **many)
    yield fr.gaussian_rsample_log_prob(loc, **{kind: x}, **many)
    yield fr.gaussian_rsample_log_prob(loc, **{kind: x}, **learned, **many)
    if samples is None:
        yield fr.tanh_normal_rsample(loc, **{kind: x})
        yield fr.log_normal_latent(loc, **{kind: x})
        if kind == "rho":
            yield fr.sample_weight(loc, x, mixture=(0.3, 1.5, 0.2))


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_an_explicit_gradient_of_zero(kind, samples, device):
    """As masks, slices and weights of zero give it; it is no missing one."""
    every = list(itertools.product((0.0, 1.0, 1e30), FAR[kind]))
    loc, x = (torch.tensor(t, device=device, requires_grad=True) for t in zip(*every, strict=True))
    for outputs in all_outputs(kind, x, loc, samples):
        for output in outputs:
            grads = torch.autograd.grad(
                output, (loc, x), torch.zeros_like(output), allow_unused=True, retain_graph=True
            )
            for grad in grads:
                assert grad is None or not grad.any(), grad


def test_a_kl_beside_a_sample_without_a_gradient(device):
    """The sum of both is as the KL's alone, whose slope is infinite."""
    mu, logvar = leaf(0.5, device), leaf(180.0, device)
    z, kl = fr.gaussian_latent(mu, logvar)
    assert gradients((0.0 * z.nan_to_num()).sum() + kl, mu, logvar)[1] == [math.inf] * 6


@pytest.mark.parametrize("kind", ["logvar", "log_std"])
def test_an_action_where_the_map_is_flat(kind, device):
    """It has no slope where it meets an infinite sigma."""
    mean, x = leaf(0.5, device), leaf(190.0, device)
    action, _ = fr.tanh_normal_rsample(mean, **{kind: x}, low=-2.0, high=3.0)
    assert gradients(action, mean, x) == [[0.0] * 6, [0.0] * 6]


def test_a_gradient_of_zero_beside_others(device):
    """Of samples and elements, only those whose gradient is not zero count."""
    eps = torch.tensor([[1.0, 2.0], [3.0, 0.5], [-1.0, 1.0]], device=device)
    x = torch.tensor([0.5, 190.0], device=device, requires_grad=True)
    loc = torch.tensor([1.0, 1.0], device=device, requires_grad=True)
    *_, log_p = fr.gaussian_rsample_log_prob(loc, x, num_samples=3, eps=eps)
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]], device=device)
    to_loc, to_x = torch.autograd.grad(log_p, (loc, x), weight)
    sigma = math.exp(0.25)
    parts = [(1.0, 1.0 + sigma, 1.0), (2.0, 1.0 - sigma, -1.0)]
    want = -sum(w * z for w, z, _ in parts), -0.5 * sum(w * z * sigma * e for w, z, e in parts)
    torch.testing.assert_close(to_loc.tolist(), [want[0], 0.0], rtol=1e-6, atol=0)
    torch.testing.assert_close(to_x.tolist(), [want[1], 0.0], rtol=1e-6, atol=0)


def test_nan_stays_nan(device):
    mu, std = leaf(math.nan, device), leaf(math.nan, device)
    z, kl = fr.gaussian_latent(mu, std=std, prior=(0.0, 2.0), reduction="none")
    assert z.isnan().all()
    assert kl.isnan().all()
    for grad in gradients(z.sum() + kl.sum(), std):
        assert all(math.isnan(g) for g in grad)
