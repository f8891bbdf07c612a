"""What the package must reach, in one place, and whether a machine's results reach it.

Every bound is a ratio within one run. Ours is the fastest of our backends, `torch.compile` the
fastest of its modes. Where a target holds for a range of sizes, the worst of them is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bench.ops import BOTH, OPS, WORKS
from bench.results import LATENT
from bench.sizes import shape_of


class Band(NamedTuple):
    """A figure that medians make, and the range that the quartiles of their samples leave it."""

    value: float
    low: float
    high: float


# What each measure is called; a bound is a least one of those that are in LEAST.
WHAT = {
    "of_copy": "share of copy bandwidth",
    "of_limit": "share of the machine's own limit",
    "vs_eager": "times as fast as eager",
    "vs_compile": "times as fast as torch.compile",
    "host_vs_eager": "host time against eager's",
    "host_vs_compile": "host time against torch.compile's",
    "graph_kernels": "kernels in a CUDA graph (3 before PyTorch 2.13)",
    "peak_tensors": "peak memory, in tensors of the latent's size",
    "saved_tensors": "tensors kept beyond the inputs",
    "saved_bytes": "bytes kept beyond the inputs",
    "against_float32": "time per element against float32's",
}
LEAST = ("of_copy", "of_limit", "vs_eager", "vs_compile")


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

    @property
    def at(self) -> str:
        return self.size.replace("+", " and more")

    @property
    def at_least(self) -> bool:
        return self.measure in LEAST

    def holds_for(self, case: Any) -> bool:
        if (self.op, self.dtype, self.work) != (case.op, case.dtype, case.work):
            return False
        own = math.prod(shape_of(self.size.rstrip("+")))
        return bool(case.elements == own or (self.size.endswith("+") and case.elements > own))

    def met_by(self, value: float) -> bool:
        return bool(value >= self.bound if self.at_least else value <= self.bound)


@dataclass(frozen=True)
class Verdict:
    target: Target
    size: str | None = None
    band: Band | None = None
    """The worst of the sizes; None where nothing was measured."""
    within_spread: bool = False
    """At the quartiles the answer would be the other one."""

    @classmethod
    def of(cls, target: Target, case: Any) -> Verdict:
        band = MEASURES[target.measure](case)
        if math.isnan(band.value):
            return cls(target)
        answers = {target.met_by(value) for value in band}
        return cls(target, case.size, band, within_spread=len(answers) > 1)

    @property
    def met(self) -> bool | None:
        return None if self.band is None else self.target.met_by(self.band.value)


def judge(cases: Iterable[Any], device_type: str) -> list[Verdict]:
    """A verdict on each target for this kind of device, of the lines of `frames.cases`."""
    found, asked = list(cases), [t for t in TARGETS if t.device == device_type]
    return [_worst(t, [Verdict.of(t, one) for one in found if t.holds_for(one)]) for t in asked]


def asked(case: Any) -> dict[str, Target]:
    """The targets that a case is held to, by their measures."""
    return {t.measure: t for t in TARGETS if t.device == case.device_type and t.holds_for(case)}


def _worst(target: Target, verdicts: list[Verdict]) -> Verdict:
    """Met beyond the spread where each size is, missed beyond it where one is."""
    found = [(one.band.value, one) for one in verdicts if one.band is not None]
    if not found:
        return Verdict(target)
    _, worst = (min if target.at_least else max)(found, key=lambda pair: pair[0])
    missed = [one.within_spread for _, one in found if not one.met]
    within = all(missed) if missed else any(one.within_spread for _, one in found)
    return replace(worst, within_spread=within)


# --- measures of a case; of nothing where something is not measured -------------------------------


def times(case: Any, rival: str, own: str = "own") -> Band:
    """How many times as fast as the rival."""
    pairs = (("median_s", "median_s"), ("low_s", "high_s"), ("high_s", "low_s"))
    return Band(*(getattr(case, f"{rival}_{theirs}") / getattr(case, f"{own}_{ours}")
                  for theirs, ours in pairs))  # fmt: skip


def _sharp(value: float) -> Band:
    """What has no spread: a count, or a share of which only the median is known."""
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


MEASURES: dict[str, Callable[[Any], Band]] = {
    "of_copy": _share("of_copy"),
    "of_limit": _share("of_limit"),
    "vs_eager": lambda case: times(case, "eager"),
    "vs_compile": lambda case: times(case, "compile"),
    "host_vs_eager": lambda case: _sharp(case.own_host_s / case.eager_host_s),
    "host_vs_compile": lambda case: _sharp(case.own_host_s / case.compile_least_host_s),
    "graph_kernels": lambda case: _sharp(case.own_graph_kernels),
    "peak_tensors": _tensors("peak_bytes"),
    "saved_tensors": _tensors("saved_bytes"),
    "saved_bytes": lambda case: _sharp(case.own_saved_bytes),
    "against_float32": lambda case: times(case, "own", "float32"),
}

# --- the targets ----------------------------------------------------------------------------------


def _each(measure: str, bounds: tuple[float, float], *rest: str) -> list[Target]:
    """Of the latent in float32 and in bfloat16; `rest` are device, work and size."""
    device, *place = rest
    return [Target(measure, bound, device, dtype, *place)
            for dtype, bound in zip(("float32", "bfloat16"), bounds, strict=True)]  # fmt: skip


# For two CPU cores: op, size, and times as fast as eager and torch.compile where that is asked.
_FAMILIES: tuple[tuple[str, str, *tuple[float, ...]], ...] = (
    ("sample_weight", "1e7", 10, 8),
    ("gumbel_softmax", "4x8192x16x16", 8, 3.5),
    ("gumbel_softmax", "4096x1024", 6, 2),
    ("tanh_normal_rsample", "256x6", 3, 3),
    ("gaussian_latent_samples", "8x128x1024", 6, 18),
    ("gaussian_latent_prior", "1M"),
    ("gaussian_rsample_log_prob", "1M"),
    ("categorical_latent", "4x8192x16x16"),
    ("one_hot_categorical", "32768x32"),
    *((name, "1M") for name in OPS if name.startswith("loc_scale_")),
    ("relaxed_bernoulli", "1M"),
    ("kumaraswamy_rsample", "1M"),
    ("log_normal_rsample", "1M"),
)


def _family(op: str, size: str, *speed: float) -> Iterator[Target]:
    for measure, bound in zip(("vs_eager", "vs_compile"), speed):  # noqa: B905
        yield Target(measure, bound, "cpu", size=size, op=op)
    # What may be kept for the backward pass beyond the inputs: a key, or the output and a key.
    whole = op in ("gumbel_softmax", "categorical_latent")
    kept = ("saved_tensors", 1.00001) if whole else ("saved_bytes", 16.0)
    yield Target(*kept, "cpu", size=size, op=op)


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
    # Before PyTorch 2.13 a captured generator's state can't be reached: a third draws the key.
    *_each("graph_kernels", (2, 2), "cuda", BOTH, "128x20"),
    *_each("vs_eager", (8, 8), "cpu"),
    *_each("vs_compile", (8, 8), "cpu"),
    *(one for work in WORKS for one in _each("of_limit", (0.7, 0.7), "cpu", work)),
    Target("against_float32", 1.0, "cpu", "bfloat16"),
    *(one for asked in _FAMILIES for one in _family(*asked)),
)

# What a time can't show: of each name between bars, a GPU test must have run, and all have passed.
TESTED = {
    "replays of a CUDA graph draw new noise": "replays_draw_new_noise|test_in_a_cuda_graph",
    "no synchronisation with the device": (
        "test_no_synchronisation(?!_)|test_no_synchronisation_and_two_kernels"
    ),
}
