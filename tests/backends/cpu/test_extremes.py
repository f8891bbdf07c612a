"""The native backend's latents of extreme numbers, in every form that this machine runs."""

import math

import pytest
import torch

from fused_reparam.backends import cpu
from tests.helpers import gaussian_calls as gaussian
from tests.helpers.cpu_truth import DTYPES, INF, KINDS, compute_dtype, formulas, nans, needs_native

pytestmark = needs_native


def one_element(kind, x, dtype=torch.float32, loc=0.5, gz=1.0, gk=1.0, low=-INF, high=INF):
    def full(value):
        return torch.full((40,), value, dtype=dtype)

    real = compute_dtype(dtype)
    z, kl, gl, gs = (nans(40, dtype=d) for d in (dtype, real, dtype, dtype))
    eps = full(0.25)
    options = KINDS.index(kind), low, high, 1.0, True
    gaussian.forward(cpu, full(loc), full(x), None, eps, *options, z, kl)
    to_kl = torch.full((40,), gk, dtype=real)
    gaussian.backward(cpu, full(gz), to_kl, full(loc), full(x), None, eps, *options, gl, gs)
    for t in (z, kl, gl, gs):
        assert torch.equal(t.nan_to_num(nan=7e7), t[:1].nan_to_num(nan=7e7).expand(40))
    return [t[0].item() for t in (z, kl, gl, gs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "x", [-1e4, -800, -200, -110, -104, -95, -80, -30, -21, -19, -10, -9.01, -8.99, -1, -1e-3, 0.0,
          1e-3, 1, 9, 20, 88, 95, 110, 200]
)  # fmt: skip
@pytest.mark.usefixtures("isa")
def test_extreme_rho(dtype, x):
    z, kl, _, gs = one_element("rho", x, dtype)
    t = torch.tensor(x, dtype=torch.float64)
    s, log_s2, gate, dkl = (v.item() for v in formulas(t, "rho"))
    accuracy = 1e-6 if dtype == torch.float32 else 1e-14
    expected = 0.5 * (0.25 + s * s - 1 - log_s2)
    assert abs(kl - expected) <= accuracy * max(1, 0.25 + s * s + abs(log_s2))
    assert abs(z - (0.5 + 0.25 * s)) <= accuracy * (0.5 + s)
    assert abs(gs - (0.25 * gate + dkl)) <= accuracy * (1 + abs(dkl))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("x", [math.nan, INF, -INF, 0.0, -0.5, 60000.0])
@pytest.mark.usefixtures("isa")
def test_numbers_flow_as_in_pytorch(dtype, kind, x):
    real = compute_dtype(dtype)
    t = torch.tensor(x, dtype=dtype).to(real)
    if kind == "rho":
        if x == -INF:
            return  # log softplus(-inf) = -inf here; the plain formula gives the same KL
        s = torch.log1p(torch.exp(-t.abs())) + t.clamp(min=0)
        log_s2 = 2 * torch.where(t < -30, t, s.log())
    else:
        s = {"logvar": (t / 2).exp(), "log_std": t.exp(), "std": t, "var": t.sqrt()}[kind]
        log_s2 = {"logvar": t, "log_std": 2 * t, "std": 2 * t.log(), "var": t.log()}[kind]
    z, kl, _, gs = one_element(kind, x, dtype)
    expected = 0.5 * (0.25 + s * s - 1 - log_s2).item()
    assert (math.isnan(kl) and math.isnan(expected)) or kl == pytest.approx(expected, rel=2e-6)
    expected = (0.5 + 0.25 * s).to(dtype).item()
    assert (math.isnan(z) and math.isnan(expected)) or z == pytest.approx(expected, rel=1e-2)
    if math.isnan(x):
        assert math.isnan(gs)


@pytest.mark.parametrize("kind", ["logvar", "log_std"])
@pytest.mark.usefixtures("isa")
def test_nan_passes_the_clamp(kind):
    z, kl, gl, gs = one_element(kind, math.nan, low=-1.0, high=1.0)
    assert all(math.isnan(v) for v in (z, kl, gs))
    assert gl == 1.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, INF])
@pytest.mark.usefixtures("isa")
def test_odd_locations(kind, value):
    z, kl, gl, gs = one_element(kind, 1.0, loc=value)
    assert math.isfinite(gs)
    for v in (z, kl, gl):
        assert math.isnan(v) if math.isnan(value) else v == INF


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.usefixtures("isa")
def test_full_range_of_log_and_exp(dtype):
    info = torch.finfo(dtype)
    x = torch.logspace(
        math.log10(info.tiny), math.log10(info.max) * 0.99, 5000, dtype=torch.float64
    )
    denormal = torch.tensor([info.tiny * 2**-10, info.tiny * 0.5], dtype=torch.float64)
    x = torch.cat([x, denormal]).to(dtype)
    kl, zero, n = nans(x.numel(), dtype=dtype), torch.zeros_like(x), x.numel()
    gaussian.forward(cpu, zero, x, None, None, 3, -INF, INF, 1.0, True, None, kl)
    expected = 0.5 * (x.double() - 1 - x.double().log())
    eps = 1e-6 if dtype == torch.float32 else 1e-15
    assert ((kl.double() - expected).abs() <= eps * (1 + x.double() + x.double().log().abs())).all()
    edge = math.log(info.max)
    y = torch.linspace(-edge, edge * 0.999, n, dtype=torch.float64).to(dtype)
    z = nans(n, dtype=dtype)
    gaussian.forward(cpu, zero, y, None, torch.ones_like(y), 1, -INF, INF, 1.0, True, z, None)
    relative = (z.double() / y.double().exp() - 1).abs()
    assert relative.max() <= (2.5e-7 if dtype == torch.float32 else 5e-16)
