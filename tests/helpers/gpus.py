"""What GPUs can do, as published, and what that makes of a kernel whose machine code was counted.

Predictions from counts: nothing here was measured. Used by `python -m tests.helpers.aot --sweep`,
which lists tile shapes, and `--limits`, which puts bytes and instructions side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.helpers.aot import Listing


@dataclass(frozen=True)
class GPU:
    name: str
    processors: int  # multiprocessors, compute units
    clock: float  # GHz, boost
    bandwidth: float  # GB/s
    threads: int  # in a warp
    warps: int  # at most on each of the four schedulers of a processor
    registers: int  # of 32 bits that a scheduler's warps share, for each thread of a warp

    @property
    def lanes(self) -> int:
        """Threads' instructions issued in a cycle by a processor. An AMD one takes 4 cycles."""
        return 4 * self.threads if self.threads == 32 else self.threads


# Where the figures come from. A100, H100, B200: glennklockwood.com/garden/processors, which cites
# NVIDIA's white papers and data sheets (H100's 1.98 GHz is also its 66.9 TFLOP/s / 132 / 128 / 2),
# techpowerup.com/gpu-specs/a100-sxm4-40-gb.c3506 for A100's clock and processors, and
# hmc-tech.com/gpus/nvidia-b200-vs-nvidia-b100 for B200's. MI300X: rocm.docs.amd.com/en/docs-6.2.2/
# conceptual/gpu-arch/mi300.html (304 units), gpu.blog/gpus/instinct-mi300x-mi300x (164 TFLOP/s,
# which over 304 * 256 is 2.1 GHz), emergentmind.com/topics/amd-mi300x-gpu (5.3 TB/s).
# Warps and registers: docs.nvidia.com/cuda/hopper-tuning-guide (64 warps and 64 K registers in a
# multiprocessor, so 16 and 16 K for each of its 4 schedulers), and for gfx942
# llvm.org/docs/CommandGuide/llvm-calc-occupancy.html (8 waves on each of 4 SIMDs; 512 registers).
GPUS = {
    "sm_80": GPU("A100 SXM 80 GB", 108, 1.41, 2039, 32, 16, 512),
    "sm_90": GPU("H100 SXM", 132, 1.98, 3350, 32, 16, 512),
    "sm_100": GPU("B200", 148, 1.98, 8000, 32, 16, 512),
    "gfx942": GPU("MI300X", 304, 2.1, 5300, 64, 8, 512),
}
REGISTER_STEP = 8  # registers are handed out in steps of eight
SPECIAL = 16  # special functions of a multiprocessor in a cycle: 4 units for each scheduler
# What a load takes on an idle H100, in cycles: fp4-site.pages.dev/silicon/gpu-memory-hierarchy.
# Assumed for the others too. It takes longer under load, so twice the bytes are asked for.
LATENCY = 600
IN_FLIGHT = 2.0
OCCUPANCY = 3 / 8  # 6 warps for each scheduler: with 4 independent vectors in a thread, always one
MOST_VECTORS = 4  # for each tensor in a thread: larger tiles leave GPUs empty for longer
SPILLED = 0.01  # share of accesses to local memory that is no reason to refuse a shape


