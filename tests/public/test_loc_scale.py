"""Location-scale families and the draws that transform one: formulas, KLs, gradients, modules."""

import pytest
import torch
from torch.distributions import (
    Cauchy,
    Gumbel,
    Kumaraswamy,
    Laplace,
    LogNormal,
    Normal,
    Uniform,
    kl_divergence,
)

from fused_reparam import (
    FusedRelaxedBernoulli,
    kumaraswamy_rsample,
    loc_scale_latent,
    loc_scale_rsample,
    log_normal_latent,
    log_normal_rsample,
    noise,
    relaxed_bernoulli,
)

KEY = noise.key(2)
BASES = ("normal", "laplace", "logistic", "gumbel", "uniform", "cauchy", "student_t")
CLOSED = {"normal": Normal, "laplace": Laplace, "gumbel": Gumbel, "cauchy": Cauchy}


def parameters(dtype=torch.float64):
    loc = torch.randn(6, 5, dtype=dtype).requires_grad_()
    return loc, (torch.rand(6, 5, dtype=dtype) + 0.3).requires_grad_()


def base_noise(base, shape, number=0.0, dtype=torch.float64):
    return torch.ops.fused_reparam.base_noise(KEY, shape, [], dtype, base, number)


@pytest.mark.parametrize("base", BASES)
def test_draws_are_loc_plus_scale_times_noise(base):
    loc, scale = parameters()
    df = 4.0 if base == "student_t" else None
    z = loc_scale_rsample(loc, scale, base, df=df, key=KEY)
    eps = base_noise(base, (6, 5), df or 0.0)
    torch.testing.assert_close(z, loc + scale * eps)
    weight = torch.randn_like(z)
    to_loc, to_scale = torch.autograd.grad((weight * z).sum(), (loc, scale))
    torch.testing.assert_close(to_loc, weight)
    torch.testing.assert_close(to_scale, weight * eps)


@pytest.mark.parametrize("base", CLOSED)
@pytest.mark.parametrize("reduction", ["none", "sample", "batchmean"])
def test_kl_to_the_standard_member(base, reduction):
    loc, scale = parameters()
    z, kl = loc_scale_latent(loc, scale, base, reduction=reduction, key=KEY)
    torch.testing.assert_close(z, loc_scale_rsample(loc, scale, base, key=KEY))
    member = CLOSED[base]
    if base == "cauchy":  # torch has no formula for it
        want = torch.log(((1 + scale) ** 2 + loc**2) / (4 * scale))
    else:
        want = kl_divergence(member(loc, scale), member(*torch.tensor([0.0, 1.0]).double()))
    want = {"none": want, "sample": want.sum(1), "batchmean": want.sum() / 6}[reduction]
    torch.testing.assert_close(kl, want)
    weight = torch.randn_like(kl)
    found = torch.autograd.grad((weight * kl).sum() + z.sum(), (loc, scale))
    eps = base_noise(base, (6, 5))
    wanted = torch.autograd.grad((weight * want).sum() + (loc + scale * eps).sum(), (loc, scale))
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize("base", ["cauchy", "gumbel", "laplace"])
def test_kl_is_the_mean_log_ratio(base):
    """The closed form against 200,000 draws of the package's own."""
    n = 200_000
    loc, scale = torch.tensor(0.4).double(), torch.tensor(0.7).double()
    z = loc_scale_rsample(loc.expand(n).contiguous(), scale.expand(n).contiguous(), base, key=KEY)
    member = CLOSED[base]
    standard = member(torch.zeros(()).double(), torch.ones(()).double())
    ratio = member(loc, scale).log_prob(z) - standard.log_prob(z)
    _, kl = loc_scale_latent(loc, scale, base, reduction="sum")
    assert abs(ratio.mean() - kl) < 4 * ratio.std() / n**0.5


def test_kl_of_a_uniform():
    loc = torch.tensor([0.0, 0.5, -0.25, 0.6], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.0, 0.5, 0.25, 0.5], dtype=torch.float64, requires_grad=True)
    _, kl = loc_scale_latent(loc, scale, "uniform", reduction="none")
    inside = Uniform(loc - scale, loc + scale)
    want = kl_divergence(inside, Uniform(-torch.ones(4).double(), torch.ones(4).double()))
    torch.testing.assert_close(kl, want)
    assert kl[3] == torch.inf
    assert torch.autograd.grad(kl[:3].sum(), scale)[0].tolist() == [-1.0, -2.0, -4.0, 0.0]


@pytest.mark.parametrize("base", CLOSED)
def test_nan_in_gives_nan_out(device, base):
    loc = torch.tensor([torch.nan, 0.1, 0.1], device=device, requires_grad=True)
    scale = torch.tensor([0.5, torch.nan, 0.5], device=device, requires_grad=True)
    z, kl = loc_scale_latent(loc, scale, base, reduction="none", key=KEY)
    assert z.isnan().tolist() == kl.isnan().tolist() == [True, True, False]
    to_loc, to_scale = torch.autograd.grad(kl.sum(), (loc, scale))
    assert (to_loc.isnan() | to_scale.isnan()).tolist() == [True, True, False]
    if base == "uniform":
        assert to_loc.isnan().tolist() == to_scale.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("base", CLOSED)
