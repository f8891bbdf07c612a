"""Times of small calls, ours over the formula's, on one thread and in interleaved rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import fused_reparam as fr
from bench import check
from bench.calls import COMPILED, SHAPES, Call, calls
from bench.check import Outputs
from bench.results import CALLS
from bench.timing import Contestant, CpuClock, Effort, Spread, interleave


def prepared(call: Call, compute: Callable[..., Outputs]) -> Callable[[object], object]:
    """What is timed: forward and backward, or forward in inference mode."""
    inputs, grad = call.inputs, torch.autograd.grad

    def forward(_: object) -> None:
        with torch.inference_mode():
            compute(*inputs)

    if call.incoming is None:
        return forward
    arriving = call.incoming(compute(*inputs))
    incoming = [one for one in arriving if one is not None]
    if len(incoming) == len(arriving):
        return lambda _: grad(compute(*inputs), inputs, incoming)
    index = next(i for i, one in enumerate(arriving) if one is not None)
    return lambda _: grad(compute(*inputs)[index], inputs, incoming, allow_unused=True)


class ThreadClock(CpuClock):
    """Processor time of this thread, which others on the machine add little to."""

    warms_up = False

    def seconds(self, call: Callable[[Any], object], items: Sequence[Any]) -> float:
        start = time.thread_time_ns()
        for item in items:
            call(item)
        return (time.thread_time_ns() - start) / 1e9


def measured(call: Call, compiled: bool, rounds: int) -> dict[str, Any]:
    """A row: medians of both times, and the ratio of each round with its quartiles."""
    ours, theirs = call.ours, call.theirs
    row: dict[str, Any] = {"most": COMPILED if compiled else call.most}
    if compiled:
        torch.compiler.reset()
        ours, theirs = (torch.compile(one, dynamic=False) for one in (ours, theirs))
    try:
        wrong = check.problem(fr.current_backend("cpu"), ours, call.inputs, call.incoming)
        if wrong:
            return row | {"status": "failed", "reason": wrong}
        pair = [Contestant("ours", prepared(call, ours)),
                Contestant("formula", prepared(call, theirs))]  # fmt: skip
    except Exception as error:
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}
    effort = Effort(sample_seconds=0.001, seconds=0.0, least_rounds=rounds, most_rounds=rounds)
    spreads = interleave(ThreadClock(), pair, effort)
    both = zip(*(one.samples for one in pair), strict=True)
    ratio, own = Spread.of([own / other for own, other in both]), spreads["ours"]
    return row | {
        "status": "ok", "ratio": ratio.median, "low_ratio": ratio.low, "high_ratio": ratio.high,
        "median_s": own.median, "low_s": own.low, "high_s": own.high,
        "formula_s": spreads["formula"].median,
    }  # fmt: skip


def rows(
    compiled: bool, quick: bool, say: Callable[[str], object] = lambda _: None
) -> Iterator[dict[str, Any]]:
    """A row for each call, on one thread whatever this process has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    variant = fr.current_backend("cpu") + (", compiled" if compiled else "")
    try:
        for shape in SHAPES:
            every, size = calls(*shape), "x".join(map(str, shape))
            about = {"op": CALLS, "size": size, "shape": size, "elements": math.prod(shape),
                     "dtype": "float32", "variant": variant, "ours": True,
                     "threads": 1}  # fmt: skip
            say(f"{CALLS} {size}: {len(every)} for {variant}")
            for call in every:
                yield about | {"work": call.name} | measured(call, compiled, 5 if quick else 21)
    finally:
        torch.set_num_threads(threads)
