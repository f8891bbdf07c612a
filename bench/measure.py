"""Runs the bench: for each case the check, the timing, and the figures that take a single call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch

from bench import calls, launches, limits, machine, memory, results
from bench.cases import OpCase
from bench.ops import OPS, WORKS
from bench.results import CALLS, FORMAT, STEPS, Result, Row
from bench.sizes import shape_of
from bench.steps import STEP, StepCase, models
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
from bench.variants import COMPILE, EAGER, Missing, Variant
from bench.variants import variants as variants_of

Case = OpCase | StepCase
_Variants = tuple[Sequence[Variant], Sequence[Missing]]
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
    compiled: bool = False
    """Of small calls: once more with both sides through torch.compile."""


def within(tick: Tick, index: int, count: int, head: str = "") -> Tick:
    """What hears of one of several parts of the whole."""
    return lambda what, done: tick(f"{head}{what}", (index + done) / count)


class Skipped(Exception):
    """What is measured here does not fit this machine."""


class DeviceLost(BaseException):
    """CUDA fails from here on, whoever calls it: no handler of a call's errors may take it."""


def measure_all(every: Sequence[Settings], tick: Tick = lambda *_: None) -> Iterator[Result]:
    """For each op a result after each of its cases, with all rows that are there by then.

    The machine's limits are measured once.

    Raises:
        DeviceLost: a variant has left CUDA in a state in which no call works.
    """
    machine.commit()  # before anything is measured: a commit made meanwhile changes no label
    device = torch.device(every[0].device)
    clock = clock_for(device)
    tick("copies", 0.0)
    limit = machine_limits(every[0], clock)
    wrong: dict[str, str] = {}
    if not every[0].quick:
        tick("self-test", 0.0)
        wrong = self_test(device)
    for index, settings in enumerate(every):
        progress = within(tick, index, len(every), f"{settings.op} ")
        if settings.op == CALLS:
            rows: list[Row] = []
            for compiled in (False, True) if settings.compiled else (False,):
                rows += calls.rows(compiled, settings.quick, progress)
                yield result(settings, limit, (), rows)
        else:
            yield from measure(settings, clock, limit, progress, wrong=wrong)


def self_test(device: torch.device) -> dict[str, str]:
    """What the package's self-test finds wrong with backends of ours, by their names.

    Only of the CPU: on a GPU it compiles for minutes; `gpu-report` runs the numeric tests there.
    """
    from fused_reparam import selftest

    lines: list[str] = []
    if device.type != "cpu":
        return {}
    selftest.run([device], lines.append)
    found = [line.partition(f" on {device.type}: FAILED ") for line in lines]
    return {name: f"self-test: {problem}" for name, marker, problem in found if marker}


def cases_of(settings: Settings) -> list[tuple[Case, Callable[[], _Variants]]]:
    """The cases that settings ask for, and what makes their variants."""
    device = torch.device(settings.device)
    if settings.op == STEPS:
        found = [StepCase(one, device) for one in models(settings.quick)]
        return [(case, case.variants) for case in found if case.size in settings.sizes]
    op = OPS[settings.op]
    return [
        (OpCase(op, size, shape_of(size), dtype, device), lambda: variants_of(op, device))
        for dtype in settings.dtypes
        for size in settings.sizes
    ]


def measure(
    settings: Settings,
    clock: Clock,
    limit: dict[str, Any],
    tick: Tick = lambda *_: None,
    variants: Sequence[Variant] | None = None,
    wrong: dict[str, str] = {},  # noqa: B006
) -> Iterator[Result]:
    """After each case all that is there by then of what the settings ask for, as a JSON-ready dict.

    Args:
        variants: in place of all.
        wrong: backends of ours that are not to be timed, and why.
    """
    rows: list[Row] = []
    cases = cases_of(settings)
    for index, (case, variants_of_case) in enumerate(cases):
        progress = within(tick, index, len(cases), f"{case.size} {case.dtype}: ")
        found, missing = (variants, []) if variants is not None else variants_of_case()
        asked = chosen(found, settings)
        rows += measure_case(case, settings, asked, clock, progress, wrong)
        yield result(settings, limit, chosen(missing, settings), rows)


def chosen(entries: Sequence[Any], settings: Settings) -> list[Any]:
    """Those of the variants (or the missing ones) that the settings ask for.

    A backend's name asks for it in a compiled model too.
    """
    wanted = settings.variants
    return [e for e in entries if not wanted or e.name.split(",")[0] in (EAGER, *wanted)]


def machine_limits(settings: Settings, clock: Clock) -> dict[str, Any]:
    brief = replace(settings.effort, seconds=settings.effort.seconds / 4)
    return limits.measure_limits(torch.device(settings.device), clock, brief, settings.quick)


