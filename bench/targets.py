"""What the package must reach, in one place, and whether a machine's results reach it.

Every bound is a ratio within one run. Ours is the fastest of our backends, `torch.compile` the
fastest of its modes. Where a target holds for a range of sizes, the worst of them is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from bench.ops import BACKWARD, BOTH, FORWARD, OPS
from bench.results import LATENT, STEPS
from bench.sizes import shape_of
from bench.steps import STEP


class Band(NamedTuple):
    """A figure that medians make, and the range that the quartiles of their samples leave it."""

    value: float
    low: float
    high: float


# --- measures of a case; NaN where something is not measured --------------------------------------


def times(case: Any, rival: str, own: str = "own") -> Band:
    """How many times as fast as the rival."""
    pairs = (("median_s", "median_s"), ("low_s", "high_s"), ("high_s", "low_s"))
    return Band(*(getattr(case, f"{rival}_{theirs}") / getattr(case, f"{own}_{ours}")
                  for theirs, ours in pairs))  # fmt: skip


def _sharp(value: float) -> Band:
    """What has no spread: a count, or a time of which only the median is known."""
    return Band(value, value, value)


def _share(name: str) -> Callable[[Any], Band]:
    """A time of the machine's over ours, of which only ours has its spread in the results."""

    def share(case: Any) -> Band:
        value = getattr(case, f"own_{name}")
        bound = value * case.own_median_s
        return Band(value, bound / case.own_high_s, bound / case.own_low_s)

    return share


def _tensors(name: str) -> Callable[[Any], Band]:
    """Bytes as a number of tensors of the latent's size."""

    def tensors(case: Any) -> Band:
        itemsize = {"float32": 4, "float64": 8}.get(case.dtype, 2)
        return _sharp(getattr(case, f"own_{name}") / (case.elements * itemsize))

    return tensors


class Measure(NamedTuple):
    what: str
    of: Callable[[Any], Band]
    unit: str = ""
    at_least: bool = False
    """Whether a bound is a least value, or a largest one."""


MEASURES = {
    "of_copy": Measure("share of copy bandwidth", _share("of_copy"), "%", True),
    "of_limit": Measure("share of the machine's own limit", _share("of_limit"), "%", True),
    "vs_eager": Measure("times as fast as eager", partial(times, rival="eager"), "x", True),
    "vs_compile": Measure(
        "times as fast as torch.compile", partial(times, rival="compile"), "x", True),
    "host_vs_eager": Measure(
        "host time against eager's", lambda case: _sharp(case.own_host_s / case.eager_host_s)),
    "host_vs_compile": Measure(
        "host time against torch.compile's",
        lambda case: _sharp(case.own_host_s / case.compile_least_host_s)),
    "peak_tensors": Measure("peak memory, in tensors of the latent's size", _tensors("peak_bytes")),
    "saved_tensors": Measure("tensors kept beyond the inputs", _tensors("saved_bytes")),
    "saved_bytes": Measure(
        "bytes kept beyond the inputs", lambda case: _sharp(case.own_saved_bytes)),
    "against_float32": Measure(
        "time per element against float32's", partial(times, rival="own", own="float32")),
}  # fmt: skip

# --- targets and verdicts -------------------------------------------------------------------------


class Target(NamedTuple):
    """One bound on one measure of an op."""

    measure: str
    bound: float
    device: str
    dtype: str = "float32"
    work: str = BOTH
    size: str = "16M"
    """As the bench's users write it; with a plus it is that and every larger one."""
    op: str = LATENT

    def holds_for(self, case: Any) -> bool:
        if (self.op, self.dtype, self.work) != (case.op, case.dtype, case.work):
            return False
        own = math.prod(shape_of(self.size.rstrip("+")))
        return bool(case.elements == own or (self.size.endswith("+") and case.elements > own))


class Verdict(NamedTuple):
    """The worst of the sizes; a figure that is NaN where nothing was measured."""

    target: Target
    size: str
    band: Band

    @property
    def met(self) -> bool | None:
        value, bound = self.band.value, self.target.bound
        if math.isnan(value):
            return None
        return value >= bound if MEASURES[self.target.measure].at_least else value <= bound


def judged(target: Target, cases: Iterable[Any]) -> Verdict:
    measure = MEASURES[target.measure]
    found = [(measure.of(one), one.size) for one in cases if target.holds_for(one)]
    found = [pair for pair in found if not math.isnan(pair[0].value)]
    if not found:
        return Verdict(target, target.size.replace("+", " and more"), _sharp(math.nan))
    band, size = (min if measure.at_least else max)(found, key=lambda pair: pair[0].value)
    return Verdict(target, size, band)


def judge(cases: Iterable[Any], device_type: str) -> list[Verdict]:
    """A verdict on each target for this kind of device, of the lines of `frames.cases`."""
    found = list(cases)
    return [judged(target, found) for target in TARGETS if target.device == device_type]


# --- the targets ----------------------------------------------------------------------------------


def _each(measure: str, bounds: tuple[float, float], *rest: str) -> list[Target]:
    """Of the latent in float32 and in bfloat16; `rest` are device, work and size."""
    device, *place = rest
    return [Target(measure, bound, device, dtype, *place)
            for dtype, bound in zip(("float32", "bfloat16"), bounds, strict=True)]  # fmt: skip


def _of_ops() -> Iterator[Target]:
    """For two CPU cores: what the ops' rows ask."""
    for op in OPS.values():
        for size, *speed in op.asked:
            for measure, bound in zip(("vs_eager", "vs_compile"), speed):  # noqa: B905
                yield Target(measure, bound, "cpu", size=size, op=op.name)
            # What may be kept for the backward pass beyond the inputs: a key, or tensors and a key.
            kept = ("saved_tensors", op.keeps + 1e-5) if op.keeps else ("saved_bytes", 16.0)
            yield Target(*kept, "cpu", size=size, op=op.name)


TARGETS: tuple[Target, ...] = (
    # For an H100 or H200.
    *_each("of_copy", (0.90, 0.85), "cuda", "forward", "64M+"),
    *_each("of_copy", (0.90, 0.88), "cuda", "backward", "64M+"),
    *_each("vs_eager", (6, 6), "cuda", BOTH, "64M+"),
    *_each("vs_compile", (2, 3), "cuda", "forward", "64M+"),
    *_each("vs_compile", (1.4, 2), "cuda", BOTH, "64M+"),
    # z and two gradients; a hundredth is left for the KL's partial sums.
    *_each("peak_tensors", (3.01, 3.01), "cuda", BOTH, "64M+"),
    *_each("host_vs_eager", (0.6, 0.6), "cuda", BOTH, "128x20"),
    *_each("host_vs_compile", (1.0, 1.0), "cuda", BOTH, "128x20"),
    # Large results, whose memory is kept for the next ones.
    *_each("vs_eager", (15, 20), "cpu"),
    *_each("vs_compile", (15, 20), "cpu"),
    *_each("of_limit", (0.7, 0.7), "cpu", FORWARD),
    *_each("of_limit", (0.7, 0.7), "cpu", BACKWARD),
    *_each("of_limit", (0.8, 0.75), "cpu"),
    Target("against_float32", 1.0, "cpu", "bfloat16"),
    *_of_ops(),
    # Of a Bayesian layer.
    Target("vs_eager", 6, "cpu", work=STEP, size="1e8", op=STEPS),
)
