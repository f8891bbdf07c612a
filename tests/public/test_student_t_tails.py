"""Student's t of few degrees of freedom: as much of its tail as the dtype holds."""

import math

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from fused_reparam.rng import bases as streams

KEY = noise.key(77, 5)
N = 200_000


def exact(df, n):
    """float32's uniform numbers, the rest in float64."""
    two = streams.uniform(KEY, -(-n // 2), torch.float32)
    v, upper = two.v.double().reshape(-1)[: 2 * n], two.upper.reshape(-1)[: 2 * n]
    u = streams.Uniform(v[0::2], upper[0::2])
    t = -2.0 / df * u.log()
    log_radius = 0.5 * (torch.log(torch.expm1(t.clamp(max=600.0))) + (t - 600.0).clamp(min=0.0))
    cosine = torch.cos(2.0 * torch.pi * v[1::2])
    log_radius = log_radius + 0.5 * torch.tensor(df).double().log()
    return log_radius + cosine.abs().log(), cosine.sign(), log_radius


@pytest.mark.parametrize("df", [0.05, 0.1, 0.3, 1.0, 4.0])
def test_only_what_exceeds_float32_is_infinite(df, target):
    n = N if target[0] != "triton" else 4_000
    zero, one = torch.zeros(n, device=target[1]), torch.ones(n, device=target[1])
    z = fr.loc_scale_rsample(zero, one, "student_t", df=df, key=KEY.to(target[1])).cpu().double()
    log_size, sign, log_radius = exact(df, n)
    limit = torch.tensor(torch.finfo(torch.float32).max).double().log()
    near = (log_size - limit).abs() < 1e-3  # a rounding decides
    assert torch.equal(z.isinf() | near, (log_size > limit) | near)
    inside = log_size < limit - 1e-3
    want = sign * torch.exp(log_size)
    # ln u comes with 3e-7 of itself, which the power magnifies.
    tolerance = 4e-6 + 2e-6 * log_size.abs() + 6e-7 * 23 / df
    error = (z - want).abs()
    # The cosine is good to an absolute error, which the radius multiplies.
    allowed = torch.exp(log_radius).clamp(min=1.0) * tolerance
    assert (error <= allowed)[inside].all()


def test_the_share_of_infinities(backend):
    """With df = 0.1, 0.012 % of draws exceed float32 (1.17 % did when the power overflowed)."""
    n = 1_000_000
    z = fr.loc_scale_rsample(torch.zeros(n), torch.ones(n), "student_t", df=0.1, key=KEY)
    share = z.isinf().double().mean().item()
    assert 0.00008 < share < 0.00018


def test_gradient_of_the_scale_is_the_noise(backend):
    scale = torch.ones(N, requires_grad=True)
    z = fr.loc_scale_rsample(torch.zeros(N), scale, "student_t", df=0.1, key=KEY)
    (grad,) = torch.autograd.grad(z.sum(), scale)
    assert torch.equal(grad, z.detach())


@pytest.mark.parametrize("shape", [(), (37, 1), (37, 20)], ids=str)
def test_gradient_of_df(shape, target):
    """That of the formula in float64 of the same uniform numbers, from heavy tails on."""
    device = target[1]
    scale = torch.linspace(0.5, 2.0, 20)
    exponent = torch.linspace(-0.5, 3.0, 37).view(37, 1) + torch.zeros(37, 20)
    df = (10.0 ** exponent[tuple(slice(None, n) for n in shape)]) if shape else torch.tensor(2.5)
    leaves = [t.to(device).requires_grad_() for t in (torch.zeros(37, 20), scale, df)]
    z = fr.loc_scale_rsample(
        leaves[0], leaves[1], "student_t", df=leaves[2], key=KEY.to(device), sample_shape=2
    )
    got = torch.autograd.grad(z.sum(), leaves)

    two = streams.uniform(KEY, 740, torch.float32)
    v, upper = two.v.double().reshape(2, 37, 20, 2), two.upper.reshape(2, 37, 20, 2)
    log_u = streams.Uniform(v[..., 0], upper[..., 0]).log()
    exact = [t.detach().cpu().double().requires_grad_() for t in leaves]
    t = -2.0 / exact[2] * log_u
    noise = torch.sqrt(exact[2] * torch.expm1(t)) * torch.cos(2.0 * torch.pi * v[..., 1])
    want = torch.autograd.grad((exact[0] + exact[1] * noise).sum(), exact)
    # Each addend comes with an error of itself, or of 1, which the power magnifies.
    size, power = noise.detach().abs().clamp(min=1.0), (1.0 + t.detach()) ** 2
    of_df = size * exact[1].detach() * power / exact[2].detach()
    sizes = torch.ones(2, 37, 20), size, of_df
    for g, w, addends in zip(got, want, sizes, strict=True):
        allowed = 4e-6 * addends.sum(0).double().sum_to_size(w.shape)
        assert ((g.cpu().double() - w).abs() <= allowed).all()


def test_df_that_is_not_positive(target):
    df = torch.tensor([0.0, -1.0, -math.inf, math.nan, 2.0], device=target[1])
    z = fr.loc_scale_rsample(torch.zeros(3, 5, device=target[1]), 1.0, "student_t", df=df)
    assert torch.equal(z.isnan().cpu(), torch.tensor([[True] * 4 + [False]] * 3))


def test_no_gradient_where_none_came(target):
    """However large the slope in df is there."""
    df = torch.full((4_000,), 0.02, device=target[1], requires_grad=True)
    zero, one = torch.zeros(4_000, device=target[1]), torch.ones(4_000, device=target[1])
    z = fr.loc_scale_rsample(zero, one, "student_t", df=df, key=KEY.to(target[1]))
    assert z.isinf().any()
    (grad,) = torch.autograd.grad(z, df, torch.zeros_like(z))
    assert torch.equal(grad, torch.zeros_like(grad))