def result(
    settings: Settings, limit: dict[str, Any], missing: Sequence[Missing], rows: list[Row]
) -> Result:
    return {
        "format": FORMAT,
        "machine": machine.describe(torch.device(settings.device)),
        "settings": asdict(settings),
        "limits": limit,
        "missing": [asdict(m) for m in missing],
        "complete": not _lacking(settings, rows),
        "warnings": results.warnings(rows),
        "rows": list(rows),
    }


def _lacking(settings: Settings, rows: Sequence[Row]) -> set[tuple[str, str]]:
    """The cases that are still to be measured: a run may end before it comes to them."""
    done = {(row["dtype"], row["size"]) for row in rows}
    return set(product(settings.dtypes, settings.sizes)) - done


def measure_case(
    case: Case,
    settings: Settings,
    variants: Sequence[Variant],
    clock: Clock,
    tick: Tick,
    wrong: dict[str, str],
) -> list[Row]:
    """The rows of one case: variants that pass the check with their figures, others without."""
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
        tick(f"checking {variant.name}", 0.0)
        bad = wrong.get(variant.name.split(",")[0]) if variant.ours else None
        status: Row = {"status": "failed", "reason": bad}
        if bad is None:
            status = _too_slow(case, variant, variants) or _checked(case, variant)
        if status["status"] == "ok":
            passed.append(variant)
        for work in works:
            rows[work, variant.name] = _row(case, work, variant) | status
    for index, work in enumerate(works):
        progress = within(tick, index, len(works))
        timed = _timed(case, work, passed, clock, settings.effort, progress)
        for name, figures in timed.items():
            rows[work, name] |= figures
    tick("memory and launches", 1.0)
    # All host times first: launches may take longer once a profiler has been there.
    for figures_of in (_host_time, _single_calls):
        for (work, name), row in rows.items():
            [variant] = [v for v in variants if v.name == name]
            if row["status"] == "ok":
                row |= figures_of(case, work, variant, clock)
    return [rows[work, variant.name] for work in works for variant in variants]


# The specification takes tens of times as long as the backend that it specifies.
REFERENCE_ELEMENTS = 1 << 22


def _too_slow(case: Case, variant: Variant, variants: Sequence[Variant]) -> Row | None:
    size = max(case.elements, case.noise_elements("forward"))
    if variant.family != "reference" or size <= REFERENCE_ELEMENTS:
        return None
    if not any(v.ours and v.family != "reference" for v in variants):
        return None
    reason = f"the specification is timed up to {REFERENCE_ELEMENTS:,} elements, or by itself"
    return {"status": "skipped", "reason": reason}


def _checked(case: Case, variant: Variant) -> Row:
    """Status of all rows of a variant, and the bytes that it saves."""
    try:
        _fits(case, case.works[-1], variant)
        problem = case.verdict(variant)
        if problem:
            return {"status": "failed", "reason": problem}
        return {"status": "ok", "saved_bytes": case.saved_bytes(variant)}
    except Exception as error:  # whatever it dies of, the others are to be measured
        return _death(error, case, variant.name)


def _fits(case: Case, work: str, variant: Variant) -> None:
    problem = memory.too_little(case.need(work, variant), case.device)
    if problem:
        raise Skipped(problem)


def _death(error: Exception, case: Case, name: str) -> Row:
    _end_if_lost(error, case, name)
    skipped = isinstance(error, Skipped) or memory.is_out_of_memory(error)
    return {"status": "skipped" if skipped else "failed", "reason": _sentence(error)}


def _end_if_lost(error: Exception, case: Case, name: str) -> None:
    """Some errors are of one call (no memory, no capture); after others no call works any more."""
    if case.device.type != "cuda" or isinstance(error, Skipped):
        return
    try:
        torch.cuda.synchronize(case.device)
    except Exception:
        raise DeviceLost(
            f"{case.name}, {case.size} {case.dtype}, {name}: {_sentence(error)}; CUDA fails from "
            "then on, so the run ends here; the cases before this one are written"
        ) from error


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, Skipped) else f"{type(error).__name__}: {text}"