def test_kl_dtype_and_extremes(base):
    loc = torch.zeros(4, 2, dtype=torch.float16)
    z, kl = loc_scale_latent(loc, 1.0, base)
    assert (z.dtype, kl.dtype) == (torch.float16, torch.float32)
    assert abs(kl.item()) < 1e-6
    assert loc_scale_latent(loc.double(), 1.0, base)[1].dtype == torch.float64
    assert loc_scale_latent(loc[:0], 1.0, base, reduction="sum")[1].item() == 0.0
    z, kl = loc_scale_latent(torch.zeros(()), torch.ones(3), base, reduction="sample")
    assert (z.shape, kl.shape) == ((3,), (3,))


def test_large_locations_of_a_gumbel():
    _, kl = loc_scale_latent(torch.tensor([50.0, -20.0]), 1.0, "gumbel", reduction="none")
    member, standard = Gumbel(torch.tensor([50.0, -20.0]).double(), 1.0), Gumbel(0.0, 1.0)
    torch.testing.assert_close(kl.double(), kl_divergence(member, standard), rtol=1e-6, atol=0)


def test_log_normal():
    loc, std = parameters()
    z, kl = log_normal_latent(loc, std=std, reduction="sample", key=KEY)
    eps = noise.normal(KEY, (6, 5), dtype=torch.float64)
    want = torch.exp(loc + std * eps)
    torch.testing.assert_close(z, want)
    torch.testing.assert_close(log_normal_rsample(loc, std=std, key=KEY), want)
    standard = LogNormal(torch.zeros(()).double(), torch.ones(()).double())
    of_kl = kl_divergence(LogNormal(loc, std), standard).sum(1)
    torch.testing.assert_close(kl, of_kl)
    found = torch.autograd.grad(z.sum() + kl.sum(), (loc, std))
    wanted = torch.autograd.grad(want.sum() + of_kl.sum(), (loc, std))
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)
    clamped = log_normal_rsample(loc, log_std=3.0, clamp=(-1.0, 0.0), key=KEY)
    torch.testing.assert_close(clamped, torch.exp(loc + eps))


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_relaxed_bernoulli(tau):
    logits, _ = parameters()
    z = relaxed_bernoulli(logits, tau, key=KEY)
    hard = relaxed_bernoulli(logits, tau, hard=True, key=KEY)
    want = torch.sigmoid((logits + base_noise("logistic", (6, 5))) / tau)
    torch.testing.assert_close(z, want)
    assert torch.equal(hard, (want > 0.5).double())
    weight = torch.randn_like(z)
    for ours in (z, hard):
        got, right = (torch.autograd.grad((weight * t).sum(), logits, retain_graph=True)[0]
                      for t in (ours, want))  # fmt: skip
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize("tau", [1e-300, 1e-38, 1e30])
def test_relaxed_bernoulli_at_any_temperature(tau):
    logits = torch.tensor([-3e38, -20.0, 0.0, 20.0, 3e38], requires_grad=True)
    for hard in (False, True):
        for eps in (None, torch.zeros(5)):
            z = relaxed_bernoulli(logits, tau, hard, eps=eps)
            assert ((z >= 0) & (z <= 1)).all()
            assert torch.autograd.grad(z.sum(), logits)[0].isnan().sum() == 0


def test_relaxed_bernoulli_module():
    logits = torch.randn(7, 3, requires_grad=True)
    gates = FusedRelaxedBernoulli(0.5)
    assert torch.equal(gates(logits, key=KEY), relaxed_bernoulli(logits, 0.5, key=KEY))
    assert not torch.equal(gates(logits), gates(logits))
    gates.tau = 0.25
    assert torch.equal(gates(logits, key=KEY), relaxed_bernoulli(logits, 0.25, key=KEY))
    assert repr(gates) == "FusedRelaxedBernoulli(tau=0.25)"
    gates.eval()
    torch.testing.assert_close(gates(logits), torch.sigmoid(logits / 0.25))
    hard = FusedRelaxedBernoulli(0.25, hard=True).eval()(logits)
    assert torch.equal(hard, (logits > 0).float())
    soft = torch.sigmoid(logits / 0.25)
    torch.testing.assert_close(
        torch.autograd.grad(hard.sum(), logits)[0], torch.autograd.grad(soft.sum(), logits)[0]
    )


def test_kumaraswamy():
    a, b = (t.detach().abs().add(0.2).requires_grad_() for t in parameters())
    z = kumaraswamy_rsample(a, b, key=KEY)
    want = (1 - torch.exp(-base_noise("exponential", (6, 5)) / b)) ** (1 / a)
    torch.testing.assert_close(z, want)
    found = torch.autograd.grad(z.sum(), (a, b))
    wanted = torch.autograd.grad(want.sum(), (a, b))
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)
    many = kumaraswamy_rsample(torch.full((100_000,), 2.0), 5.0, key=KEY)
    member = Kumaraswamy(2.0, 5.0)
    assert abs(many.mean() - member.mean) < 4 * (member.variance / 100_000).sqrt()
    assert ((many >= 0) & (many <= 1)).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda loc: loc_scale_rsample(loc, 1.0, "laplace"),
        lambda loc: loc_scale_latent(loc, 1.0, "cauchy")[0],
        lambda loc: log_normal_rsample(loc, std=1.0),
        relaxed_bernoulli,
        lambda loc: kumaraswamy_rsample(loc.exp(), 1.0),
    ],
)
def test_the_generator_decides(draw):
    loc = torch.zeros(9)
    torch.manual_seed(4)
    first, second = draw(loc), draw(loc)
    torch.manual_seed(4)
    assert torch.equal(draw(loc), first)
    assert not torch.equal(first, second)
