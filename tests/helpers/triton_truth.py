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


class Exact:
    """What one configuration should give, in float64, and how far off it may be."""

    def __init__(self, kind, dtype, loc, scale, eps, clamp, factor, noise_error) -> None:
        self.kind, self.dtype, self.factor, self.noise_error = kind, dtype, factor, noise_error
        if dtype != torch.float64:
            clamp = tuple(torch.tensor(b, dtype=torch.float32).item() for b in clamp)
        low, high = clamp
        self.mean, x, self.eps = gathered(loc), gathered(scale), eps
        self.inside = ~((x < low) | (x > high))
        x = torch.where(x.isnan(), x, x.clamp(low, high))
        self.sigma, self.log_square, self.slope, self.kl_slope = latent64(kind, x)
        self.u = unit_roundoff(torch.float32 if dtype != torch.float64 else dtype)
        # sigma's own error: a few roundings, and (for an exponential) its argument's.
        self.relative = (8 + 2 * x.abs()) * self.u

    def rounded(self, want: torch.Tensor) -> torch.Tensor:
        """What a result's own rounding may take."""
        return unit_roundoff(self.dtype) * 1.01 * want.abs() + torch.finfo(self.dtype).tiny

    def check_z(self, z: torch.Tensor) -> None:
        want = self.mean + self.sigma * self.eps
        allowed = self.sigma.abs() * (self.noise_error + self.relative * self.eps.abs())
        check("z", z, want, allowed + 2 * self.u * want.abs() + self.rounded(want))

    def check_kl(self, kl: torch.Tensor) -> None:
        parts = self.mean**2, self.sigma**2, self.log_square
        bound = torch.clamp(parts[0] + parts[1] + parts[2].abs(), min=1.0)
        unit = (1e-6 if self.dtype != torch.float64 else 1e-14) * bound
        if kl.dtype == torch.float32 and self.dtype != torch.float32:
            unit = 2 * unit
        each = 0.5 * (parts[0] + parts[1] - 1 - parts[2])
        want, allowed = (t.reshape(kl.numel(), -1).sum(1) for t in (each, unit))
        check("kl", kl, self.factor * want, abs(self.factor) * allowed)

    def check_gradients(self, grad_loc, grad_scale, grad_z, grad_kl) -> None:
        """Of the two that were asked for, by the gradients that came."""
        n = self.mean.numel()
        g = gk = torch.zeros(n, dtype=torch.float64)
        if grad_z is not None:
            g = gathered(grad_z)
        if grad_kl is not None:
            gk = self.factor * gathered(grad_kl).repeat_interleave(n // grad_kl.numel())
        if grad_loc is not None:
            want = g + gk * self.mean if grad_kl is not None else g
            size = g.abs() + (gk * self.mean).abs()
            check("grad_loc", grad_loc, want, 3 * self.u * size + self.rounded(want))
        if grad_scale is None:
            return
        sigma, kl_slope = self.sigma, self.kl_slope
        first = g * self.eps * self.slope if grad_z is not None else torch.zeros_like(g)
        second = gk * kl_slope if grad_kl is not None else torch.zeros_like(g)
        want = torch.where(self.inside, first + second, 0.0)
        square = (
            sigma**2 if self.kind in ("logvar", "log_std") else kl_slope.abs() + sigma.abs() + 1
        )
        size = (self.relative + 8 * self.u) * (first.abs() + gk.abs() * (square + 1))
        size = size + self.noise_error * (g * self.slope).abs()
        check("grad_scale", grad_scale, want, size + self.rounded(want))


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
    eps = noise64(seed, offset, n, dtype) if with_eps is None else gathered(with_eps)
    noise_error = 0.0 if with_eps is not None else (1e-13 if dtype == torch.float64 else 4e-6)
    exact = Exact(kind, dtype, loc, scale, eps, clamp, factor, noise_error)
    kl_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    options = KINDS.index(kind), *clamp, factor, dense

    z, z_buffer = guarded(n, dtype, shift)
    kl, kl_buffer = guarded(segments, kl_dtype)
    asked = z if with_z else None, kl if with_kl else None
    gaussian.forward(backend, loc, scale, key, with_eps, *options, *asked)
    if with_z:
        exact.check_z(z)
        assert untouched(z_buffer, n, shift)
    if with_kl:
        exact.check_kl(kl)
        assert untouched(kl_buffer, segments)

    gz = gkl = whole = None
    if with_z:
        gz = grad_z if grad_z is not None else rows_or_flat(values(n, dtype, 5), loc, dense)
    if with_kl:
        gkl = values(segments, kl_dtype, 6).to(DEVICE)
    if strided_grads:  # the two halves of one gradient
        rows, columns = loc.shape
        whole = torch.full((rows, 2 * columns + 1), math.nan, dtype=dtype, device=DEVICE)
        outputs = [whole[:, :columns], whole[:, columns : 2 * columns]]
    else:
        flat = [guarded(n, dtype, shift)[0] for _ in range(2)]
        outputs = flat if dense else [t.view(loc.shape) for t in flat]
    wanted = [o if asked else None for o, asked in zip(outputs, grads, strict=True)]
    source = (key, with_eps) if gz is not None else (None, None)
    gaussian.backward(backend, gz, gkl, loc, scale, *source, *options, *wanted)
    exact.check_gradients(*wanted, gz, gkl)
    if whole is not None:
        assert whole[:, -1].isnan().all()


def rows_or_flat(flat: torch.Tensor, like: torch.Tensor, dense: bool) -> torch.Tensor:
    return flat.to(DEVICE) if dense else flat.view(like.shape).to(DEVICE)
