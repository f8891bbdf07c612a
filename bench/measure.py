"""Runs the bench: for each dtype and size, the gate, the memory count, then the timing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bench import limits, machine
from bench.gate import verdict
from bench.memory import saved_bytes
from bench.ops.base import WORKS, Op, Tensors
from bench.sizes import shape_of
from bench.timing import THOROUGH, Clock, Contestant, Effort, Spread, clock_for, interleave
from bench.variants import COMPILE, EAGER, Missing, Variant
from bench.variants import variants as variants_of

FORMAT = 1
# Graphs kept ready for the backward pass of small sizes may take this much memory.
GRAPH_BYTES = 1 << 28

Row = dict[str, Any]
Tick = Callable[[str, float], object]
"""Hears what is going on and which share of it is done."""


@dataclass(frozen=True)
class Settings:
    """What to measure, as it goes into the result file."""

    op: str
    device: str = "cpu"
    sizes: tuple[str, ...] = ("128x20", "1M", "16M")
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    works: tuple[str, ...] = WORKS
    variants: tuple[str, ...] = ()
    """Only these, and eager; empty for all."""
    quick: bool = False
    effort: Effort = THOROUGH


@dataclass(frozen=True)
class Case:
    """One op at one size and dtype, with its inputs."""

    op: Op
    size: str
    dtype: str
    inputs: Tensors

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.inputs[0].shape)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def moved(self, work: str) -> int:
        """Bytes that the op must read and write for `work`."""
        return self.op.tensors_moved[work] * self.elements * self.inputs[0].element_size()


def measure(
    op: Op,
    settings: Settings,
    tick: Tick = lambda *_: None,
    variants: Sequence[Variant] | None = None,
) -> dict[str, Any]:
    """Everything that the settings ask for, as one JSON-ready dict."""
    device = torch.device(settings.device)
    clock = clock_for(device)
    effort = settings.effort
    missing: list[Missing] = []
    if variants is None:
        variants, missing = variants_of(op, device)
    wanted = (EAGER, *settings.variants)
    if settings.variants:
        variants = [v for v in variants if v.name in wanted]
        missing = [m for m in missing if m.name in wanted]
    dtypes = [getattr(torch, name) for name in settings.dtypes]
    tick("copy and noise", 0.0)
    brief = replace(effort, seconds=effort.seconds / 4)
    limit = limits.measure_limits(device, dtypes, clock, brief, settings.quick)
    rows: list[Row] = []
    cases = [(dtype, size) for dtype in settings.dtypes for size in settings.sizes]
    for index, (dtype, size) in enumerate(cases):
        inputs = op.inputs(shape_of(size), getattr(torch, dtype), device)
        case = Case(op, size, dtype, inputs)

        def progress(
            what: str, done: float, index: int = index, name: str = f"{size} {dtype}"
        ) -> None:
            tick(f"{name}: {what}", (index + done) / len(cases))

        rows += measure_case(case, settings.works, variants, clock, effort, limit, progress)
    return {
        "format": FORMAT,
        "machine": machine.describe(device),
        "settings": asdict(settings),
        "limits": limit,
        "missing": [asdict(m) for m in missing],
        "rows": rows,
    }


def measure_case(
    case: Case,
    works: Sequence[str],
    variants: Sequence[Variant],
    clock: Clock,
    effort: Effort,
    limit: dict[str, Any],
    tick: Tick,
) -> list[Row]:
    """The rows of one case: variants that pass the gate with their times, the others without."""
    if any(variant.name.startswith(COMPILE) for variant in variants):
        # Each size gets code of its own: compiled again for a second one, it would be general.
        torch.compiler.reset()
    rows, passed, saved = [], [], {}
    for variant in variants:
        tick(f"checking {variant.name}", 0.0)
        problem = verdict(case.op, variant, case.inputs)
        if problem:
            rows += [_row(case, work, variant, status="failed", reason=problem) for work in works]
            continue
        passed.append(variant)
        with variant.context():
            saved[variant.name] = saved_bytes(variant.compute, case.inputs)
    for index, work in enumerate(works):
        made = case.op.tensors_made[work]
        contestants = [contestant(case, work, variant) for variant in passed]
        contestants.append(limits.copy_contestant(case.moved(work), case.inputs[0].device))
        contestants.append(limits.fresh_contestant(case.inputs[0], made))

        def progress(done: float, index: int = index, work: str = work) -> None:
            tick(work, (index + done) / len(works))

        spreads = interleave(clock, contestants, effort, progress)
        calls = {c.name: c.calls for c in contestants}
        rows += [
            _row(case, work, v, status="ok", saved_bytes=saved[v.name], calls=calls[v.name])
            | figures(case, work, spreads, v.name, limit)
            for v in passed
        ]
    order = {variant.name: index for index, variant in enumerate(variants)}
    return sorted(rows, key=lambda row: (works.index(row["work"]), order[row["variant"]]))


def contestant(case: Case, work: str, variant: Variant) -> Contestant:
    """`variant` doing `work`. The backward pass finds its graphs ready, a new one for each call."""
    compute, inputs = variant.compute, case.inputs
    with variant.context():
        incoming = case.op.incoming(compute(*inputs))

    def forward(_: object = None) -> Tensors:
        return compute(*inputs)

    def backward(outputs: Tensors) -> Tensors:
        return torch.autograd.grad(outputs, inputs, incoming)

    def both(_: object) -> Tensors:
        return torch.autograd.grad(compute(*inputs), inputs, incoming)

    if work != "backward":
        call = forward if work == "forward" else both
        return Contestant(variant.name, call, context=variant.context)

    most = max(1, GRAPH_BYTES // (10 * case.elements * inputs[0].element_size()))
    if "reduce-overhead" in variant.name:
        most = 1  # a CUDA graph's next forward pass overwrites what the last one kept

    def graphs(count: int) -> list[Tensors]:
        return [compute(*inputs) for _ in range(count)]

    return Contestant(variant.name, backward, graphs, variant.context, most)


def figures(
    case: Case, work: str, spreads: dict[str, Spread], name: str, limit: dict[str, Any]
) -> Row:
    """What follows from the medians: rates, and ratios to the rivals and to the machine."""
    spread, copy, moved = spreads[name], spreads[limits.COPY], case.moved(work)
    noise = min(limit["normal_ns"][case.dtype].values()) * 1e-9
    bound = max(copy.median, case.op.noise_passes[work] * case.elements * noise)
    ratio = {rival: spreads[rival].median / spread.median for rival in spreads}
    return {
        "median_s": spread.median,
        "low_s": spread.low,
        "high_s": spread.high,
        "samples": spread.samples,
        "ns_per_element": spread.median / case.elements * 1e9,
        "gb_per_s": moved / spread.median / 1e9,
        "copy_s": copy.median,
        "of_copy": ratio[limits.COPY],
        "fresh_s": spreads[limits.FRESH].median,
        "of_fresh": ratio[limits.FRESH],
        "of_limit": bound / spread.median,
        "vs_eager": ratio.get(EAGER),
        "vs_compile": ratio.get(COMPILE),
    }


def _row(case: Case, work: str, variant: Variant, **more: object) -> Row:
    return {
        "op": case.op.name,
        "size": case.size,
        "shape": "x".join(map(str, case.shape)),
        "elements": case.elements,
        "dtype": case.dtype,
        "work": work,
        "variant": variant.name,
        "ours": variant.ours,
        "threads": torch.get_num_threads(),
        "moved_bytes": case.moved(work),
    } | more
