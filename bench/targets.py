"""What the package must reach, in one place, and whether a machine's results reach it.

Every bound is a ratio within one run. Ours is the fastest of our backends, `torch.compile` the
fastest of its modes. Where a target holds for a range of sizes, the worst of them is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from bench.ops import BOTH
from bench.results import LATENT, Band, Case, Result, Rivals, Row, rivals, times_faster
from bench.sizes import shape_of
from bench.variants import COMPILE, EAGER

Found = dict[Case, Rivals]


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

    def holds_for(self, one: Rivals) -> bool:
        own, case = math.prod(shape_of(self.size)), one.case
        if (self.op, self.dtype, self.work) != (case.op, case.dtype, case.work):
            return False
        return one.elements == own or (self.larger and one.elements > own)

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
    found = {one.case: one for one in rivals(results)}
    return [_verdict(target, found) for target in TARGETS if target.device == device_type]


def asked(one: Rivals) -> dict[str, Target]:
    """The targets that a case is held to, by their measures."""
    return {t.measure: t for t in TARGETS if t.device == one.device_type and t.holds_for(one)}


def _verdict(target: Target, found: Found) -> Verdict:
    verdicts = []
    for one in found.values():
        if target.holds_for(one) and one.own is not None:
            band = MEASURES[target.measure](one.own, one, found)
            if band is not None:
                verdicts.append(Verdict.of(target, one.case.size, band))
    return _worst(verdicts) if verdicts else Verdict(target)


def _worst(verdicts: list[Verdict]) -> Verdict:
    """Met beyond the spread where each size is, missed beyond it where one is."""

    def margin(verdict: Verdict) -> float:
        value = verdict.value or 0.0
        return value if verdict.target.at_least else -value

    missed = [verdict for verdict in verdicts if not verdict.met]
    within = [verdict.within_spread for verdict in missed or verdicts]
    return replace(min(verdicts, key=margin), within_spread=all(within) if missed else any(within))


# --- measures: our row, its case, and all cases; None where something is not measured -------------

Measure = Callable[[Row, Rivals, Found], Band | None]


def _sharp(value: float | None) -> Band | None:
    """What has no spread: a count, or a share of which only the median is known."""
    return None if value is None else Band(float(value), float(value), float(value))


def _share(name: str) -> Measure:
    """A time of the machine's over ours, of which only ours has its spread in the results."""

    def share(own: Row, *_: object) -> Band | None:
        value = own.get(name)
        if value is None:
            return None
        bound = value * own["median_s"]
        return Band(float(value), bound / own["high_s"], bound / own["low_s"])

    return share


def _host_share(own: Row, rows: Iterable[Row | None]) -> Band | None:
    """Our host time as a share of the least of theirs."""
    times = [row["host_s"] for row in rows if row and row["status"] == "ok" and row.get("host_s")]
    return _sharp(own["host_s"] / min(times)) if times and own.get("host_s") else None


def _tensors(name: str) -> Measure:
    """Bytes as a number of tensors of the latent's size."""

    def tensors(own: Row, *_: object) -> Band | None:
        itemsize = {"float32": 4, "float64": 8}.get(own["dtype"], 2)
        value = own.get(name)
        return None if value is None else _sharp(value / (own["elements"] * itemsize))

    return tensors


def _against_float32(own: Row, one: Rivals, found: Found) -> Band | None:
    """Time as a share of float32's."""
    other = found.get(one.case._replace(dtype="float32"))
    return times_faster(other.own, own) if other else None


MEASURES: dict[str, Measure] = {
    "of_copy": _share("of_copy"),
    "of_limit": _share("of_limit"),
    "vs_eager": lambda own, one, _: times_faster(own, one.named(EAGER)),
    "vs_compile": lambda own, one, _: times_faster(own, one.compiled),
    "host_vs_eager": lambda own, one, _: _host_share(own, [one.named(EAGER)]),
    "host_vs_compile": lambda own, one, _: _host_share(
        own, [row for row in one.rows if row["variant"].startswith(COMPILE)]
    ),
    "graph_kernels": lambda own, *_: _sharp(own.get("graph_kernels")),
    "peak_tensors": _tensors("peak_bytes"),
    "saved_tensors": _tensors("saved_bytes"),
    "saved_bytes": lambda own, *_: _sharp(own.get("saved_bytes")),
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
