"""The Triton backend against formulas in float64 (`triton_truth`) and the golden noise stream.

Without a GPU the kernels run in Triton's interpreter on CPU tensors; with one, on the GPU.
"""

from __future__ import annotations

import math

import pytest
import torch

from fused_reparam import gaussian_kl
from fused_reparam.backends import dispatch
from fused_reparam.backends import triton as backend
from tests.helpers import gaussian_calls as gaussian
from tests.helpers import golden
from tests.helpers.loops import where
from tests.helpers.triton_truth import (
    DEVICE,
    DTYPES,
    INF,
    KINDS,
    check,
    gathered,
    guarded,
    latent64,
    make_key,
    needs_backend,
    noise64,
    rows_of,
    run_and_check,
    scale_values,
    unit_roundoff,
    untouched,
    values,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


# --- the noise ------------------------------------------------------------------------------------


@needs_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_golden_noise(dtype):
    for case in golden.CASES:
        with where(case["seed"]):
            want = torch.tensor(
                case["normal_float64" if dtype == torch.float64 else "normal_float32"],
                dtype=torch.float64,
            )
            out, buffer = guarded(want.numel(), dtype)
            backend.normal(make_key(case["seed"], case["offset"]), out)
            tolerance = 1e-13 if dtype == torch.float64 else 4e-6
            rounding = unit_roundoff(dtype) * want.abs() * 1.01 if dtype.itemsize == 2 else 0 * want
            check("normal", out, want, tolerance + rounding)
            assert untouched(buffer, want.numel())


@needs_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_of_any_length(dtype):
    for n in [1, 3, 7, 8, 9, 1023, 1024, 2049]:
        with where(n):
            seed, offset = 2**63 + 11, 2**64 - 5  # a carry through both words, and past 64 bits
            out, buffer = guarded(n, dtype)
            backend.normal(make_key(seed, offset), out)
            want = noise64(seed, offset, n, dtype)
            rounding = unit_roundoff(dtype) * want.abs() * 1.01 if dtype.itemsize == 2 else 0 * want
            check("normal", out, want, (1e-13 if dtype == torch.float64 else 4e-6) + rounding)
            assert untouched(buffer, n)


@needs_backend
def test_noise_is_one_stream_in_every_16_bit_type():
    out = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        out[dtype] = torch.full((999,), math.nan, dtype=dtype, device=DEVICE)
        backend.normal(make_key(3), out[dtype])
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(out[dtype], out[torch.float32].to(dtype))


# --- sample, KL and gradients ---------------------------------------------------------------------


@needs_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_dtype(kind, dtype):
    n = 1283  # prime: the last tile is cut inside a group
    loc = values(n, dtype, 1).to(DEVICE)
    run_and_check(kind, dtype, loc, scale_values(kind, n, dtype).to(DEVICE), 1)


@needs_backend
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 17, 127, 1016, 1024, 1032, 2048, 4097, 16385])
def test_lengths(n):
    for dtype in (torch.float32, torch.bfloat16) if n < 4096 else (torch.float32,):
        run_and_check(
            "logvar",
            dtype,
            values(n, dtype, 1).to(DEVICE),
            scale_values("logvar", n, dtype).to(DEVICE),
            1,
        )


@needs_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "segments"),
    [
        (7, 7), (1029, 1029), (2048, 2048),  # element-wise
        (128 * 20, 128), (60, 12), (96, 3), (64 * 32, 64),  # segments of whole groups
        (33 * 7, 33), (13 * 11, 11), (1001, 77), (15, 5), (3 * 2049, 3),  # across blocks
    ],
)  # fmt: skip
def test_segments(n, segments, dtype):
    loc = values(n, dtype, 1).to(DEVICE)
    run_and_check("logvar", dtype, loc, scale_values("logvar", n, dtype).to(DEVICE), segments)


@needs_backend
@pytest.mark.parametrize(
    ("n", "segments", "dtype"),
    [
        (2 * 4129, 2, torch.float32),  # a boundary inside a noise block
        (2 * 5120, 2, torch.float32),  # segments of whole tiles
        (3 * 2054, 3, torch.float64),
        (2 * 8208, 2, torch.bfloat16),  # a boundary inside a tile, on a group's edge
    ],
    ids=str,
)
def test_segments_longer_than_a_tile(n, segments, dtype):
    loc = values(n, dtype, 1).to(DEVICE)
    run_and_check("logvar", dtype, loc, scale_values("logvar", n, dtype).to(DEVICE), segments)


