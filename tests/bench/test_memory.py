"""The bench's memory figures and its guard, against compositions with known answers."""

from __future__ import annotations

from functools import partial

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPS)
def test_the_guard_asks_for_enough_and_not_for_far_too_much(name, dtype):
    op = OPS[name]
    case, fresh = (OpCase(op, "x", (256, 128), dtype, CPU) for _ in range(2))
    waiting = sum(t.untyped_storage().nbytes() for t in case.inputs)
    found = {
        name: Variant(name, op.ours, using(name), ours=True) for name in ("reference", "native")
    }
    found |= {
        EAGER: Variant(EAGER, op.textbook),
        "rival": Variant("rival", partial(op.rival, True)),
    }
    peaks = {}
    for name, variant in found.items():
        need = case.need(op.works[-1], variant)
        assert fresh.need(op.works[-1], variant) >= need + waiting
        peaks[name] = max(
            memory.peak_bytes(case.contestant(work, variant), CPU) for work in op.works
        )
        # 64 kB are kernels' scratch memory, sums and keys.
        assert peaks[name] <= need + 65_536
        assert need <= 7 * peaks[name] + 65_536
        assert peaks[name] >= case.made(op.works[-1])
    # Ours takes no more than eager, and a key.
    assert peaks["native"] <= peaks[EAGER] + 64


def test_the_guard_counts_what_a_case_needs_without_making_it():
    big = OpCase(OPS["gaussian_latent"], "x", (1 << 20, 1 << 20), "bfloat16", CPU)  # 2 TiB a tensor
    tensors = big.op.alive + 3
    assert big.need("forward", Variant(EAGER, big.op.textbook)) == tensors * 2**41


def rows(op, variants, free=None, monkeypatch=None, **settings):
    if free is not None:
        monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    chosen = {"sizes": ("64x64",), "dtypes": ("float32",), "effort": BRIEF} | settings
    asked = measure.Settings(op=op.name, **chosen)
    [*_, last] = measure.measure(asked, CpuClock(), {}, variants=variants)
    return last["rows"]


def test_what_does_not_fit_is_skipped_with_a_reason(monkeypatch):
    op = OPS["gaussian_latent"]
    lean = Variant("lean", op.ours, using("reference"), ours=True)
    # Inputs and the sample's gradient take 3 latents, eager 12, "lean" is thought to take 4.
    free = int((3 + 9) * 64 * 64 * 4 / memory.USABLE)
    found = rows(op, [Variant(EAGER, op.textbook), lean], free, monkeypatch)
    for row in found:
        if row["variant"] == EAGER:
            assert row["status"] == "skipped"
            assert row["reason"].startswith("needs about 0.0 GB of memory")
            assert "median_s" not in row
        else:
            assert row["status"] == "ok"
            assert row["vs_eager"] is None
            assert row["vs_compile"] is None


def test_running_out_of_memory_while_measuring_is_skipped():
    op = OPS["gaussian_latent"]
    calls = []

    def greedy(mu, logvar):
        calls.append(1)
        if len(calls) > 10:
            return op.textbook(mu, torch.empty(1 << 60))
        return op.textbook(mu, logvar)

    def dies(mu, logvar):
        raise RuntimeError("no such kernel\nand more")

    variants = [
        Variant(EAGER, op.textbook),
        Variant("greedy", greedy),
        Variant("dies", dies),
    ]
    found = {(row["variant"], row["work"]): row for row in rows(op, variants)}
    assert found[EAGER, "forward"]["status"] == "ok"
    assert found["greedy", "forward+backward"]["status"] == "skipped"
    assert "allocate" in found["greedy", "forward+backward"]["reason"]
    assert found["dies", "forward"]["status"] == "failed"
    assert found["dies", "forward"]["reason"] == "RuntimeError: no such kernel"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_is_out_of_memory(error, expected):
    assert memory.is_out_of_memory(error) is expected
