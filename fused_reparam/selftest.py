"""A check of every backend at hand against the reference, for a user's own machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from . import functional, noise
from .backends import select
from .backends.reference import SCALE_KINDS, STD, VAR

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Differences allowed between two backends, relative to the largest value. Noise agrees to 4e-6; a
# 16-bit result may fall on either side of a rounding.
_TOLERANCE = {
    torch.float32: 1e-5,
    torch.float64: 1e-12,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
Case = tuple[str, torch.dtype, Callable[[], Sequence[Tensor]]]


def _latent(mu: Tensor, x: Tensor, kind: str, key: Tensor) -> Sequence[Tensor]:
    mu, x = (t.detach().requires_grad_() for t in (mu, x))
    z, kl = functional.gaussian_latent(mu, **{kind: x}, key=key, reduction="sample")  # type: ignore[arg-type]
    loss = z.float().square().sum() + kl.sum()
    return z.detach(), kl.detach(), *torch.autograd.grad(loss, (mu, x))


def cases(device: torch.device) -> Iterator[Case]:
    """Name, dtype and computation of each check."""
    key = noise.key(2**63 + 11, 2**32 - 3, device=device)
    for dtype in _DTYPES:
        yield (
            f"noise {dtype}",
            dtype,
            lambda dtype=dtype: (noise.normal(key, 10_007, dtype=dtype),),  # type: ignore[misc]
        )
        # Not a whole number of blocks, and halves of a larger tensor.
        values = noise.normal(noise.key(1, device=device), (61, 134), dtype=dtype)
        for kind in SCALE_KINDS:
            mu, x = values.chunk(2, 1)
            if kind in (SCALE_KINDS[STD], SCALE_KINDS[VAR]):
                x = x.abs() + 0.25
            yield (
                f"gaussian_latent {kind} {dtype}",
                dtype,
                lambda mu=mu, x=x, kind=kind: _latent(mu, x, kind, key),  # type: ignore[misc]
            )


def largest_difference(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value of its tensor."""
    return max(
        ((g.double() - w.double()).abs().max() / w.double().abs().max().clamp_min(1.0)).item()
        for g, w in zip(got, want, strict=True)
    )


def run(devices: Sequence[torch.device], report: Callable[[str], None] = print) -> int:
    """Check each backend on each device; 0 when all agree, 1 when one differs."""
    failures = 0
    for device in devices:
        for name in select.BACKENDS:
            if name == "reference":
                continue
            reason = select.unavailable_reason(name, device)
            if reason is not None:
                report(f"{name} on {device.type}: skipped, {reason}")
                continue
            failed = list(_failures(name, device))
            for line in failed:
                report(f"{name} on {device.type}: FAILED {line}")
            if not failed:
                count = sum(1 for _ in cases(device))
                report(f"{name} on {device.type}: {count} checks agree with the reference")
            failures += len(failed)
    return 1 if failures else 0


def _failures(name: str, device: torch.device) -> Iterator[str]:
    for case, dtype, compute in cases(device):
        with select.backend("reference"):
            want = compute()
        with select.backend(name):
            got = compute()
        difference = largest_difference(got, want)
        if not difference <= _TOLERANCE[dtype]:
            yield f"{case}: differs by {difference:.2g}, allowed {_TOLERANCE[dtype]:.2g}"