@needs_backend
@pytest.mark.parametrize("kind", ["logvar", "log_std"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_clamp(kind, dtype):
    n = 515
    scale = (scale_values(kind, n, dtype) * 4).to(dtype)
    scale[:4] = torch.tensor([-2.5, 1.5, math.nan, -2.5])  # on the bounds: gradient factor 1
    loc = values(n, dtype, 1).to(DEVICE)
    run_and_check(kind, dtype, loc, scale.to(DEVICE), n, clamp=(-2.5, 1.5))


@needs_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("loc_layout", "scale_layout", "grad_layout"),
    [
        ("half", "half", "contiguous"),
        ("contiguous", "scalar", "scalar"),
        ("contiguous", "one_row", "half"),
        ("one_column", "contiguous", "one_row"),
        ("transposed", "half", "one_column"),
    ],
)
def test_rows(loc_layout, scale_layout, grad_layout, dtype):
    for rows, columns in [(1, 24), (5, 1), (3, 7), (6, 24), (2, 1200)]:
        with where(rows, columns):
            n = rows * columns
            loc = rows_of(values(n, dtype, 1), rows, loc_layout)
            scale = rows_of(scale_values("logvar", n, dtype), rows, scale_layout)
            grad_z = rows_of(values(n, dtype, 3), rows, grad_layout)
            segments = {"half": rows, "scalar": n, "one_row": 1}.get(scale_layout, rows)
            run_and_check(
                "logvar",
                dtype,
                loc,
                scale,
                segments,
                dense=False,
                grad_z=grad_z,
                strided_grads=True,
            )


@needs_backend
def test_rows_of_float64_and_given_eps():
    n, rows = 15 * 18, 15
    loc = rows_of(values(n, torch.float64, 1), rows, "half")
    scale = rows_of(scale_values("rho", n, torch.float64), rows, "transposed")
    eps = rows_of(values(n, torch.float64, 2), rows, "one_row")
    run_and_check("rho", torch.float64, loc, scale, rows, dense=False, with_eps=eps)


@needs_backend
def test_kl_gradient_with_strides():
    """An element-wise KL whose gradient is expanded, as `.sum().backward()` makes it."""
    rows, columns = 6, 20
    loc = values(rows * columns, torch.float32, 1).view(rows, columns).to(DEVICE).requires_grad_()
    for strides in ("scalar", "one_column", "transposed"):
        grad_kl = rows_of(values(rows * columns, torch.float32, 4), rows, strides)
        with dispatch.backend("triton"):
            kl = gaussian_kl(loc, logvar=loc.detach(), reduction="none")
        assert torch.equal(*torch.autograd.grad(kl, loc, grad_kl), grad_kl * loc)


@needs_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("with_z", "with_kl", "grads"),
    [
        (True, False, (True, True)),
        (False, True, (True, True)),
        (True, True, (True, False)),
        (True, True, (False, True)),
        (False, True, (False, True)),
        (True, False, (True, False)),
    ],
)
def test_parts(with_z, with_kl, grads, dtype):
    n = 300
    loc = values(n, dtype, 1).to(DEVICE)
    scale = scale_values("log_std", n, dtype).to(DEVICE)
    for segments in (1, 12, n) if with_kl else (n,):
        run_and_check(
            "log_std", dtype, loc, scale, segments, with_z=with_z, with_kl=with_kl, grads=grads
        )


@needs_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shift", [1, 4])
def test_pointers_off_alignment(shift, dtype):
    n = 1030
    buffer = values(n + 8, dtype, 1).to(DEVICE)
    scale = scale_values("logvar", n + 8, dtype).to(DEVICE)
    run_and_check(
        "logvar", dtype, buffer[shift : shift + n], scale[shift : shift + n], 1, shift=shift
    )


@needs_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_given_eps_is_as_good_as_plain_pytorch(kind, dtype):
    n = 1000
    loc, eps, gz = (values(n, dtype, seed).to(DEVICE) for seed in (1, 2, 3))
    scale = scale_values(kind, n, dtype).to(DEVICE)
    run_and_check(kind, dtype, loc, scale, 10, with_eps=eps, grad_z=gz)
    z = torch.full_like(loc, math.nan)
    gaussian.forward(
        backend, loc, scale, None, eps, KINDS.index(kind), -INF, INF, 1.0, True, z, None
    )
    plain = {
        "logvar": lambda x: torch.exp(0.5 * x),
        "log_std": torch.exp,
        "std": lambda x: x,
        "var": torch.sqrt,
        "rho": lambda x: torch.nn.functional.softplus(x, threshold=1e9),
    }[kind]
    want = gathered(loc) + latent64(kind, gathered(scale))[0] * gathered(eps)
    plain_z = gathered(loc + plain(scale) * eps)
    allowed = 2 * (plain_z - want).abs().max()
    if z.is_cuda and dtype == torch.float32:  # whose instructions are approximate
        allowed += 4 * torch.finfo(dtype).eps * want.abs().max()
    assert (gathered(z) - want).abs().max() <= allowed


# --- the edges of the numbers ---------------------------------------------------------------------


