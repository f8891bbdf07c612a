"""rng="torch": the numbers of PyTorch's own generator on CUDA, bit for bit.

PyTorch and cuRAND publish the recipe; here it is written out in numpy, step by step in float32: the
mapping of elements to threads and calls, Philox, the uniform numbers, the order of rounding. The
accurate logarithm is the same library function as in the kernels, in a kernel of its own, and the
approximate sine and cosine are the interpreter's in both.
"""

from __future__ import annotations

import numpy as np
import torch

from fused_reparam.core.scales import STD
from tests.ptx.approximate import approximate
from tests.ptx.case import error
from tests.ptx.floating import fma32
from tests.ptx.types import F32, U32, U64

_TURN = F32(2.0**-32) * F32(6.2831855)  # as cuRAND rounds it
# name -> elements, and how many blocks of 256 threads the GPU holds.
SIZES = {
    "one element": (1, 8),
    "one odd block": (77, 8),
    "several blocks": (2560, 40),
    "a slice": (768, 3),
    "two slices": (1500, 3),
    "three slices": (2000, 3),
    "slices": (3000, 3),
    "one call": (1024, 1),
    "calls": (2 * 768 + 5, 1),
    "many threads": (50000, 24),
    "many calls": (9 * 24 * 256 + 5, 24),
}
_DRAWS = ((2**63 + 5, 2**35 + 8), (2**64 - 1, 4 * (2**32 - 1)), (3, 2**64 - 8))  # seed, offset


def _philox(counter, seed):
    key = [U64(seed & 0xFFFFFFFF), U64(seed >> 32)]
    mask = U64(0xFFFFFFFF)
    for _ in range(10):
        p, q = counter[0] * U64(0xD2511F53), counter[2] * U64(0xCD9E8D57)
        counter = [
            (q >> U64(32)) ^ counter[1] ^ key[0], q & mask,
            (p >> U64(32)) ^ counter[3] ^ key[1], p & mask,
        ]  # fmt: skip
        key = [(key[0] + U64(0x9E3779B9)) & mask, (key[1] + U64(0xBB67AE85)) & mask]
    return counter


def randn(seed: int, offset: int, n: int, blocks: int, logarithm) -> torch.Tensor:
    """What torch.randn gives on a GPU that holds so many blocks."""
    threads = 256 * min(blocks, -(-n // 256))
    thread = np.arange(threads, dtype=U64)
    out = np.zeros(n, F32)
    for call in range(-(-n // (4 * threads))):
        at = (offset // 4 + call) % 2**64
        low, high = (np.full_like(thread, v) for v in (at & 0xFFFFFFFF, at >> 32))
        words = _philox([low, high, thread, np.zeros_like(thread)], seed)
        for pair in (0, 2):
            x, y = (words[pair + i].astype(U32).astype(F32) for i in (0, 1))
            u = fma32(x, F32(2.0**-32), np.full_like(x, 2.0**-33))
            v = fma32(y, _TURN, np.full_like(y, _TURN / F32(2)))
            radius = np.sqrt(F32(-2.0) * logarithm(u))
            for lane, name in ((pair, "sin"), (pair + 1, "cos")):
                place = np.arange(threads) + threads * (4 * call + lane)
                value = approximate(name, v, False) * radius + F32(0)
                out[place[place < n]] = value[place < n]
    return torch.from_numpy(out)


def stream_case(name: str, dtype_name: str, logarithm) -> str | None:
    """What is wrong with the noise of a size, or None; with forward and backward of the latent."""
    from fused_reparam.backends.triton import rng_torch

    n, blocks = SIZES[name]
    dtype = getattr(torch, dtype_name)
    for seed, offset in _DRAWS:
        want = randn(seed, offset, n, blocks, logarithm)
        threads, _ = rng_torch.threads_and_offsets(n, blocks)
        draw = rng_torch.Draw(seed, offset, threads)
        room = torch.full((n + 64,), float("nan"), dtype=dtype)
        rng_torch.normal(draw, room[32 : 32 + n])
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        differ = room[32 : 32 + n].view(bits) != want.to(dtype).view(bits)
        if differ.any():
            return f"seed {seed} offset {offset}: {differ.sum()} of {n} numbers have other bits"
        if not torch.cat([room[:32], room[32 + n :]]).isnan().all():
            return f"seed {seed} offset {offset}: elements beside the tensor are written"
    if name == "slices" and dtype == torch.float32:
        loc, std = torch.randn(2, n, generator=torch.Generator().manual_seed(6))
        z, kl = torch.empty_like(loc), torch.empty(())
        rng_torch.forward(draw, loc, std.abs(), STD, -np.inf, np.inf, 1.0, z, kl)
        if not torch.equal(z, loc + std.abs() * want):
            return "z has other bits than loc + std * eps"
    return _latent(rng_torch, draw, want.to(dtype).double(), dtype)


def _latent(rng_torch, draw, noise: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Forward and backward with a log variance that is clamped, and a summed KL."""
    n, low, high = noise.numel(), -1.0, 1.5
    generator = torch.Generator().manual_seed(5)
    loc, scale, grad_z = (
        torch.randn(n, generator=generator).to(dtype) for _ in range(3)
    )  # fmt: skip
    z, kl, grad_kl = torch.empty_like(loc), torch.empty(()), torch.tensor(0.25)
    grads = torch.empty_like(loc), torch.empty_like(loc)
    rng_torch.forward(draw, loc, scale, 0, low, high, 1.0 / n, z, kl)
    rng_torch.backward(draw, grad_z, grad_kl, loc, scale, 0, low, high, 1.0 / n, *grads)
    mean, x = (t.double().requires_grad_() for t in (loc, scale))
    bounded = x.clamp(low, high)
    exact = mean + torch.exp(0.5 * bounded) * noise
    divergence = 0.5 * (mean * mean + torch.exp(bounded) - 1.0 - bounded).sum() / n
    given = [grad_z.double(), grad_kl.double()]
    wanted = [exact, divergence, *torch.autograd.grad([exact, divergence], [mean, x], given)]
    rounding = {torch.float32: 2e-5, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    for name, got, want in zip(
        ("z", "kl", "d loc", "d scale"), (z, kl, *grads), wanted, strict=True
    ):
        off = error(got, want)
        if not off <= 1.1 * rounding:
            return f"{name} is off by {off:.2g}"
    return None
