"""What the Triton backend should give, in float64, and inputs to give it: for the tests of it."""

from __future__ import annotations

import math

import pytest
import torch

from fused_reparam.backends import triton as backend
from tests.helpers import gaussian_calls as gaussian

np = pytest.importorskip("numpy")

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
_REASON = backend.unavailable_reason(DEVICE)
needs_backend = pytest.mark.skipif(_REASON is not None, reason=f"triton backend: {_REASON}")
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
KINDS = ["logvar", "log_std", "std", "var", "rho"]
INF = float("inf")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
MASK32 = np.uint64(0xFFFFFFFF)


# --- what the results should be, in float64 -------------------------------------------------------


def signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def make_key(seed: int, offset: int = 0) -> torch.Tensor:
    return torch.tensor([signed(seed), signed(offset)], device=DEVICE).view(torch.uint64)


def philox_words(seed: int, offset: int, blocks: int) -> list[np.ndarray]:
    counter = np.array([(offset + b) % (1 << 64) for b in range(blocks)], dtype=np.uint64)
    c = [counter & MASK32, counter >> np.uint64(32), np.zeros_like(counter), np.zeros_like(counter)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            p1 & MASK32,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            p0 & MASK32,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def noise64(seed: int, offset: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    """The noise stream, each formula evaluated in float64 (u and v rounded as the stream says)."""
    lanes = 2 if dtype == torch.float64 else 4
    words = philox_words(seed, offset, -(-n // lanes))
    if lanes == 2:
        uniform = [
            ((words[i] << np.uint64(32)) | words[i + 1]).astype(np.float64) * 2.0**-64
            for i in (0, 2)
        ]
        pairs = [(np.maximum(uniform[0], 2.0**-64), uniform[1])]
    else:
        uniform = [
            (w.astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33).astype(np.float32)
            for w in words
        ]
        pairs = [(uniform[0].astype(np.float64), uniform[1].astype(np.float64))]
        pairs += [(uniform[2].astype(np.float64), uniform[3].astype(np.float64))]
    out = []
    for u, v in pairs:
        r = np.sqrt(-2.0 * np.log(u))
        out += [r * np.cos(2 * np.pi * v), r * np.sin(2 * np.pi * v)]
    return torch.from_numpy(np.stack(out, axis=1).reshape(-1)[:n])


def latent64(kind: str, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(sigma, log sigma^2, dsigma/dx, dKL/dx) in float64."""
    x = x.double()
    if kind == "logvar":
        sigma = torch.exp(x / 2)
        return sigma, x, sigma / 2, 0.5 * (sigma**2 - 1)
    if kind == "log_std":
        sigma = torch.exp(x)
        return sigma, 2 * x, sigma, sigma**2 - 1
    if kind == "std":
        return x, 2 * torch.log(x), torch.ones_like(x), x - 1 / x
    if kind == "var":
        sigma = torch.sqrt(x)
        return sigma, torch.log(x), 0.5 / sigma, 0.5 * (1 - 1 / x)
    sigma = x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))
    sigmoid = torch.sigmoid(x)
    log_square = 2 * torch.where(x < -600, x, torch.log(sigma))
    ratio = torch.where(x < -600, torch.ones_like(x), sigmoid / sigma)
    return sigma, log_square, sigmoid, sigma * sigmoid - ratio


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def check(name: str, got: torch.Tensor, want: torch.Tensor, tolerance: torch.Tensor) -> None:
    """Within the tolerance where finite, and the same NaN and infinity elsewhere."""
    got, want = got.detach().cpu().double().reshape(-1), want.reshape(-1)
    same = (got == want) | (got.isnan() & want.isnan())
    error = (got - want).abs()
    bad = ~(same | (error <= tolerance.reshape(-1)))
    if bad.any():
        i = int(bad.nonzero()[0])
        pytest.fail(
            f"{name}: {int(bad.sum())} of {bad.numel()} elements are off; element {i} is "
            f"{got[i].item()!r}, expected {want[i].item()!r} "
            f"within {tolerance.reshape(-1)[i].item():.3g}"
        )


# --- inputs ---------------------------------------------------------------------------------------


def scale_values(kind: str, n: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(n, generator=generator, dtype=torch.float64) * 1.5
    if kind in ("std", "var"):
        x = x.abs() + 0.01
    return x.to(dtype)


def values(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)


def guarded(n: int, dtype: torch.dtype, shift: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(an output of n elements full of NaN, the larger buffer it lies in). shift: off alignment."""
    buffer = torch.full((n + 64,), math.nan, dtype=dtype, device=DEVICE)
    return buffer[32 + shift : 32 + shift + n], buffer


def untouched(buffer: torch.Tensor, n: int, shift: int = 0) -> bool:
    around = torch.cat([buffer[: 32 + shift], buffer[32 + shift + n :]])
    return bool(around.isnan().all())


def rows_of(flat: torch.Tensor, rows: int, layout: str) -> torch.Tensor:
    """A [rows, C] tensor with the layout's strides; broadcast layouts repeat part of `flat`."""
    columns = flat.numel() // rows
    full = flat.reshape(rows, columns)
    if layout == "contiguous":
        return full.contiguous().to(DEVICE)
    if layout == "half":  # one half of a chunk along the columns
        return torch.cat([full, full], dim=1).to(DEVICE)[:, columns:]
    if layout == "transposed":
        return full.t().contiguous().to(DEVICE).t()
    if layout == "one_row":
        return full[:1].to(DEVICE).expand(rows, columns)
    if layout == "one_column":
        return full[:, :1].to(DEVICE).expand(rows, columns)
    assert layout == "scalar"
    return full[:1, :1].to(DEVICE).expand(rows, columns)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().double().reshape(-1)


def run_and_check(
    kind: str,
    dtype: torch.dtype,
    loc: torch.Tensor,
    scale: torch.Tensor,
    segments: int,
    *,
    dense: bool = True,
    clamp: tuple[float, float] = (-INF, INF),
    factor: float = 0.75,
    with_eps: torch.Tensor | None = None,
    grad_z: torch.Tensor | None = None,
    with_z: bool = True,
    with_kl: bool = True,
    grads: tuple[bool, bool] = (True, True),
    strided_grads: bool = False,
    shift: int = 0,
) -> None:
    """Forward and backward of one configuration, every element of every output."""
    n = loc.numel()
    seed, offset = 0x123456789ABCDEF, 2**32 - 3
    key = make_key(seed, offset) if with_eps is None and with_z else None
    kl_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    z, z_buffer = guarded(n, dtype, shift)
    kl, kl_buffer = guarded(segments, kl_dtype)
    index = KINDS.index(kind)
    view = (lambda t: t) if dense else (lambda t: t.view(loc.shape))
    gaussian.forward(
        backend,
        loc, scale, key, with_eps, index, *clamp, factor, dense,
        z if with_z else None, kl if with_kl else None,
    )  # fmt: skip

    mean, x = gathered(loc), gathered(scale)
    low, high = (
        torch.tensor(b, dtype=torch.float32).item() if dtype != torch.float64 else b for b in clamp
    )
    inside = ~((x < low) | (x > high))
    x = torch.where(x.isnan(), x, x.clamp(low, high))
    sigma, log_square, slope, kl_slope = latent64(kind, x)
    eps = noise64(seed, offset, n, dtype) if with_eps is None else gathered(with_eps)
    u = unit_roundoff(torch.float32 if dtype != torch.float64 else dtype)
    noise_error = 0.0 if with_eps is not None else (1e-13 if dtype == torch.float64 else 4e-6)
    # sigma's own error: a few roundings, and (for an exponential) its argument's.
    relative = (8 + 2 * x.abs()) * u
    if with_z:
        want = mean + sigma * eps
        tolerance = sigma.abs() * (noise_error + relative * eps.abs()) + 2 * u * want.abs()
        check(
            "z",
            z,
            want,
            tolerance + unit_roundoff(dtype) * 1.01 * want.abs() + torch.finfo(dtype).tiny,
        )
        assert untouched(z_buffer, n, shift)
    if with_kl:
        each = 0.5 * (mean**2 + sigma**2 - 1 - log_square)
        bound = torch.clamp(mean**2 + sigma**2 + log_square.abs(), min=1.0)
        unit = (1e-6 if dtype != torch.float64 else 1e-14) * bound
        if kl_dtype == torch.float32 and dtype != torch.float32:
            unit = 2 * unit
        want = factor * each.reshape(segments, -1).sum(1)
        check("kl", kl, want, abs(factor) * unit.reshape(segments, -1).sum(1))
        assert untouched(kl_buffer, segments)

    # Backward.
    gz = None
    if with_z:
        gz = grad_z if grad_z is not None else rows_or_flat(values(n, dtype, 5), loc, dense)
    gkl = values(segments, kl_dtype, 6).to(DEVICE) if with_kl else None
    outputs: list[torch.Tensor | None] = []
    whole = None
    if strided_grads:  # the two halves of one gradient
        rows, columns = loc.shape
        whole = torch.full((rows, 2 * columns + 1), math.nan, dtype=dtype, device=DEVICE)
        outputs = [whole[:, :columns], whole[:, columns : 2 * columns]]
    else:
        outputs = [view(guarded(n, dtype, shift)[0]) for _ in range(2)]
    outputs = [o if wanted else None for o, wanted in zip(outputs, grads, strict=True)]
    gaussian.backward(
        backend,
        gz, gkl, loc, scale,
        key if gz is not None else None, with_eps if gz is not None else None,
        index, *clamp, factor, dense, outputs[0], outputs[1],
    )  # fmt: skip
    g = torch.zeros(n, dtype=torch.float64) if gz is None else gathered(gz)
    gk = torch.zeros(n, dtype=torch.float64)
    if gkl is not None:
        gk = factor * gathered(gkl).repeat_interleave(n // segments)
    rounding = unit_roundoff(dtype) * 1.01
    if outputs[0] is not None:
        want = g + gk * mean if gkl is not None else g
        size = g.abs() + (gk * mean).abs()
        check(
            "grad_loc",
            outputs[0],
            want,
            3 * u * size + rounding * want.abs() + torch.finfo(dtype).tiny,
        )
    if outputs[1] is not None:
        first = g * eps * slope if gz is not None else 0.0 * x
        second = gk * kl_slope if gkl is not None else 0.0 * x
        want = torch.where(inside, first + second, 0.0)
        square = sigma**2 if kind in ("logvar", "log_std") else kl_slope.abs() + sigma.abs() + 1
        size = (relative + 8 * u) * (first.abs() + gk.abs() * (square + 1))
        size = size + noise_error * (g * slope).abs()
        check(
            "grad_scale", outputs[1], want, size + rounding * want.abs() + torch.finfo(dtype).tiny
        )
    if whole is not None:
        assert whole[:, -1].isnan().all()


def rows_or_flat(flat: torch.Tensor, like: torch.Tensor, dense: bool) -> torch.Tensor:
    return flat.to(DEVICE) if dense else flat.view(like.shape).to(DEVICE)