@needs_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_rho(dtype):
    scale = torch.tensor(
        [
            -1e4,
            -700.0,
            -110.0,
            -104.0,
            -90.0,
            -87.0,
            -20.0,
            -1e-3,
            0.0,
            1e-3,
            20.0,
            90.0,
            110.0,
            3e4,
        ]
    )
    scale = scale.to(dtype).to(DEVICE)
    loc = values(scale.numel(), dtype, 1).to(DEVICE)
    run_and_check("rho", dtype, loc, scale, scale.numel())


@needs_backend
def test_rho_of_minus_110():
    """sigma underflows; log sigma^2 is -220 and the KL's gradient is -1 all the same."""
    x = torch.tensor([-110.0], device=DEVICE)
    loc, kl, grad = torch.zeros_like(x), torch.full_like(x, math.nan), torch.full_like(x, math.nan)
    gaussian.forward(backend, loc, x, None, None, 4, -INF, INF, 1.0, True, None, kl)
    gaussian.backward(
        backend, None, torch.ones_like(x), loc, x, None, None, 4, -INF, INF, 1.0, True, None, grad
    )
    assert kl.item() == pytest.approx(109.5, rel=1e-6)
    assert grad.item() == pytest.approx(-1.0, abs=1e-6)


@needs_backend
@pytest.mark.parametrize("kind", ["logvar", "log_std"])
def test_large_exponents(kind):
    scale = torch.tensor([-170.0, -87.0, -44.0, -30.0, -20.0, 20.0, 30.0, 43.0, 44.0, 44.5])
    scale = (scale if kind == "logvar" else scale / 2).to(DEVICE)
    run_and_check(kind, torch.float32, torch.zeros_like(scale), scale, scale.numel())


@needs_backend
def test_half_precision_logvar_of_12_has_a_finite_kl():
    x = torch.tensor([12.0], dtype=torch.float16, device=DEVICE)
    kl = torch.full((1,), math.nan, device=DEVICE)
    gaussian.forward(backend, torch.zeros_like(x), x, None, None, 0, -INF, INF, 1.0, True, None, kl)
    assert kl.item() == pytest.approx(0.5 * (math.exp(12) - 13), rel=1e-6)


@needs_backend
def test_zero_and_negative_std_and_var():
    """As torch.log gives: infinite KL at 0, NaN below; a zero std samples the mean."""
    x = torch.tensor([0.0, -1.0], device=DEVICE)
    loc = torch.tensor([0.5, 0.5], device=DEVICE)
    eps = torch.tensor([2.0, 2.0], device=DEVICE)
    for kind, below in (("std", -1.5), ("var", math.nan)):
        z, kl = torch.full_like(x, 7.0), torch.full_like(x, 7.0)
        gaussian.forward(backend, loc, x, None, eps, KINDS.index(kind), -INF, INF, 1.0, True, z, kl)
        assert z[0].item() == 0.5
        assert kl[0].item() == INF
        assert z[1].item() == pytest.approx(below, nan_ok=True)
        assert kl[1].isnan()


@needs_backend
@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_flow_through(kind):
    loc = torch.tensor([math.nan, 0.0, 0.0, INF, 1.0, 1.0, 2.0], device=DEVICE)
    scale = torch.tensor([1.0, math.nan, INF, 1.0, -INF, 1.0, 3e38], device=DEVICE)
    eps = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, INF, 0.5], device=DEVICE)
    n = loc.numel()
    z, kl = torch.full((n,), 7.0, device=DEVICE), torch.full((n,), 7.0, device=DEVICE)
    gaussian.forward(backend, loc, scale, None, eps, KINDS.index(kind), -INF, INF, 1.0, True, z, kl)
    sigma, log_square, _, _ = (t.float() for t in latent64(kind, scale.cpu()))
    want = loc.cpu() + sigma * eps.cpu()
    want_kl = 0.5 * (loc.cpu() ** 2 + sigma**2 - 1 - log_square)
    for name, got, right in (("z", z, want), ("kl", kl, want_kl)):
        check(name, got, right.double(), 1e-5 * right.double().abs().nan_to_num(posinf=0.0))
    out = torch.full((n,), 7.0, device=DEVICE)
    gaussian.backward(
        backend,
        torch.ones_like(loc),
        None,
        loc,
        scale,
        None,
        eps,
        KINDS.index(kind),
        -INF,
        INF,
        1.0,
        True,
        None,
        out,
    )
    assert not out[0].isnan()
    assert out[1].isnan() or kind == "std"  # there dz / dstd is eps, whatever std is


@needs_backend
def test_repeatable_bit_for_bit():
    n = 3 * 1031 * 4
    loc, scale = (
        values(n, torch.float32, 1).to(DEVICE),
        scale_values("logvar", n, torch.float32).to(DEVICE),
    )
    runs = []
    for _ in range(2):
        z, kl = torch.full((n,), math.nan, device=DEVICE), torch.full((3,), math.nan, device=DEVICE)
        gaussian.forward(backend, loc, scale, make_key(9), None, 0, -INF, INF, 1.0, True, z, kl)
        runs.append((z, kl))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
