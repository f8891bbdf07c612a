"""The bench's rounds: who is timed when, how often, and what their spread is."""

import contextlib
import time
import weakref

import pytest
import torch

from bench.timing import Contestant, CpuClock, CudaClock, Effort, Spread, interleave


class FakeClock:
    """Says that every call takes what its contestant's items are."""

    most_calls = 100
    warms_up = False

    def __init__(self):
        self.order = []

    def seconds(self, call, items):
        self.order.append(call)
        return sum(items)


def test_rounds_are_interleaved_and_medians_are_theirs():
    clock = FakeClock()
    entries = [
        Contestant(str(cost), call=float(cost).hex, prepare=lambda n, c=cost: [c] * n)
        for cost in (0.25, 0.5)
    ]
    effort = Effort(sample_seconds=1.0, seconds=1e9, least_rounds=5, most_rounds=7)
    spreads = interleave(clock, entries, effort)
    assert spreads == {"0.25": Spread(0.25, 0.25, 0.25, 7), "0.5": Spread(0.5, 0.5, 0.5, 7)}
    assert [entry.calls for entry in entries] == [5, 3]
    rounds = clock.order[-14:]
    for turn in range(7):
        assert set(rounds[2 * turn : 2 * turn + 2]) == {entry.call for entry in entries}


def test_spread_is_median_and_quartiles():
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_a_long_call_is_timed_after_one_that_is_not():
    calls = []
    clock = FakeClock()
    clock.warms_up = True
    entry = Contestant("slow", call=calls.append, prepare=lambda n: [2.0] * n)
    effort = Effort(sample_seconds=1.0, seconds=1e9, least_rounds=3, most_rounds=3)
    assert interleave(clock, [entry], effort)["slow"].median == 2.0
    assert len(calls) == len(clock.order) == 5


def test_what_came_before_the_timed_call_is_gone_by_then():
    made = []

    class Clock(CpuClock):
        def seconds(self, call, items):
            alive = [ref for ref in made if ref() is not None]
            assert len(alive) == len(items) == 1
            return super().seconds(call, items)

    def prepare(count):
        items = [torch.ones(3) for _ in range(count)]
        made.extend(map(weakref.ref, items))
        return items

    entry = Contestant("some", torch.exp, prepare, most_calls=1)
    assert set(interleave(Clock(), [entry], Effort(1e-5, 0.02, 3, 4))) == {"some"}
    assert len(made) > 2


def test_the_device_sleeps_longer_than_the_host_needs_for_each_call(monkeypatch):
    sleeps, cycles = [], CudaClock.cycles_per_second

    class Event:
        def __init__(self, enable_timing):  # noqa: ARG002
            self.record = lambda: None

        def elapsed_time(self, _):
            return 2.0  # milliseconds

    for name, stand_in in (("Event", Event), ("_sleep", sleeps.append), ("synchronize", print),
                           ("device", contextlib.nullcontext)):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in, raising=False)
    clock = object.__new__(CudaClock)
    clock.device, clock.flush = torch.device("cpu"), torch.ones(4)

    def call(item):
        assert clock.flush.sum() == 0
        clock.flush.fill_(1)
        time.sleep(0.001)

    assert clock.seconds(call, range(3)) == pytest.approx(3 * 2e-3)
    assert sleeps[0] == cycles * CudaClock.longest_sleep
    # Twice the millisecond that the host slept, and never more than the first.
    assert all(2e-3 * cycles <= one <= sleeps[0] for one in sleeps[1:])