def resident_warps(one: Listing, gpu: GPU, warps: int) -> int:
    """How many warps of a program of `warps` a processor holds, by registers."""
    registers = -(-one.registers // REGISTER_STEP) * REGISTER_STEP
    slots = 4 * min(gpu.warps, gpu.registers // registers)
    return slots // warps * warps


def bytes_in_flight(one: Listing, gpu: GPU, warps: int) -> int:
    """Bytes that a processor's warps have asked for before they first wait."""
    return resident_warps(one, gpu, warps) * gpu.threads * one.loads_in_flight * 16


def bytes_needed(gpu: GPU) -> float:
    """Little's law: what a processor must have under way to use its share of the bandwidth."""
    return gpu.bandwidth / gpu.clock / gpu.processors * LATENCY


def verdict(one: Listing, gpu: GPU, warps: int, vectors: int) -> str:
    """Empty for a shape that may be chosen, else why not."""
    if len(one.local) > SPILLED * one.instructions:
        return "spills"
    if resident_warps(one, gpu, warps) < OCCUPANCY * 4 * gpu.warps:
        return "few warps"
    if bytes_in_flight(one, gpu, warps) < IN_FLIGHT * bytes_needed(gpu):
        return "few loads"
    if vectors > MOST_VECTORS:
        return "large tile"
    return ""


TRAFFIC = {"normal": 1, "forward": 3, "backward": 5}  # elements read and written; KL is one sum


def limits(one: Listing, gpu: GPU, item: int) -> dict[str, float]:
    """Picoseconds for an element by each of the limits, and what they come from."""
    traffic = TRAFFIC[one.name] * item
    cycles = 1000 / gpu.clock / gpu.processors  # ps of one processor's cycle, shared out
    special = one.mix.get("MUFU", 0) / one.elements
    return {
        "bytes": traffic,
        "by bytes": 1000 * traffic / gpu.bandwidth,
        "instructions": one.per_element,
        "by issue": one.per_element / gpu.lanes * cycles,
        "special": special,
        "by special": special / SPECIAL * cycles,
    }


def limits_table(rows: list[tuple[Listing, GPU, int]]) -> str:
    """Last, the time by bytes over that by instructions: from 100 % on, bytes are the limit."""
    lines = [
        "| GPU | dtype | pass | bytes | ps by bytes | instructions | ps by issue "
        "| special functions | ps by these | bandwidth that instructions allow |",
        "|---|---|---|" + "---:|" * 7,
    ]
    for one, gpu, item in rows:
        found = limits(one, gpu, item)
        special, by_special = f"{found['special']:.1f}", f"{found['by special']:.2f}"
        if gpu.threads == 64:  # no units of their own: they are among the instructions
            special = by_special = "-"
        allowed = found["by bytes"] / max(found["by issue"], found["by special"])
        lines.append(
            f"| {gpu.name} | {one.dtype} | {one.name} | {found['bytes']} | {found['by bytes']:.2f} "
            f"| {found['instructions']:.1f} | {found['by issue']:.2f} | {special} | {by_special} "
            f"| {allowed:.0%} |"
        )
    return "\n".join(lines)


def sweep_table(rows: list[tuple[Listing, GPU, int, int]]) -> str:
    """One line for each listing with its groups and warps."""
    lines = [
        "| target | dtype | pass | groups, warps | vectors/thread | per element | registers "
        "| warps | loads/thread | KB in flight | KB needed | not, because |",
        "|---|---|---|---|" + "---:|" * 7 + "---|",
    ]
    for one, gpu, groups, warps in rows:
        vectors = groups // (warps * gpu.threads)
        lines.append(
            f"| {one.target} | {one.dtype} | {one.name} | {groups}, {warps} | {vectors} "
            f"| {one.per_element:.1f} | {one.registers} | {resident_warps(one, gpu, warps)} "
            f"| {one.loads_in_flight} | {bytes_in_flight(one, gpu, warps) / 1e3:.0f} "
            f"| {IN_FLIGHT * bytes_needed(gpu) / 1e3:.0f} "
            f"| {verdict(one, gpu, warps, vectors)} |"
        )
    return "\n".join(lines)


def chosen(rows: list[tuple[Listing, GPU, int, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    """(target, elements in a vector) -> (groups, warps): of the shapes that every dtype and pass of
    that vector may have, the one with the fewest instructions per element, all added up.
    """
    totals: dict[tuple[str, int], dict[tuple[int, int], float]] = {}
    refused = set()
    for one, gpu, groups, warps in rows:
        vector = one.elements * gpu.threads * warps // groups
        key, shape = (one.target, vector), (groups, warps)
        if verdict(one, gpu, warps, groups // (warps * gpu.threads)):
            refused.add((key, shape))
        totals.setdefault(key, {}).setdefault(shape, 0.0)
        totals[key][shape] += one.per_element
    best = {}
    for key, shapes in totals.items():
        allowed = {s: total for s, total in shapes.items() if (key, s) not in refused}
        if allowed:
            best[key] = min(allowed, key=lambda s: (round(allowed[s], 6), s))
    return best
