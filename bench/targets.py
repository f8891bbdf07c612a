"""What the package must reach, in one place, and whether a machine's results reach it.

Every bound is a ratio within one run. Ours is the fastest of our backends, `torch.compile` the
fastest of its modes. Where a target holds for a range of sizes, the worst of them is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from bench.rows import (
    BOTH,
    Band,
    Case,
    Result,
    Row,
    best,
    cases,
    fastest,
    named,
    rows_of,
    times_faster,
)
from bench.sizes import shape_of
from bench.variants import COMPILE, EAGER

LATENT = "gaussian_latent"
Rows = list[Row]
Cases = dict[Case, Rows]


@dataclass(frozen=True)
class Target:
    """One bound on one measure of an op."""

    what: str
    device: str
    dtype: str
    work: str
    measure: str
    """A key of MEASURES."""
    bound: float
    at_least: bool = True
    size: str = "16M"
    """As the bench's users write it."""
    larger: bool = False
    """Holds for every measured size from `size` on."""
    op: str = LATENT

    @property
    def at(self) -> str:
        return f"{self.size} and more" if self.larger else self.size

    def holds_for(self, elements: int) -> bool:
        own = math.prod(shape_of(self.size))
        return elements == own or (self.larger and elements > own)

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Verdict:
    target: Target
    size: str | None = None
    band: Band | None = None
    """The worst of the sizes; None where nothing was measured."""
    within_spread: bool = False
    """At the quartiles the answer would be the other one."""

    @classmethod
    def of(cls, target: Target, size: str, band: Band) -> Verdict:
        answers = {target.met_by(value) for value in band}
        return cls(target, size, band, within_spread=len(answers) > 1)

    @property
    def value(self) -> float | None:
        return None if self.band is None else self.band.value

    @property
    def met(self) -> bool | None:
        return None if self.band is None else self.target.met_by(self.band.value)


def judge(results: Iterable[Result], device_type: str) -> list[Verdict]:
    """A verdict on each target for this kind of device."""
    found = cases(rows_of(results))
    return [_verdict(target, found) for target in TARGETS if target.device == device_type]


def asked(device_type: str, case: Case, elements: int) -> dict[str, Target]:
    """The targets that a case of so many elements is held to, by their measures."""
    return {
        target.measure: target
        for target in TARGETS
        if (target.device, target.op, target.dtype, target.work)
        == (device_type, case.op, case.dtype, case.work)
        and target.holds_for(elements)
    }


def of(device_type: str, op: str, measure: str) -> list[Target]:
    """The targets that an op has on a measure."""
    wanted = (device_type, op, measure)
    return [t for t in TARGETS if (t.device, t.op, t.measure) == wanted]


def _verdict(target: Target, found: Cases) -> Verdict:
    verdicts = []
    for case, rows in found.items():
        if (case.op, case.dtype, case.work) != (target.op, target.dtype, target.work):
            continue
        own = best(rows)
        if own is None or not target.holds_for(own["elements"]):
            continue
        band = MEASURES[target.measure](own, rows, found)
        if band is not None:
            verdicts.append(Verdict.of(target, case.size, band))
    return _worst(verdicts) if verdicts else Verdict(target)


def _worst(verdicts: list[Verdict]) -> Verdict:
    """Met beyond the spread where each size is, missed beyond it where one is."""

    def margin(verdict: Verdict) -> float:
        value = verdict.value or 0.0
        return value if verdict.target.at_least else -value

    missed = [verdict for verdict in verdicts if not verdict.met]
    within = [verdict.within_spread for verdict in missed or verdicts]
    return replace(min(verdicts, key=margin), within_spread=all(within) if missed else any(within))


# --- measures: a row of ours, its rivals, and all cases; None where something is not measured -----

Measure = Callable[[Row, Rows, Cases], Band | None]


def _count(name: str) -> Measure:
    """What is the same in each call."""

    def count(own: Row, *_: object) -> Band | None:
        return None if own.get(name) is None else _sharp(own[name])

    return count


def _share(name: str) -> Measure:
    """A time of the machine's over ours, of which only ours has its spread in the results."""

    def share(own: Row, *_: object) -> Band | None:
        value = own.get(name)
        if value is None:
            return None
        bound = value * own["median_s"]
        return Band(float(value), bound / own["high_s"], bound / own["low_s"])

    return share


def _sharp(value: float) -> Band:
    return Band(float(value), float(value), float(value))


def _host_share(rival: Callable[[Rows], Row | None]) -> Measure:
    """Our host time as a share of a rival's."""

    def share(own: Row, rows: Rows, _: Cases) -> Band | None:
        other = rival(rows)
        if other is None or not own.get("host_s") or not other.get("host_s"):
            return None
        return _sharp(own["host_s"] / other["host_s"])

    return share


def _least_host_time(rows: Rows) -> Row | None:
    timed = [
        row
        for row in rows
        if row["status"] == "ok" and row["variant"].startswith(COMPILE) and row.get("host_s")
    ]
    return min(timed, key=lambda row: row["host_s"], default=None)


def _tensors(name: str) -> Measure:
    """Bytes as a number of tensors of the latent's size."""

    def tensors(own: Row, rows: Rows, found: Cases) -> Band | None:
        if own.get(name) is None:
            return None
        itemsize = {"float32": 4, "float64": 8}.get(own["dtype"], 2)
        return _sharp(own[name] / (own["elements"] * itemsize))

    return tensors


def _against_float32(own: Row, rows: Rows, found: Cases) -> Band | None:
    """Time as a share of float32's."""
    case = Case(*(own[name] for name in Case._fields))
    return times_faster(best(found.get(case._replace(dtype="float32"), [])), own)


