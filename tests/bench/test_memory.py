"""The bench's memory figures and its guard, against compositions with known answers."""

from __future__ import annotations

import pytest
import torch

from bench import measure, memory
from bench.cases import OpCase
from bench.ops import OPS
from bench.timing import Contestant, CpuClock, Effort
from bench.variants import EAGER, Variant, using

CPU = torch.device("cpu")
BRIEF = Effort(sample_seconds=1e-5, seconds=0.02, least_rounds=3, most_rounds=4)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Sizes are tiny, and threads that wait for a busy core would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def peak(call):
    return memory.peak_bytes(Contestant("some", call), CPU)


def test_saved_bytes_counts_storages_once_and_not_the_inputs():
    x = torch.randn(10, 8, requires_grad=True)
    left, right = x.chunk(2, dim=1)
    assert memory.saved_bytes(lambda a, b: (a * b,), (left, right)) == 0
    # exp keeps its result, which the product keeps again.
    assert memory.saved_bytes(lambda a: (a.exp() * a.exp().detach(),), (x,)) == 2 * 10 * 8 * 4
    assert memory.saved_bytes(lambda a: ((y := a.exp()) * y,), (x,)) == 10 * 8 * 4


def test_peak_bytes_of_what_is_known():
    def taken_and_freed(_):
        first = torch.empty(1000)
        second = torch.empty(3000)
        del first, second
        return torch.empty(2000)

    x = torch.ones(1000)
    assert peak(taken_and_freed) == 4 * 4000
    assert peak(lambda _: x.exp()) == 4 * 1000
    # Results of both factors, then the product beside them.
    assert peak(lambda _: x.exp() * x.sin()) == 4 * 3000
    assert peak(lambda _: x.exp_()) == 0


def test_peak_bytes_counts_from_what_was_there_before():
    def prepare(count):
        return [[torch.empty(5000)] for _ in range(count)]

    def swap(held):
        held.clear()
        held.append(torch.empty(1000))

    def add(held):
        held.append(torch.empty(1000))

    # 20,000 bytes are given back before 4,000 are taken.
    assert memory.peak_bytes(Contestant("swap", swap, prepare), CPU) == 0
    assert memory.peak_bytes(Contestant("add", add, prepare), CPU) == 4000


def test_peak_bytes_of_a_backward_pass_that_frees_what_was_kept():
    x = torch.ones(1000, requires_grad=True)
    incoming = torch.ones(1000)

    def backward(y):
        return torch.autograd.grad(y, x, incoming)

    # exp keeps its result until its gradient is there.
    contestant = Contestant("some", backward, lambda count: [x.exp() for _ in range(count)])
    assert memory.peak_bytes(contestant, CPU) == 4000


@pytest.mark.parametrize("name", OPS)
def test_the_guard_asks_for_enough_and_ours_takes_no_more_than_eager(name):
    op = OPS[name]
    case = OpCase(op, "x", (256, 128), "float32", CPU)
    peaks = {}
    for one in (Variant("native", op.ours, using("native")), Variant(EAGER, op.textbook)):
        peaks[one.name] = max(
            memory.peak_bytes(case.contestant(work, one), CPU) for work in op.works
        )
        # 64 kB are kernels' scratch memory, sums and keys.
        assert case.made(op.works[-1]) <= peaks[one.name] <= case.need + 65_536
    assert peaks["native"] <= peaks[EAGER] + 64


def rows(variants):
    settings = measure.Settings("gaussian_latent", effort=BRIEF)
    case = OpCase(OPS["gaussian_latent"], "64x64", (64, 64), "float32", CPU)
    return measure.measure_case(case, settings, variants, CpuClock())


def test_what_does_not_fit_is_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2000)
    for row in rows([Variant(EAGER, OPS["gaussian_latent"].textbook)]):
        assert row["status"] == "skipped"
        assert row["reason"].startswith("needs about 0.0 GB of memory")
        assert "median_s" not in row


def test_running_out_of_memory_while_measuring_is_skipped():
    op = OPS["gaussian_latent"]
    calls = []

    def greedy(mu, logvar):
        calls.append(1)
        if len(calls) > 4:
            return op.textbook(mu, torch.empty(1 << 60))
        return op.textbook(mu, logvar)

    def dies(mu, logvar):
        raise RuntimeError("no such kernel\nand more")

    variants = [
        Variant(EAGER, op.textbook),
        Variant("greedy", greedy),
        Variant("dies", dies),
    ]
    found = {(row["variant"], row["work"]): row for row in rows(variants)}
    assert found[EAGER, "forward"]["status"] == "ok"
    assert found["greedy", "forward+backward"]["status"] == "skipped"
    assert "allocate" in found["greedy", "forward+backward"]["reason"]
    assert found["dies", "forward"]["status"] == "failed"
    assert found["dies", "forward"]["reason"] == "RuntimeError: no such kernel"
