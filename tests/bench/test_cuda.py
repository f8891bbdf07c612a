"""What surrounds the bench's CUDA figures, as far as that shows without a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import time

import pytest
import torch

from bench import limits, measure, profiles
from bench.cases import OpCase
from bench.ops import OPS
from bench.timing import Contestant, CudaClock, Effort, Spread
from bench.variants import REDUCE_OVERHEAD, Variant, variants

CPU = torch.device("cpu")
OP = OPS["gaussian_latent"]
BRIEF = Effort(sample_seconds=1e-5, seconds=0.02, least_rounds=3, most_rounds=4)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class Clock(CudaClock):
    """A clock of CUDA, on a PyTorch that may have none."""

    def __init__(self):
        self.device = CPU

    def seconds(self, call, items):
        for item in items:
            call(item)
        return 1e-3 * len(items)


def rows(*entries):
    case = OpCase(OP, "16x20", (16, 20), "float32", CPU)
    settings = measure.Settings(OP.name, effort=BRIEF)
    return measure.measure_case(case, settings, entries, Clock())


SOME = Variant("some", OP.ours, ours=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs CUDA calls to fail")
def test_figures_that_cannot_be_had_have_a_reason_and_lose_nothing():
    for row in rows(SOME, Variant(REDUCE_OVERHEAD, OP.textbook, overwrites=True)):
        assert row["median_s"] > 0
        assert row["host_s"] is row["kernels"] is row["graph_s"] is row["graph_kernels"] is None
        assert min(len(row["kernels_reason"]), len(row["host_reason"])) > 10
        if row["variant"] == "some":
            assert row["peak_bytes"] > 0
            assert len(row["graph_reason"]) > 10
        else:
            assert row["peak_bytes"] is None
            assert row["peak_reason"] == "its results are in CUDA graphs of its own"


def test_host_times_come_before_anything_that_is_profiled(monkeypatch):
    order = []

    def note(name, figure):
        monkeypatch.setattr(profiles, name, lambda *_: (order.append(name), figure)[1])

    note("host_seconds", 1.0)
    note("kernels", 3)
    note("graph", {"graph_s": 2.0, "graph_kernels": 4})
    found = rows(SOME, Variant("eager", OP.textbook))
    assert order[:6] == ["host_seconds"] * 6
    assert order[6:] == ["kernels", "graph"] * 3 + ["kernels"] * 3  # graphs are of ours alone
    figures = {(row["host_s"], row["kernels"], row["graph_s"], row["graph_kernels"])
               for row in found if row["ours"]}  # fmt: skip
    assert figures == {(1.0, 3, 2.0, 4)}


@pytest.mark.parametrize(
    ("device", "op", "noise", "share"),
    [
        ("cpu", "gaussian_kl", 0.0, 0.5),  # which makes none
        ("cpu", "gaussian_latent", None, None),  # it was to be timed, and was not
        ("cuda", "gaussian_kl", None, None),
    ],
)
def test_the_limit_is_told_only_where_its_noise_is_known(device, op, noise, share):
    case = OpCase(OPS[op], "x", (16, 20), "float32", torch.device(device))
    spreads = {name: Spread(s, s, s, 3) for name, s in (("some", 2.0), (limits.COPY, 1.0))}
    row = measure.figures(case, "forward", spreads, "some")
    assert (row["noise_s"], row["of_limit"], row["of_copy"]) == (noise, share, 0.5)
    spreads[limits.NOISE] = Spread(1.5, 1.5, 1.5, 3)
    row = measure.figures(case, "forward", spreads, "some")
    assert (row["noise_s"], row["of_limit"]) == (1.5, 0.75)


def fails(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")


def test_an_error_after_which_cuda_fails_ends_the_run(monkeypatch):
    case = OpCase(OP, "1M", (16, 20), "float32", torch.device("cuda"))
    monkeypatch.setattr(OpCase, "problem", fails)
    monkeypatch.setattr("bench.memory.too_little", lambda *_: None)
    settings = measure.Settings(OP.name)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    [row, *_] = measure.measure_case(case, settings, [SOME], Clock())
    assert row["status"] == "failed"
    assert row["reason"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(measure.DeviceLost, match="1M float32, some: RuntimeError: CUDA error"):
        measure.measure_case(case, settings, [SOME], Clock())
    on_cpu = dataclasses.replace(case, device=CPU)
    [row, *_] = measure.measure_case(on_cpu, settings, [SOME], Clock())
    assert row["status"] == "failed"


@pytest.fixture
def fake_cuda(monkeypatch):
    """torch.cuda as a diary of what was asked of it."""
    diary = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            diary.append("event")

        def elapsed_time(self, *_):
            return 2.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: diary.append("wait"))
    monkeypatch.setattr(
        torch.cuda, "_sleep", lambda cycles: diary.append(("sleep", cycles)), raising=False
    )
    return diary


def test_the_device_sleeps_longer_than_the_host_needs_for_each_call(fake_cuda):
    clock = object.__new__(CudaClock)
    clock.device, clock.flush, clock.cycles_per_second = CPU, torch.ones(4), 1e9

    def call(item):
        assert clock.flush.sum() == 0
        clock.flush.fill_(1)
        fake_cuda.append(f"call {item}")
        time.sleep(0.001)

    assert clock.seconds(call, range(3)) == pytest.approx(3 * 2e-3)
    sleeps = [entry[1] for entry in fake_cuda if isinstance(entry, tuple)]
    assert sleeps[0] == 1e9 * CudaClock.longest_sleep
    # Twice the millisecond that the host slept, and never more than the first.
    assert all(2e6 <= cycles <= sleeps[0] for cycles in sleeps[1:])
    order = ["sleep" if isinstance(entry, tuple) else entry for entry in fake_cuda]
    calls = [["sleep", "event", f"call {i}", "event"] for i in range(3)]
    assert order == ["wait", *calls[0], *calls[1], *calls[2], "wait"]


def launched(number, name, cat="kernel", by="cudaLaunchKernel"):
    """What the trace shows of something that runs on the device, and of who launched it."""
    call = {"cat": "cuda_runtime", "name": by, "args": {"correlation": number}}
    return [call, {"cat": cat, "name": name, "args": {"correlation": number}}]


FILL = "void at::native::vectorized_elementwise_kernel<2, at::native::FillFunctor<long>>"


def test_kernels_are_counted_and_what_a_replay_does_before_its_graph_is_not(fake_cuda, monkeypatch):
    events = [
        *launched(1, FILL), *launched(2, FILL, by="cudaLaunchKernelExC"),
        *launched(3, FILL, by="cudaGraphLaunch"),  # of the call: it clears a buffer
        {"cat": "gpu_memset", "name": "Memset", "args": {"correlation": 3}},
        {"cat": "kernel", "name": "gaussian_backward_kernel", "args": {"correlation": 3}},
        {"cat": "gpu_user_annotation", "name": "a region"},
        {"cat": "cpu_op", "name": "aten::add"},
    ]  # fmt: skip
    monkeypatch.setattr(profiles, "_events", lambda body, activities: (body(), events)[1])
    assert profiles.kernels_of(print, in_graph=True) == 3
    assert profiles.kernels(Contestant("some", print), CPU) == 5
    events[:] = events[:4]
    with pytest.raises(RuntimeError, match="nothing run"):
        profiles.kernels_of(print, in_graph=True)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("work", OP.works)
def test_figures_of_a_call_on_a_gpu(work):
    device = torch.device("cuda")
    case, clock = OpCase(OP, "x", (128, 20), "float32", device), CudaClock(device)
    fused = [one for one in variants(OP, device)[0] if one.name == "triton"]
    settings = measure.Settings(OP.name, works=(work,), effort=BRIEF)
    [row] = measure.measure_case(case, settings, fused, clock)
    assert not [name for name in row if name.endswith("reason")], row
    assert 0 < row["host_s"] < 0.01
    assert 0 < row["graph_s"] < 0.01
    assert 1 <= row["graph_kernels"] <= 3
    assert row["kernels"] >= 1
    assert row["peak_bytes"] >= case.made(work)


@pytest.mark.gpu
@on_gpu
def test_a_call_that_waits_for_the_device_is_not_captured_and_leaves_no_trace():
    device = torch.device("cuda")
    clock, before = CudaClock(device), torch.cuda.current_stream(device)
    waits = Contestant("some", lambda _: torch.ones((), device=device).item())
    with pytest.raises(RuntimeError, match="synchroniz"):
        profiles.graph(waits, clock)
    assert torch.cuda.current_stream(device) == before
    assert torch.cuda.get_sync_debug_mode() == 0
    fine = Contestant("some", lambda _: torch.ones(8, device=device).exp())
    assert profiles.graph(fine, clock)["graph_kernels"] >= 1
