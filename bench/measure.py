"""Runs the bench: for each case the gate, the timing, and the figures that take a single call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product

import torch

from bench import call_times, keeping, limits, machine, memory, profiles
from bench.cases import OpCase, StepCase
from bench.ops import OPS, WORKS
from bench.results import CALLS, FORMAT, STEPS, Result, Row
from bench.sizes import shape_of
from bench.steps import STEP, models
from bench.timing import (
    THOROUGH,
    Clock,
    Contestant,
    CudaClock,
    Effort,
    Spread,
    clock_for,
    interleave,
)
from bench.variants import COMPILE, EAGER, REFERENCE, Missing, Variant

Say = Callable[[str], object]
"""Hears what is going on."""
# The specification takes tens of times as long as the backend that it specifies.
REFERENCE_ELEMENTS = 1 << 22


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
    compiled: bool = False
    """Of small calls: once more with both sides through torch.compile."""


def measure_all(every: Sequence[Settings], say: Say = lambda _: None) -> Iterator[Result]:
    """For each op a result after each of its cases, with all rows that are there by then.

    The machine's limits are measured once.
    """
    machine.commit()  # before anything is measured: a commit made meanwhile changes no label
    first, device = every[0], torch.device(every[0].device)
    clock = clock_for(device)
    say("copies")
    brief = replace(first.effort, seconds=first.effort.seconds / 4)
    limit = limits.measure_limits(device, clock, brief, first.quick)
    for settings in every:
        if settings.op == CALLS:
            rows: list[Row] = []
            for compiled in (False, True) if settings.compiled else (False,):
                rows += call_times.rows(compiled, settings.quick, say)
                yield result(settings, limit, [], rows)
        else:
            yield from measure(settings, clock, limit, say)


def measure(
    settings: Settings,
    clock: Clock,
    limit: dict[str, float],
    say: Say = lambda _: None,
    variants: Sequence[Variant] | None = None,
) -> Iterator[Result]:
    """After each case all that is there by then of what the settings ask for, as a JSON-ready dict.

    Args:
        variants: in place of all.
    """
    rows: list[Row] = []
    cases = cases_of(settings)
    for index, case in enumerate(cases):
        say(f"{case.name} {case.size} {case.dtype}, {index + 1} of {len(cases)}")
        found, missing = case.variants() if variants is None else (variants, [])
        rows += measure_case(case, settings, chosen(found, settings), clock)
        yield result(settings, limit, missing, rows)


def cases_of(settings: Settings) -> list[OpCase]:
    device = torch.device(settings.device)
    if settings.op == STEPS:
        found = [StepCase.of(one, device) for one in models(settings.quick)]
        return [case for case in found if case.size in settings.sizes]
    return [
        OpCase(OPS[settings.op], size, shape_of(size), dtype, device)
        for dtype, size in product(settings.dtypes, settings.sizes)
    ]


def chosen(entries: Sequence[Variant], settings: Settings) -> list[Variant]:
    """Those of the variants that the settings ask for: a backend in a compiled model too."""
    wanted = settings.variants
    return [e for e in entries if not wanted or e.backend in (EAGER, *wanted)]


def result(
    settings: Settings, limit: dict[str, float], missing: Sequence[Missing], rows: list[Row]
) -> Result:
    # A run may end before it comes to all cases.
    done = {(row["dtype"], row["size"]) for row in rows}
    return {
        "format": FORMAT,
        "machine": machine.describe(torch.device(settings.device)),
        "settings": asdict(settings),
        "limits": limit,
        "missing": list(missing),
        "complete": done >= set(product(settings.dtypes, settings.sizes)),
        "rows": list(rows),
    }


def measure_case(
    case: OpCase, settings: Settings, variants: Sequence[Variant], clock: Clock
) -> list[Row]:
    """The rows of one case: variants that pass the gate with their figures, others without."""
    if any(variant.name.startswith(COMPILE) for variant in variants):
        # Each size gets code of its own: compiled again for a second one, it would be general.
        torch.compiler.reset()
    if case.device.type == "cuda":
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
    works = [work for work in case.works if work in (*settings.works, STEP)]
    rows: dict[tuple[str, str], Row] = {}
    passed = []
    for variant in variants:
        status = _too_slow(case, variant, variants) or _checked(case, variant)
        if status["status"] == "ok":
            passed.append(variant)
        for work in works:
            rows[work, variant.name] = _row(case, work, variant) | status
    for work in works:
        for name, found in _timed(case, work, passed, clock, settings.effort).items():
            rows[work, name] |= found
    # All host times first: launches may take longer once a profiler has been there.
    for name in ("host_s", "peak_bytes"):
        for variant, work in product(passed, works):
            if rows[work, variant.name]["status"] == "ok":
                rows[work, variant.name] |= _single_call(name, case, work, variant, clock)
    return [rows[work, variant.name] for work in works for variant in variants]


def _row(case: OpCase, work: str, variant: Variant) -> Row:
    return {
        "op": case.name, "size": case.size, "shape": "x".join(map(str, case.shape)),
        "elements": case.elements, "dtype": case.dtype, "work": work, "variant": variant.name,
        "ours": variant.ours, "threads": torch.get_num_threads(), "moved_bytes": case.moved(work),
    }  # fmt: skip


def _too_slow(case: OpCase, variant: Variant, variants: Sequence[Variant]) -> Row | None:
    size = max(case.elements, case.noise_elements("forward"))
    if variant.backend != REFERENCE or size <= REFERENCE_ELEMENTS:
        return None
    if not any(v.ours and v.backend != REFERENCE for v in variants):
        return None
    reason = f"the specification is timed up to {REFERENCE_ELEMENTS:,} elements, or by itself"
    return {"status": "skipped", "reason": reason}


def _checked(case: OpCase, variant: Variant) -> Row:
    """Status of all rows of a variant, and the bytes that it saves."""
    try:
        # Who keeps memory has it beside the others' at work.
        reason = memory.too_little(case.need * (2 if variant.keeps else 1), case.device)
        if reason is not None:
            return {"status": "skipped", "reason": reason}
        reason = case.problem(variant) if variant.ours else None
        if reason is not None:
            return {"status": "failed", "reason": reason}
        if variant.overwrites:  # a CUDA graph is recorded in the second call
            one = case.contestant(case.works[-1], variant)
            for item in (*one.prepare(1), *one.prepare(1)):
                one.call(item)
        return {"status": "ok", "saved_bytes": case.saved_bytes(variant)}
    except Exception as error:  # whatever it dies of, the others are to be measured
        return _death(error)


def _death(error: Exception) -> Row:
    status = "skipped" if memory.is_out_of_memory(error) else "failed"
    return {"status": status, "reason": _sentence(error)}


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _timed(
    case: OpCase, work: str, variants: Sequence[Variant], clock: Clock, effort: Effort
) -> dict[str, Row]:
    """What the interleaved rounds of one kind of work show, by variant."""
    found: dict[str, Row] = {}
    entered: list[Contestant] = []
    for variant in variants:
        try:
            make = partial(keeping.contestant, case) if variant.keeps else case.contestant
            entered.append(make(work, variant))
        except Exception as error:
            found[variant.name] = _death(error)
    if not entered:
        return found
    moved, rivals = case.moved(work), list[Contestant]()
    if moved:
        with suppress(RuntimeError):  # no memory for it: the rows do without
            rivals.append(limits.copying(moved, case.device))
        count = case.noise_elements(work)
        rivals += limits.noise(count, case.torch_dtype, case.device, case.op.base)
    spreads = interleave(clock, [*entered, *rivals], effort)
    for one in entered:
        if one.problem is not None:
            found[one.name] = _death(one.problem)
        else:
            found[one.name] = {"calls": one.calls} | figures(case, work, spreads, one.name)
    return found


def figures(case: OpCase, work: str, spreads: dict[str, Spread], name: str) -> Row:
    """What follows from the medians: rates, and ratios to the rivals and to the machine."""
    spread, moved = spreads[name], case.moved(work)
    ratio = {rival: spreads[rival].median / spread.median for rival in spreads}
    copy = spreads.get(limits.COPY)
    # What the noise alone took in the same rounds; not known where nobody makes it in the caches,
    # as on a GPU.
    none = 0.0 if case.device.type == "cpu" and not case.noise_elements(work) else None
    noise = spreads[limits.NOISE].median if limits.NOISE in spreads else none
    bound = None if copy is None or noise is None else max(copy.median, noise)
    return {
        "median_s": spread.median, "low_s": spread.low, "high_s": spread.high,
        "samples": spread.samples, "ns_per_element": spread.median / case.elements * 1e9,
        "gb_per_s": None if moved is None else moved / spread.median / 1e9,
        "copy_s": None if copy is None else copy.median, "of_copy": ratio.get(limits.COPY),
        "noise_s": None if copy is None else noise,
        "of_limit": None if bound is None else bound / spread.median,
        "vs_eager": ratio.get(EAGER), "vs_compile": ratio.get(COMPILE),
    }  # fmt: skip


def _single_call(name: str, case: OpCase, work: str, variant: Variant, clock: Clock) -> Row:
    """A figure that a single call shows, or why there is none: PyTorch's interfaces for these
    differ by release."""
    if name == "host_s" and not isinstance(clock, CudaClock):
        return {name: None}
    if name == "peak_bytes" and variant.overwrites:
        return {name: None, "peak_reason": "its results are in CUDA graphs of its own"}
    figure = profiles.host_seconds if name == "host_s" else profiles.peak_bytes
    try:
        return {name: figure(case.contestant(work, variant), case.device)}
    except Exception as error:
        return {name: None, f"{name.split('_')[0]}_reason": _sentence(error)}
