"""What the machine itself can do: copying memory, and making noise."""

from __future__ import annotations

import torch

from bench.noise import degrees
from bench.timing import Clock, Contestant, Effort, interleave
from bench.variants import CACHED_BY, unavailable_reason, using

COPY, FRESH, NOISE = "copy", "fresh copy", "noise"
# Buffers for copies are no larger: longer copies go through them several times.
BUFFER_BYTES = 1 << 30


def copies(moved: int, made: int, device: torch.device) -> list[Contestant]:
    """The machine's rivals of an op that moves `moved` bytes, `made` of them into new memory.

    COPY reads and writes `moved` bytes in all, between buffers that exist already. FRESH, where
    anything is made, copies `made` bytes into new tensors. New memory has a price of its own: on a
    CPU, large blocks go back to the system when freed, and each page of the next one is cleared on
    its first use.
    """
    count = max(moved // 8, made // 4, 1)
    source = torch.ones(min(count, BUFFER_BYTES // 4), device=device)
    target = torch.zeros(min(max(moved // 8, 1), len(source)), device=device)
    whole, rest = divmod(max(moved // 8, 1), len(target))
    # Made once: a view takes longer to make than a small copy.
    pairs = [(target, source[: len(target)])] * whole
    pairs += [(target[:rest], source[:rest])] if rest else []

    def copy(_: object) -> None:
        for into, part in pairs:
            into.copy_(part)

    begin = source[: made // 4]

    def fresh(_: object) -> torch.Tensor:
        new = torch.empty(made // 4, device=device)
        if len(begin) == len(new):
            return new.copy_(begin)
        for part in new.split(len(source)):
            part.copy_(source[: len(part)])
        return new

    return [Contestant(COPY, copy), *([Contestant(FRESH, fresh)] if made >= 4 else [])]


# Noise made at a time, in memory that stays in the caches.
CACHED = 1 << 18


def noise(
    count: int, dtype: torch.dtype, device: torch.device, base: str | None
) -> list[Contestant]:
    """The machine's rival of an op that makes `count` numbers: making them, and nothing else.

    Only on a CPU: on a GPU a launch for each cached part would take longer than the numbers.
    """
    if not count or device.type != "cpu" or unavailable_reason(CACHED_BY, device) is not None:
        return []
    from fused_reparam import noise
    from fused_reparam.backends import dispatch

    with using(CACHED_BY)():
        module = dispatch.pick(device)  # itself: it writes noise into memory that there is already
    key, out = noise.key(1), torch.zeros(min(count, CACHED), dtype=dtype)
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
    """Copy bandwidth in GB/s, in place and into fresh memory."""
    size = 1 << (26 if quick else 28)
    spreads = interleave(clock, copies(2 * size, size, device), effort)
    rate = {name: 2 * size / spread.median / 1e9 for name, spread in spreads.items()}
    return {"copy_gb_per_s": rate[COPY], "fresh_copy_gb_per_s": rate[FRESH], "copy_bytes": size}
