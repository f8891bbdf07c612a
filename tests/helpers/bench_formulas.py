"""Whether what the bench calls ours is the formula that it is compared with.

In float64, outputs and gradients, of the noise that ours drew.
"""

import torch

import fused_reparam as fr
from bench.check import SEED, gradients
from bench.noise import degrees

# Noise may be off by 4e-6, and sums are of terms that may cancel; a result in 16 bits is rounded.
ROUNDINGS, LEAST = 4, {torch.float64: 1e-10}
# Where the noise decides between two classes that are nearly alike, either may be drawn.
SHARE = 1e-4


def noise_of(base, key, like):
    """A key's noise in float64, in the shape and the memory order of `like`."""
    dtype, count = torch.promote_types(like.dtype, torch.float32), like.numel()
    args = (key, [count], [], dtype, base, degrees(base) or 0.0)
    with fr.backend("reference"):
        normal = base == "normal"
        made = fr.noise.normal(key, count, dtype=dtype) if normal else (
            torch.ops.fused_reparam.base_noise(*args))  # fmt: skip
    return made.double().as_strided(like.shape, torch.empty_like(like).stride())


def problem(ours, formula, inputs, base, like, incoming):
    """What is wrong with ours; None where it is the formula, outputs and gradients."""
    torch.manual_seed(SEED)
    key = fr.noise.draw_key(like.device)
    torch.manual_seed(SEED)
    got = ours(*inputs)
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    # In the sample's memory order, where the two have the same shape.
    shaped = torch.empty_like(got[0]) if got[0].shape == like.shape else like
    shaped = torch.empty_like(shaped, dtype=like.dtype)
    want = formula(None if base is None else noise_of(base, key, shaped), *exact)
    pairs = [*zip(got, want, strict=True)]
    if incoming is not None:
        arriving = incoming(got)
        pairs += zip(
            gradients(got, inputs, arriving), gradients(want, exact, arriving), strict=True
        )
    return next((f"{i}: {words}" for i, pair in enumerate(pairs) if (words := _off(*pair))), None)


def _off(got, want):
    if got is None or want is None:
        return None if got is want else f"got {got}, expected {want}"
    # Of two infinities, where the dtype ends before float64 does, nothing is subtracted.
    off = torch.where(got == want.to(got.dtype), 0.0, (got.double() - want).abs())
    off = off / want.abs().clamp_min(1.0)
    allowed = max(LEAST.get(got.dtype, 4e-5), ROUNDINGS * torch.finfo(got.dtype).eps)
    wrong = ~(off <= allowed)  # what is no number is wrong
    if got.shape == want.shape and wrong.sum().item() <= SHARE * wrong.numel():
        return None
    return f"off by {off.max().item():.2g}, allowed {allowed:.2g}, {tuple(got.shape)}"
