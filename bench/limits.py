"""What the machine itself can do: copying memory, and making noise."""

from __future__ import annotations

import torch

import fused_reparam as fr
from bench.noise import degrees
from bench.timing import Clock, Contestant, Effort, interleave
from bench.variants import CACHED_BY, unavailable_reason, using
from fused_reparam.backends import dispatch

COPY, NOISE = "copy", "noise"
# Buffers for copies are no larger: longer copies go through them several times.
BUFFER_BYTES = 1 << 30
# Noise made at a time, in memory that stays in the caches.
CACHED = 1 << 18


def copying(moved: int, device: torch.device) -> Contestant:
    """The rival of an op that moves `moved` bytes: as many read and written between two buffers.

    They exist already. New memory has a price of its own, which no copy of this has to pay.
    """
    count = max(moved // 8, 1)
    source = torch.ones(min(count, BUFFER_BYTES // 4), device=device)
    target = torch.zeros_like(source)
    whole, rest = divmod(count, len(target))
    # Made once: a view takes longer to make than a small copy.
    pairs = [(target, source)] * whole + ([(target[:rest], source[:rest])] if rest else [])

    def copy(_: object) -> None:
        for into, part in pairs:
            into.copy_(part)

    return Contestant(COPY, copy)


def noise(
    count: int, dtype: torch.dtype, device: torch.device, base: str | None
) -> list[Contestant]:
    """The rival of an op that makes `count` numbers: making them, and nothing else.

    Only on a CPU: on a GPU a launch for each cached part would take longer than the numbers.
    """
    if not count or device.type != "cpu" or unavailable_reason(CACHED_BY, device) is not None:
        return []
    with using(CACHED_BY)():
        module = dispatch.pick(device)  # itself: it writes noise into memory that there is already
    key, out = fr.noise.key(1), torch.zeros(min(count, CACHED), dtype=dtype)
    whole, rest = divmod(count, len(out))
    parts = [out] * whole + ([out[:rest]] if rest else [])

    def make(_: object) -> None:
        for part in parts:
            if base == "normal":
                module.normal(key, part)
            else:
                module.base_noise(base, degrees(base) or 0.0, key, part)

    return [Contestant(NOISE, make)]


def measure_limits(
    device: torch.device, clock: Clock, effort: Effort, quick: bool
) -> dict[str, float]:
    """Copy bandwidth in GB/s, between buffers that exist."""
    size = 1 << (26 if quick else 28)
    spreads = interleave(clock, [copying(2 * size, device)], effort)
    return {"copy_gb_per_s": 2 * size / spreads[COPY].median / 1e9, "copy_bytes": size}
