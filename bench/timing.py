"""Time: clocks, and interleaved rounds, in which all rivals meet the same state of the machine."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Contestant:
    """Something to be timed: `call(item)` for each item of `prepare(count)`, which isn't timed."""

    name: str
    call: Callable[[Any], object]
    prepare: Callable[[int], Sequence[Any]] = range
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    most_calls: int = 1 << 20
    calls: int = 1
    """Calls in one sample, so that a sample is long enough for the clock: set by `autorange`."""
    rounds: int = 0
    samples: list[float] = field(default_factory=list)
    """Seconds for one call, one entry for each sample."""
    problem: Exception | None = None
    """What it died of; it then takes no further part."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the seconds that one call took."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high, len(samples))


@dataclass(frozen=True)
class Effort:
    """How long to measure one kind of work.

    Each rival gets as many samples as its share of `seconds` has room for, from `least_rounds` to
    `most_rounds`. A slow one gets as many of its least rounds as fit into `slow_seconds`, its
    preparation and warm-ups included, but three in any case.
    """

    sample_seconds: float = 0.005
    seconds: float = 5.0
    least_rounds: int = 7
    most_rounds: int = 60
    slow_seconds: float = 10.0

    def rounds(self, share: float, sample: float) -> int:
        """Samples to take in a share of the time, when one takes so many seconds in all."""
        sample = max(sample, 1e-9)
        least = min(self.least_rounds, max(3, int(self.slow_seconds / sample)))
        return min(max(int(share / sample), least), self.most_rounds)


THOROUGH = Effort()
QUICK = Effort(sample_seconds=0.002, seconds=2.0, most_rounds=15, slow_seconds=4.0)


class CpuClock:
    """Wall time."""

    most_calls = 1 << 20
    # Memory that others, or a pause, have had in the meantime costs a call several times its time;
    # a loop does not meet that (16M float32 elements backward: 113 ms after 2.5 s, else 38 ms).
    warms_up = True

    def seconds(self, call: Callable[[Any], object], items: Sequence[Any]) -> float:
        start = time.perf_counter()
        for item in items:
            call(item)
        return time.perf_counter() - start


class CudaClock:
    """Device time between events around each call, with the L2 cache emptied before it.

    Before each call the device is put to sleep for longer than the host needs to launch it, so
    that what is timed is the device at work and not waiting for the host. (A call that waits for
    the device has its wait timed.)
    """

    # Events need no long samples; the queue of launches has an end.
    most_calls = 10
    warms_up = False
    # A first call compiles; the device need not sleep for that.
    longest_sleep = 0.01
    # More than a GPU's clock makes: one that is slower sleeps longer.
    cycles_per_second = 2.5e9

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = torch.empty(4 * max(cache, 1 << 22), dtype=torch.int8, device=device)

    def seconds(self, call: Callable[[Any], object], items: Sequence[Any]) -> float:
        with torch.cuda.device(self.device):
            events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in items]
            host = self.longest_sleep / 2
            torch.cuda.synchronize()
            for item, (start, end) in zip(items, events, strict=True):
                self.flush.zero_()
                torch.cuda._sleep(int(2 * host * self.cycles_per_second))
                start.record()
                begin = time.perf_counter()
                call(item)
                host = min(host, time.perf_counter() - begin)
                end.record()
            torch.cuda.synchronize()
        return float(sum(start.elapsed_time(end) for start, end in events)) / 1e3


Clock = CpuClock | CudaClock


def clock_for(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def autorange(clock: Clock, contestant: Contestant, effort: Effort) -> float:
    """Sets the calls of one sample; returns the seconds that it then takes, set-up included."""
    _sample(clock, contestant)  # a warm-up: first calls compile, allocate and fault pages in
    most = min(contestant.most_calls, clock.most_calls)
    while True:
        start = time.perf_counter()
        seconds = _sample(clock, contestant) * contestant.calls
        whole = time.perf_counter() - start
        if seconds >= effort.sample_seconds or contestant.calls >= most:
            return whole
        wanted = contestant.calls * min(10.0, 1.2 * effort.sample_seconds / max(seconds, 1e-9))
        contestant.calls = min(int(wanted) + 1, most)


def interleave(
    clock: Clock, contestants: Sequence[Contestant], effort: Effort
) -> dict[str, Spread]:
    """Time the contestants in turns, in a new order each round.

    Each gets an equal part of the time. A slow one joins fewer rounds, spread over all of them. One
    that dies has its `problem` set and no entry in the result.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        share = effort.seconds / len(contestants)
        for contestant in contestants:
            with _dying(contestant):
                whole = autorange(clock, contestant, effort)
                contestant.rounds = effort.rounds(share, whole)
        total = max(c.rounds for c in contestants)
        order, chance = list(contestants), random.Random(0)
        for turn in range(total):
            chance.shuffle(order)
            for contestant in order:
                # In `rounds` of all turns, evenly spread.
                joins = (turn + 1) * contestant.rounds // total > turn * contestant.rounds // total
                if joins and contestant.problem is None:
                    with _dying(contestant):
                        contestant.samples.append(_sample(clock, contestant))
    finally:
        if enabled:
            gc.enable()
    return {c.name: Spread.of(c.samples) for c in contestants if c.problem is None}


def _sample(clock: Clock, contestant: Contestant) -> float:
    with contestant.context():
        if clock.warms_up and contestant.calls == 1:
            [item] = contestant.prepare(1)
            contestant.call(item)
            del item  # or its graph is alive beside the one that is timed
        items = contestant.prepare(contestant.calls)
        return clock.seconds(contestant.call, items) / contestant.calls


@contextmanager
def _dying(contestant: Contestant) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Its frames would keep the tensors alive that it could not get more of.
        contestant.problem = error.with_traceback(None)
