"""What the machine itself can do: copying memory, and making normals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench.timing import Clock, Contestant, Effort, Spread, interleave
from bench.variants import BACKENDS, backend_module

COPY, FRESH = "copy", "fresh copy"


def copy_contestant(moved: int, device: torch.device) -> Contestant:
    """A copy that reads and writes `moved` bytes in all, between buffers that exist already."""
    count = max(moved // 8, 1)
    source = torch.ones(count, device=device)
    target = torch.empty_like(source).fill_(0)
    return Contestant(COPY, lambda _: target.copy_(source))


def fresh_contestant(source: torch.Tensor, count: int) -> Contestant:
    """Copies of `source` into `count` new tensors, which the op has to make as well.

    New memory has a price of its own: on a CPU, large blocks go back to the system when freed, and
    each page of the next one is cleared on its first use.
    """
    source = source.detach()

    def copies(_: object) -> None:
        # All are alive at once, as gradients are.
        [source.clone() for _ in range(count)]

    return Contestant(FRESH, copies)


def measure_limits(
    device: torch.device, dtypes: Sequence[torch.dtype], clock: Clock, effort: Effort, quick: bool
) -> dict[str, Any]:
    """Copy bandwidth in GB/s, in place and into fresh memory, and ns per normal of each backend."""
    size = 1 << (26 if quick else 28)
    source = torch.ones(size // 4, device=device)
    rivals = [copy_contestant(2 * size, device), fresh_contestant(source, 1)]
    copies = interleave(clock, rivals, effort)
    rate = {name: 2 * size / spread.median / 1e9 for name, spread in copies.items()}
    return {
        "copy_gb_per_s": rate[COPY],
        "fresh_copy_gb_per_s": rate[FRESH],
        "copy_bytes": size,
        "normal_ns": {
            str(d).removeprefix("torch."): _normals(device, d, clock, effort) for d in dtypes
        },
    }


def _normals(
    device: torch.device, dtype: torch.dtype, clock: Clock, effort: Effort
) -> dict[str, float]:
    """ns per normal, by who makes it; on a CPU in a buffer that stays in its caches."""
    from fused_reparam import noise

    out = torch.zeros(1 << (26 if device.type == "cuda" else 18), dtype=dtype, device=device)
    key = noise.key(1).to(device)
    contestants = [Contestant("torch.randn", lambda _: out.normal_())]
    for name in BACKENDS:
        module, _ = backend_module(name, device)
        if module is not None:
            contestants.append(_normal_contestant(name, module, key, out))
    spreads: dict[str, Spread] = interleave(clock, contestants, effort)
    return {name: spread.median / out.numel() * 1e9 for name, spread in spreads.items()}


def _normal_contestant(name: str, module: Any, key: torch.Tensor, out: torch.Tensor) -> Contestant:
    return Contestant(name, lambda _: module.normal(key, out))