MEASURES: dict[str, Measure] = {
    "of_copy": _share("of_copy"),
    "of_limit": _share("of_limit"),
    "vs_eager": lambda own, rows, _: times_faster(own, named(rows, EAGER)),
    "vs_compile": lambda own, rows, _: times_faster(own, fastest(rows, COMPILE)),
    "host_vs_eager": _host_share(lambda rows: named(rows, EAGER)),
    "host_vs_compile": _host_share(_least_host_time),
    "graph_kernels": _count("graph_kernels"),
    "peak_tensors": _tensors("peak_bytes"),
    "saved_tensors": _tensors("saved_bytes"),
    "saved_bytes": _count("saved_bytes"),
    "against_float32": _against_float32,
}

# --- the targets ----------------------------------------------------------------------------------

DTYPES = ("float32", "bfloat16")
EAGER_WORDS, COMPILE_WORDS = "times as fast as eager", "times as fast as torch.compile"


def _gpu_large(what: str, work: str, measure: str, bounds: tuple[float, float]) -> list[Target]:
    """For an H100 or H200, at 64M elements and more."""
    return [
        Target(what, "cuda", dtype, work, measure, bound, size="64M", larger=True)
        for dtype, bound in zip(DTYPES, bounds, strict=True)
    ]


def _gpu_small(what: str, measure: str, bound: float) -> list[Target]:
    return [
        Target(what, "cuda", dtype, BOTH, measure, bound, at_least=False, size="128x20")
        for dtype in DTYPES
    ]


def _cpu(what: str, work: str, measure: str, bound: float) -> list[Target]:
    return [Target(what, "cpu", dtype, work, measure, bound) for dtype in DTYPES]


# What may be kept for the backward pass beyond the inputs: a key, or the output and a key.
KEY = ("bytes kept beyond the inputs", "saved_bytes", 16.0)
OUTPUT = ("tensors kept beyond the inputs", "saved_tensors", 1.00001)


def _family(
    op: str,
    size: str,
    eager: float | None = None,
    compiled: float | None = None,
    kept: tuple[str, str, float] = KEY,
) -> list[Target]:
    """For two CPU cores, forward and backward; of no speed where none is given."""

    def one(what: str, measure: str, bound: float, at_least: bool) -> Target:
        return Target(what, "cpu", "float32", BOTH, measure, bound, at_least, size, op=op)

    speed = [(EAGER_WORDS, "vs_eager", eager), (COMPILE_WORDS, "vs_compile", compiled)]
    return [
        *(one(what, measure, bound, True) for what, measure, bound in speed if bound is not None),
        one(*kept, False),
    ]


TARGETS: tuple[Target, ...] = (
    *_gpu_large("share of copy bandwidth", "forward", "of_copy", (0.90, 0.85)),
    *_gpu_large("share of copy bandwidth", "backward", "of_copy", (0.90, 0.88)),
    *_gpu_large(EAGER_WORDS, BOTH, "vs_eager", (6, 6)),
    *_gpu_large(COMPILE_WORDS, "forward", "vs_compile", (2, 3)),
    *_gpu_large(COMPILE_WORDS, BOTH, "vs_compile", (1.4, 2)),
    *(
        # z and two gradients; a hundredth is left for the KL's partial sums.
        replace(target, at_least=False)
        for target in _gpu_large(
            "peak memory, in tensors of the latent's size", BOTH, "peak_tensors", (3.01, 3.01)
        )
    ),
    *_gpu_small("host time against eager's", "host_vs_eager", 0.6),
    *_gpu_small("host time against torch.compile's", "host_vs_compile", 1.0),
    # Before PyTorch 2.13 a captured generator's state can't be reached: a third draws the key.
    *_gpu_small("kernels in a CUDA graph (3 before PyTorch 2.13)", "graph_kernels", 2),
    *_cpu(EAGER_WORDS, BOTH, "vs_eager", 8),
    *_cpu(COMPILE_WORDS, BOTH, "vs_compile", 8),
    *_cpu("share of the machine's own limit", "forward", "of_limit", 0.7),
    *_cpu("share of the machine's own limit", "backward", "of_limit", 0.7),
    *_cpu("share of the machine's own limit", BOTH, "of_limit", 0.7),
    Target("time per element against float32's", "cpu", "bfloat16", BOTH, "against_float32", 1.0,
           at_least=False),
    *_family("sample_weight", "1e7", 10, 8),
    *_family("gumbel_softmax", "4x8192x16x16", 8, 3.5, OUTPUT),
    *_family("gumbel_softmax", "4096x1024", 6, 2, OUTPUT),
    *_family("tanh_normal_rsample", "256x6", 3, 3),
    *_family("gaussian_latent_samples", "8x128x1024", 6, 18),
    *_family("gaussian_latent_prior", "1M"),
    *_family("gaussian_rsample_log_prob", "1M"),
    *_family("categorical_latent", "4x8192x16x16", kept=OUTPUT),
    *_family("one_hot_categorical", "32768x32"),
    *(target for name in ("laplace", "logistic", "gumbel", "uniform", "cauchy", "student_t")
      for target in _family(f"loc_scale_{name}", "1M")),
    *_family("relaxed_bernoulli", "1M"),
    *_family("kumaraswamy_rsample", "1M"),
    *_family("log_normal_rsample", "1M"),
)  # fmt: skip

# What a time can't show: of each name between bars, a GPU test must have run, and all have passed.
TESTED = {
    "replays of a CUDA graph draw new noise": "replays_draw_new_noise|test_in_a_cuda_graph",
    "no synchronisation with the device": (
        "test_no_synchronisation(?!_)|test_no_synchronisation_and_two_kernels"
    ),
}
