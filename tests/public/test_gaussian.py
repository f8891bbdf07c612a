"""Values and gradients of the Gaussian latent against float64, for each backend."""

import pytest
import torch

import fused_reparam
from fused_reparam import gaussian_kl, gaussian_latent, gaussian_rsample, noise
from tests.helpers.formulas import (
    DTYPES,
    KINDS,
    LOW_PRECISION,
    REDUCTIONS,
    composition,
    exact,
    parameters,
    within_twice_the_error,
)
from tests.helpers.loops import where

CLAMPS = {"logvar": (-0.5, 1.0), "log_std": (-0.5, 1.0)}


def check(mu, x, kind, reduction="batchmean", clamp=None, with_z=True, with_kl=True):
    """Compare z, KL and both gradients with float64, and with plain PyTorch in the same dtype."""
    key = noise.key(12, 34, device=mu.device)
    options = {"kind": kind, "reduction": reduction, "clamp": clamp}
    z, kl = gaussian_latent(mu, **{kind: x}, reduction=reduction, clamp=clamp, key=key)
    eps = noise.normal(key, z.shape, dtype=torch.promote_types(z.dtype, torch.float32))
    eps = eps.as_strided(z.shape, z.stride()) if z.numel() else eps  # memory order
    generator = torch.Generator().manual_seed(1)
    grad_z = torch.randn(z.shape, generator=generator).to(z) if with_z else None
    grad_kl = torch.randn(kl.shape, generator=generator).to(kl) if with_kl else None

    def grads_of(z, kl, inputs):
        pairs = [(o, g) for o, g in ((z, grad_z), (kl, grad_kl)) if g is not None]
        outputs, cotangents = zip(*pairs, strict=True)
        cotangents = [c.to(o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
        return torch.autograd.grad(outputs, inputs, cotangents)

    got = [z, kl, *grads_of(z, kl, (mu, x))]
    want = exact(mu, x, eps, grad_z, grad_kl, **options)
    rounded = eps.to(z.dtype)
    plain_inputs = [t.detach().requires_grad_() for t in (mu, x)]
    plain = composition(*plain_inputs, rounded, **options)
    plain = [*plain, *grads_of(*plain, plain_inputs)]
    assert got[1].dtype == (torch.float64 if mu.dtype == torch.float64 else torch.float32)
    for name, g, w, p in zip(("z", "kl", "dmu", "dx"), got, want, plain, strict=True):
        assert within_twice_the_error(g, w, p), f"{name}: {(g.double() - w).abs().max()}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_scale_and_dtype(device, dtype):
    for kind in KINDS:
        with where(kind):
            mu, x = parameters(kind, (13, 37), dtype, device)
            check(mu, x, kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_reduction(device, dtype):
    for reduction in REDUCTIONS:
        with where(reduction):
            for shape in ((13, 37), (5, 3, 7), (4, 1), (1, 9), (11,), (3, 257)):
                check(*parameters("logvar", shape, dtype, device), "logvar", reduction)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clamp(device, dtype):
    for kind in sorted(CLAMPS):
        with where(kind):
            mu, x = parameters(kind, (19, 23), dtype, device)
            low, high = CLAMPS[kind]
            with torch.no_grad():  # at the bounds the gradient is 1
                x[0, 0], x[0, 1] = low, high
            check(mu, x, kind, clamp=(low, high))


@pytest.mark.parametrize("kind", KINDS)
def test_one_gradient_missing(device, kind):
    mu, x = parameters(kind, (7, 9), torch.float32, device)
    check(mu, x, kind, with_kl=False)
    mu, x = parameters(kind, (7, 9), torch.float32, device)
    check(mu, x, kind, with_z=False)


def test_odd_sizes(device):
    for n in [1, 2, 3, 4, 5, 15, 17, 127, 1023, 2053, 4099]:
        with where(n):
            check(*parameters("logvar", (n,), torch.float32, device), "logvar", "sum")
            check(*parameters("rho", (n,), torch.bfloat16, device), "rho", "none")


def test_sample_sums_over_any_rows(device):
    for shape in [(1, 4099), (4099, 1), (67, 61), (128, 20), (2, 3, 5, 7)]:
        with where(shape):
            check(*parameters("logvar", shape, torch.float32, device), "logvar", "sample")


@pytest.mark.parametrize("kind", KINDS)
def test_kl_bound_in_float32(device, kind):
    """The contract: within 1e-6 max(1, mu^2 + sigma^2 + |log sigma^2|) of float64."""
    span = {"logvar": (-80, 80), "log_std": (-40, 40), "std": (1e-30, 1e18)}
    span |= {"var": (1e-30, 1e30), "rho": (-110, 1e3)}
    low, high = span[kind]
    x = torch.linspace(low, high, 4001, dtype=torch.float64)
    if kind in ("std", "var"):
        x = torch.logspace(-30, 18, 4001, dtype=torch.float64)
    if kind == "var":
        x = torch.logspace(-44, 38.5, 4001, dtype=torch.float64)
    near_one = torch.linspace(0.5, 1.5, 4001, dtype=torch.float64)
    near_zero = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    x = torch.cat((x, near_one if kind in ("std", "var") else near_zero)).float()
    mu = torch.linspace(-5, 5, x.numel())
    got = gaussian_kl(mu.to(device), **{kind: x.to(device)}, reduction="none").double().cpu()
    zero = torch.zeros(())
    want = composition(mu.double(), x.double(), zero, kind, "none")[1]
    sigma = composition(zero, x.double(), torch.ones(()), kind, "none")[0]
    log_var = composition(zero, x.double(), zero, kind, "none")[1] * -2 + sigma**2 - 1
    bound = 1e-6 * torch.clamp_min(mu.double() ** 2 + sigma**2 + log_var.abs(), 1)
    assert ((got - want).abs() <= bound).all()


def test_rho_far_out(device):
    """Where softplus underflows or is the identity."""
    rho = torch.tensor([-1e4, -200.0, -110.0, -88.0, 0.0, 88.0, 110.0, 1e4], device=device)
    rho.requires_grad_()
    mu = torch.zeros_like(rho)
    kl = gaussian_kl(mu, rho=rho, reduction="none")
    grad = torch.autograd.grad(kl.sum(), rho)[0].double().cpu()
    x = rho.detach().double().cpu().requires_grad_()
    sigma = torch.where(x > 30, x, torch.log1p(torch.exp(x.clamp_max(30))))
    log_sigma = torch.where(x < -30, x, torch.log(torch.where(x < -30, 1.0, sigma)))
    want = 0.5 * (sigma**2 - 1 - 2 * log_sigma)
    torch.testing.assert_close(kl.detach().double().cpu(), want.detach(), rtol=2e-6, atol=2e-6)
    want_grad = torch.autograd.grad(want.sum(), x)[0]
    torch.testing.assert_close(grad, want_grad, rtol=2e-6, atol=2e-6)
    # A GPU's instructions are approximate.
    assert abs(grad[2].item() + 1.0) <= (2e-7 if device.type == "cuda" else 0.0)


def test_half_precision_does_not_overflow(device):
    mu = torch.zeros(4, device=device, dtype=torch.float16)
    kl = gaussian_kl(mu, torch.full_like(mu, 12.0), reduction="none")
    want = 0.5 * (torch.tensor(12.0).double().exp() - 13)
    torch.testing.assert_close(kl.double().cpu(), want.expand(4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_inf_flow_through(device, kind):
    inf, nan = float("inf"), float("nan")
    mu = torch.tensor([nan, inf, -inf, 0.5, 0.5, 0.5, 0.5, 0.5], device=device)
    x = torch.tensor([0.5, 0.5, 0.5, nan, inf, -inf, 0.0, -1.0], device=device)
    key = noise.key(0, device=device)
    eps = noise.normal(key, 8)
    z, kl = gaussian_latent(mu, **{kind: x}, key=key, reduction="none")
    want_z, want_kl = composition(mu, x, eps, kind, "none")
    if kind == "rho":  # logaddexp(-inf, 0) and log of it
        want_z[5], want_kl[5] = mu[5], inf
    torch.testing.assert_close(z, want_z, equal_nan=True, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl, want_kl, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_nan_scale_passes_a_clamp(device):
    mu = torch.zeros(3, device=device)
    x = torch.tensor([float("nan"), float("inf"), -float("inf")], device=device, requires_grad=True)
    z, kl = gaussian_latent(
        mu, x, clamp=(-1.0, 1.0), key=noise.key(0, device=device), reduction="none"
    )
    assert torch.isnan(z[0])
    assert torch.isnan(kl[0])
    want = 0.5 * (torch.tensor([1.0, -1.0]).exp() - 1 - torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(kl[1:].detach().cpu(), want)
    grad = torch.autograd.grad(kl.sum() + z.sum(), x)[0]
    assert torch.isnan(grad[0])
    assert grad[1:].tolist() == [0.0, 0.0]


def test_empty(device):
    for shape, reduction, want in (
        ((0,), "sum", 0.0), ((0, 3), "mean", None), ((0, 3), "batchmean", None),
        ((3, 0), "batchmean", 0.0), ((3, 0), "sum", 0.0),
    ):  # fmt: skip
        mu = torch.zeros(shape, device=device, requires_grad=True)
        z, kl = gaussian_latent(mu, torch.zeros_like(mu), reduction=reduction)
        assert z.shape == shape
        assert torch.isnan(kl) if want is None else kl.item() == want
        (z.sum() + kl).backward()
        assert mu.grad.shape == shape
    mu = torch.zeros(3, 0, device=device)
    assert gaussian_kl(mu, mu, reduction="sample").tolist() == [0.0, 0.0, 0.0]
    assert gaussian_kl(mu, mu, reduction="none").shape == (3, 0)


def test_zero_dim_and_one_element(device):
    for shape in ((), (1,), (1, 1, 1)):
        for reduction in REDUCTIONS:
            check(*parameters("logvar", shape, torch.float32, device), "logvar", reduction)


def test_parts_equal_the_whole(device):
    mu, x = parameters("logvar", (31, 33), torch.float32, device)
    key = noise.key(4, device=device)
    z, kl, eps = gaussian_latent(mu, x, key=key, return_eps=True)
    assert torch.equal(gaussian_rsample(mu, x, key=key), z)
    assert torch.equal(gaussian_kl(mu, x), kl)
    assert torch.equal(eps, noise.normal(key, (31, 33)))
    assert not eps.requires_grad
    z2, eps2 = gaussian_rsample(mu, x, key=key, return_eps=True)
    assert torch.equal(z2, z)
    assert torch.equal(eps2, eps)


def test_given_noise(device):
    mu, x = parameters("rho", (5, 7), torch.float32, device)
    eps = torch.randn(5, 7, device=device, requires_grad=True)
    z, kl = gaussian_latent(mu, rho=x, eps=eps)
    want_z, want_kl = composition(mu, x, eps, "rho")
    torch.testing.assert_close(z, want_z)
    torch.testing.assert_close(kl, want_kl)
    cotangent = torch.randn_like(z)
    got = torch.autograd.grad((z, kl), (mu, x, eps), (cotangent, kl))
    want = torch.autograd.grad((want_z, want_kl), (mu, x, eps), (cotangent, kl))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


def test_a_number_as_scale(device):
    mu = torch.randn(3, 5, device=device)
    key = noise.key(1, device=device)
    z, kl = gaussian_latent(mu, std=2, key=key, reduction="none")
    torch.testing.assert_close(z, mu + 2 * noise.normal(key, (3, 5)))
    torch.testing.assert_close(kl, 0.5 * (mu**2 + 4 - 1 - 2 * torch.tensor(2.0).log().item()))


@pytest.mark.parametrize("low", LOW_PRECISION)
def test_mixed_dtypes_promote(device, low):
    mu, x = parameters("logvar", (4, 6), torch.float32, device)
    with torch.no_grad():
        x.copy_(x.to(low))
    key = noise.key(2, device=device)
    small = x.detach().to(low).requires_grad_()
    z, kl = gaussian_latent(mu, small, key=key)
    want_z, want_kl = gaussian_latent(mu, x, key=key)
    assert z.dtype == torch.float32
    assert torch.equal(z, want_z)
    assert torch.equal(kl, want_kl)
    (z.sum() + kl).backward()
    (want_z.sum() + want_kl).backward()
    assert small.grad.dtype == low
    assert torch.equal(small.grad, x.grad.to(low))


def test_same_key_same_bits_another_key_another_sample(device):
    mu, x = parameters("logvar", (64, 65), torch.float32, device)
    runs = []
    for seed in (1, 1, 2):
        z, kl = gaussian_latent(mu, x, key=noise.key(seed, device=device))
        runs.append((z, kl, *torch.autograd.grad(z.square().sum() + kl, (mu, x))))
    for a, b in zip(runs[0], runs[1], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(runs[0][0], runs[2][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backends_draw_one_stream(device, dtype):
    mu, x = parameters("logvar", (33, 41), dtype, device)
    key = noise.key(77, (1 << 32) - 5, device=device)
    z = gaussian_rsample(mu, x, key=key)
    with fused_reparam.backend("reference"):
        want = gaussian_rsample(mu, x, key=key)
    torch.testing.assert_close(z, want, atol=2e-5 if dtype == torch.float32 else 0.04, rtol=0)
