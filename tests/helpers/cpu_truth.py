"""What the native backend should give, written again in numpy and float64: for the tests of it."""

import math

import pytest
import torch

from fused_reparam.backends import cpu

np = pytest.importorskip("numpy")

REASON = cpu.unavailable_reason(torch.device("cpu"))
needs_native = pytest.mark.skipif(REASON is not None, reason=f"native: {REASON}")

INF = math.inf
KINDS = ("logvar", "log_std", "std", "var", "rho")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Half a unit in the last place, relative.
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float64: 0}


def make_key(seed, offset=0):
    return torch.from_numpy(np.array([seed, offset], dtype=np.uint64))


def compute_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def nans(*shape, dtype):
    return torch.full(shape, math.nan, dtype=dtype)


def philox(seed, offset, blocks):
    counter = np.uint64(offset) + np.arange(blocks, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c = [counter & low, counter >> np.uint64(32), np.zeros_like(counter), np.zeros_like(counter)]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]),
            p1 & low,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]),
            p0 & low,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def stream(seed, offset, n, double=False):
    """The first n normals, from the words in the stream's own precision, then in float64."""
    with np.errstate(over="ignore"):
        w = philox(seed, offset, -(-n // (2 if double else 4)))
    if double:
        u = ((w[0] << np.uint64(32)) | w[1]).astype(np.float64) * 2.0**-64
        v = ((w[2] << np.uint64(32)) | w[3]).astype(np.float64) * 2.0**-64
        pairs = [(np.maximum(u, 2.0**-64), v)]
    else:

        def unit(word):
            exact = word.astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33
            return exact.astype(np.float32).astype(np.float64)

        pairs = [(unit(w[0]), unit(w[1])), (unit(w[2]), unit(w[3]))]
    lanes = []
    for u, v in pairs:
        r = np.sqrt(-2 * np.log(u))
        lanes += [r * np.cos(2 * np.pi * v), r * np.sin(2 * np.pi * v)]
    return np.stack(lanes, 1).reshape(-1)[:n]


def formulas(x, kind):
    """sigma, log sigma^2, dsigma/dx, dKL/dx in float64."""
    if kind == "logvar":
        s = torch.exp(x / 2)
        return s, x, s / 2, (torch.exp(x) - 1) / 2
    if kind == "log_std":
        s = torch.exp(x)
        return s, 2 * x, s, torch.exp(2 * x) - 1
    if kind == "std":
        return x, 2 * x.log(), torch.ones_like(x), x - 1 / x
    if kind == "var":
        s = x.sqrt()
        return s, x.log(), 0.5 / s, (1 - 1 / x) / 2
    s = torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)
    log_s = torch.where(x < -30, x - torch.exp(x) / 2, s.log())
    gate = torch.sigmoid(x)
    ratio = torch.where(x < -30, torch.ones_like(x), gate / s)
    return s, 2 * log_s, gate, s * gate - ratio