def _timed(
    case: Case,
    work: str,
    variants: Sequence[Variant],
    clock: Clock,
    effort: Effort,
    tick: Tick,
) -> dict[str, Row]:
    """What the interleaved rounds of one kind of work show, by variant."""
    found: dict[str, Row] = {}
    contestants = []
    for variant in variants:
        try:
            _fits(case, work, variant)
            contestants.append(case.contestant(work, variant))
        except Exception as error:
            found[variant.name] = _death(error, case, variant.name)
    if not contestants:
        return found
    moved, made = case.moved(work), case.made(work)
    rivals: list[Contestant] = []
    if moved:
        with suppress(RuntimeError):  # no memory for them: the rows do without
            rivals = limits.copies(moved, made or 0, case.device)
        count = case.noise_elements(work)
        rivals += limits.noise(count, getattr(torch, case.dtype), case.device, case.base)
    spreads = interleave(clock, [*contestants, *rivals], effort, lambda done: tick(work, done))
    for contestant in contestants:
        if contestant.problem is not None:
            found[contestant.name] = _death(contestant.problem, case, contestant.name)
        else:
            found[contestant.name] = {"calls": contestant.calls}
            found[contestant.name] |= figures(case, work, spreads, contestant.name)
    return found


def figures(case: Case, work: str, spreads: dict[str, Spread], name: str) -> Row:
    """What follows from the medians: rates, and ratios to the rivals and to the machine."""
    spread, moved = spreads[name], case.moved(work)
    ratio = {rival: spreads[rival].median / spread.median for rival in spreads}
    copy, fresh = spreads.get(limits.COPY), spreads.get(limits.FRESH)
    # What the noise alone took in the same rounds; not known where nobody makes it in the caches,
    # as on a GPU.
    none = 0.0 if case.device.type == "cpu" and not case.noise_elements(work) else None
    noise = spreads[limits.NOISE].median if limits.NOISE in spreads else none
    bound = None if copy is None or noise is None else max(copy.median, noise)
    return {
        "median_s": spread.median,
        "low_s": spread.low,
        "high_s": spread.high,
        "samples": spread.samples,
        "ns_per_element": spread.median / case.elements * 1e9,
        "gb_per_s": None if moved is None else moved / spread.median / 1e9,
        "copy_s": None if copy is None else copy.median,
        "of_copy": ratio.get(limits.COPY),
        "noise_s": None if copy is None else noise,
        "fresh_s": None if fresh is None else fresh.median,
        "of_fresh": ratio.get(limits.FRESH),
        "of_limit": None if bound is None else bound / spread.median,
        "vs_eager": ratio.get(EAGER),
        "vs_compile": ratio.get(COMPILE),
    }


def _host_time(case: Case, work: str, variant: Variant, clock: Clock) -> Row:
    row: Row = {"host_s": None}
    if not isinstance(clock, CudaClock):
        return row
    return row | _attempt("host", lambda: {"host_s": launches.host_seconds(
        case.contestant(work, variant), case.device)}, case, variant)  # fmt: skip


def _single_calls(case: Case, work: str, variant: Variant, clock: Clock) -> Row:
    """Figures that a single call shows: memory, and on CUDA launches and the CUDA graph."""
    device, on_cuda = case.device, isinstance(clock, CudaClock)
    row: Row = dict.fromkeys(("peak_bytes", "kernels", "graph_s", "graph_kernels"))
    made = _attempt("peak", lambda: {"made": case.contestant(work, variant)}, case, variant)
    if "made" not in made:
        return row | made
    contestant = made["made"]

    def attempt(name: str, figure: Callable[[], Row]) -> Row:
        return _attempt(name, figure, case, variant)

    def graph() -> Row:
        _fits(case, work, variant)
        assert isinstance(clock, CudaClock)
        with launches.captured(contestant, device) as replay:
            timed = {"graph_s": launches.replay_seconds(replay, clock)}
            # Profilers fail where clocks don't; the time is kept.
            return timed | attempt(
                "graph_kernels", lambda: {"graph_kernels": launches.replay_kernels(replay)}
            )

    if on_cuda:
        row |= attempt("kernels", lambda: {"kernels": launches.kernels(contestant, device)})
    if variant.overwrites:
        return row | dict.fromkeys(
            ("peak_reason", "graph_reason"), "it runs in CUDA graphs of its own"
        )
    row |= attempt("peak", lambda: {"peak_bytes": memory.peak_bytes(contestant, device)})
    return row | (attempt("graph", graph) if on_cuda else {})


def _attempt(name: str, figure: Callable[[], Row], case: Case, variant: Variant) -> Row:
    """The figure, or why there is none: PyTorch's interfaces for these differ by release."""
    try:
        return figure()
    except Exception as error:
        _end_if_lost(error, case, variant.name)
        return {f"{name}_reason": _sentence(error)}


def _row(case: Case, work: str, variant: Variant) -> Row:
    return {
        "op": case.name,
        "size": case.size,
        "shape": "x".join(map(str, case.shape)),
        "elements": case.elements,
        "dtype": case.dtype,
        "work": work,
        "variant": variant.name,
        "ours": variant.ours,
        "threads": torch.get_num_threads(),
        "moved_bytes": case.moved(work),
    }
