"""What the package must reach, in one place, and whether a machine's results reach it.

Every bound is a ratio within one run. Ours is the fastest of our backends, `torch.compile` the
fastest of its modes. Where a target holds for a range of sizes, the worst of them is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from bench.rows import BOTH, Case, Result, Row, best, cases, fastest, named, rows_of, times_faster
from bench.variants import COMPILE, EAGER

MEBI = 1 << 20
Rows = list[Row]
Cases = dict[Case, Rows]


@dataclass(frozen=True)
class Target:
    """One bound on one measure of `gaussian_latent`."""

    what: str
    device: str
    dtype: str
    work: str
    measure: str
    """A key of MEASURES."""
    bound: float
    at_least: bool = True
    size: int = 16 * MEBI
    larger: bool = False
    """Holds for every measured size from `size` on."""
    op: str = "gaussian_latent"

    @property
    def at(self) -> str:
        """Its size as the bench's users write it."""
        size = "128x20" if self.size == SMALL else f"{self.size // MEBI}M"
        return f"{size} and more" if self.larger else size

    def holds_for(self, elements: int) -> bool:
        return elements == self.size or (self.larger and elements > self.size)

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Verdict:
    target: Target
    size: str | None = None
    value: float | None = None
    """The worst of the sizes; None where nothing was measured."""

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.target.met_by(self.value)


def judge(results: Iterable[Result], device_type: str) -> list[Verdict]:
    """A verdict on each target for this kind of device."""
    found = cases(rows_of(results))
    return [_verdict(target, found) for target in TARGETS if target.device == device_type]


def bounds(device_type: str, op: str, measure: str) -> list[float]:
    """The bounds on a measure, to be drawn."""
    wanted = (device_type, op, measure)
    found = {t.bound for t in TARGETS if (t.device, t.op, t.measure) == wanted}
    return sorted(found)


def _verdict(target: Target, found: Cases) -> Verdict:
    worst = Verdict(target)
    for case, rows in found.items():
        if (case.op, case.dtype, case.work) != (target.op, target.dtype, target.work):
            continue
        own = best(rows)
        if own is None or not target.holds_for(own["elements"]):
            continue
        value = MEASURES[target.measure](own, rows, found)
        if value is None:
            continue
        verdict = replace(worst, size=case.size, value=value)
        if worst.value is None or (value < worst.value) == target.at_least:
            worst = verdict
    return worst


# --- measures: a row of ours, its rivals, and all cases; None where something is not measured -----

Measure = Callable[[Row, Rows, Cases], float | None]


def _own(name: str) -> Measure:
    return lambda own, *_: own.get(name)


def _host_share(rival: Callable[[Rows], Row | None]) -> Measure:
    """Our host time as a share of a rival's."""

    def share(own: Row, rows: Rows, _: Cases) -> float | None:
        other = rival(rows)
        if other is None or not own.get("host_s") or not other.get("host_s"):
            return None
        return float(own["host_s"] / other["host_s"])

    return share


def _least_host_time(rows: Rows) -> Row | None:
    timed = [
        row
        for row in rows
        if row["status"] == "ok" and row["variant"].startswith(COMPILE) and row.get("host_s")
    ]
    return min(timed, key=lambda row: row["host_s"], default=None)


def _peak_tensors(own: Row, rows: Rows, found: Cases) -> float | None:
    """Peak memory of a call, in tensors of the latent's size."""
    if own.get("peak_bytes") is None:
        return None
    itemsize = {"float32": 4, "float64": 8}.get(own["dtype"], 2)
    return float(own["peak_bytes"] / (own["elements"] * itemsize))


def _against_float32(own: Row, rows: Rows, found: Cases) -> float | None:
    """Time per element as a share of float32's."""
    case = Case(*(own[name] for name in Case._fields))
    full = best(found.get(case._replace(dtype="float32"), []))
    return None if full is None else float(own["ns_per_element"] / full["ns_per_element"])


MEASURES: dict[str, Measure] = {
    "of_copy": _own("of_copy"),
    "of_limit": _own("of_limit"),
    "vs_eager": lambda own, rows, _: times_faster(own, named(rows, EAGER)),
    "vs_compile": lambda own, rows, _: times_faster(own, fastest(rows, COMPILE)),
    "host_vs_eager": _host_share(lambda rows: named(rows, EAGER)),
    "host_vs_compile": _host_share(_least_host_time),
    "graph_kernels": _own("graph_kernels"),
    "peak_tensors": _peak_tensors,
    "against_float32": _against_float32,
}

# --- the targets ----------------------------------------------------------------------------------

SMALL = 128 * 20
DTYPES = ("float32", "bfloat16")


def _gpu_large(what: str, work: str, measure: str, bounds: tuple[float, float]) -> list[Target]:
    """For an H100 or H200, at 64M elements and more."""
    return [
        Target(what, "cuda", dtype, work, measure, bound, size=64 * MEBI, larger=True)
        for dtype, bound in zip(DTYPES, bounds, strict=True)
    ]


def _gpu_small(what: str, measure: str, bound: float) -> list[Target]:
    return [
        Target(what, "cuda", dtype, BOTH, measure, bound, at_least=False, size=SMALL)
        for dtype in DTYPES
    ]


def _cpu(what: str, work: str, measure: str, bound: float) -> list[Target]:
    return [Target(what, "cpu", dtype, work, measure, bound) for dtype in DTYPES]


TARGETS: tuple[Target, ...] = (
    *_gpu_large("share of copy bandwidth", "forward", "of_copy", (0.90, 0.85)),
    *_gpu_large("share of copy bandwidth", "backward", "of_copy", (0.90, 0.88)),
    *_gpu_large("times as fast as eager", BOTH, "vs_eager", (6, 6)),
    *_gpu_large("times as fast as torch.compile", "forward", "vs_compile", (2, 3)),
    *_gpu_large("times as fast as torch.compile", BOTH, "vs_compile", (1.4, 2)),
    *(
        # z and two gradients; a hundredth is left for the KL's partial sums.
        replace(target, at_least=False)
        for target in _gpu_large(
            "peak memory, in tensors of the latent's size", BOTH, "peak_tensors", (3.01, 3.01)
        )
    ),
    *_gpu_small("host time against eager's", "host_vs_eager", 0.6),
    *_gpu_small("host time against torch.compile's", "host_vs_compile", 1.0),
    *_gpu_small("kernels in a CUDA graph", "graph_kernels", 2),
    *_cpu("times as fast as eager", BOTH, "vs_eager", 8),
    *_cpu("times as fast as torch.compile", BOTH, "vs_compile", 8),
    *_cpu("share of the machine's own limit", "forward", "of_limit", 0.7),
    *_cpu("share of the machine's own limit", "backward", "of_limit", 0.7),
    *_cpu("share of the machine's own limit", BOTH, "of_limit", 0.7),
    Target("time per element against float32's", "cpu", "bfloat16", BOTH, "against_float32", 1.0,
           at_least=False),
)  # fmt: skip

# What a time can't show: the GPU tests whose names match must have run and passed.
TESTED = {
    "replays of a CUDA graph draw new noise": "replays_draw_new_noise|test_in_a_cuda_graph",
    "no synchronisation with the device": "test_no_synchronisation",
}
