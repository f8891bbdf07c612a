"""What surrounds the bench's CUDA figures, as far as that shows without a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import time

import pytest
import torch

from bench import launches, limits, measure, trace
from bench.cases import OpCase
from bench.ops import OPS
from bench.timing import Contestant, CudaClock, Spread
from bench.variants import REDUCE_OVERHEAD, Variant, variants

CPU = torch.device("cpu")
OP = OPS["gaussian_latent"]
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs CUDA calls to fail")


@without_gpu
def test_figures_that_cannot_be_had_have_a_reason_and_lose_nothing():
    case = OpCase(OP, "x", (16, 20), "float32", CPU)
    clock = object.__new__(CudaClock)  # the rest of a run on CUDA, on a PyTorch without it
    asked = (case, "backward", Variant("some", OP.textbook), clock)
    row = measure._single_calls(*asked) | measure._host_time(*asked)
    assert row["peak_bytes"] > 0
    for name in ("kernels", "host_s", "graph_s", "graph_kernels"):
        assert row[name] is None
    for name in ("kernels", "host", "graph"):
        assert len(row[f"{name}_reason"]) > 10


def test_a_variant_with_graphs_of_its_own_is_not_captured_again():
    case = OpCase(OP, "x", (16, 20), "float32", CPU)
    variant = Variant(REDUCE_OVERHEAD, OP.textbook, overwrites=True)
    row = measure._single_calls(case, "forward", variant, object.__new__(CudaClock))
    assert row["graph_reason"] == row["peak_reason"] == "it runs in CUDA graphs of its own"
    assert row["peak_bytes"] is None


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


@pytest.fixture
def fake_launches(monkeypatch):
    """What is asked of `launches`, in turn; each figure is another number."""
    order = []

    def note(name, figure):
        monkeypatch.setattr(launches, name, lambda *_: (order.append(name), figure)[1])

    note("host_seconds", 1.0)
    note("kernels", 3)
    note("captured", contextlib.nullcontext())
    note("replay_seconds", 2.0)
    note("replay_kernels", 4)
    return order


def test_host_times_come_before_anything_that_is_profiled(fake_launches, monkeypatch):
    monkeypatch.setattr(measure, "_timed", lambda *_: {})
    settings = measure.Settings(op=OP.name)
    case = OpCase(OP, "x", (16, 20), "float32", CPU)
    variants = [Variant("one", OP.textbook), Variant("two", OP.textbook)]
    clock = object.__new__(CudaClock)
    rows = measure.measure_case(case, settings, variants, clock, lambda *_: None, {})
    assert fake_launches[:6] == ["host_seconds"] * 6
    assert fake_launches[6:] == ["kernels", "captured", "replay_seconds", "replay_kernels"] * 6
    names = ("host_s", "kernels", "graph_s", "graph_kernels")
    assert {tuple(row[name] for name in names) for row in rows} == {(1.0, 3, 2.0, 4)}


def test_a_graphs_time_is_kept_where_its_kernels_cannot_be_counted(fake_launches, monkeypatch):
    monkeypatch.setattr(launches, "replay_kernels", fails)
    case = OpCase(OP, "x", (16, 20), "float32", CPU)
    clock = object.__new__(CudaClock)
    row = measure._single_calls(case, "forward", Variant("some", OP.textbook), clock)
    assert (row["graph_s"], row["graph_kernels"]) == (2.0, None)
    assert row["graph_kernels_reason"].startswith("RuntimeError: CUDA error: an illegal")
    assert "graph_reason" not in row


def works(*_):
    pass


def fails(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_an_error_after_which_cuda_fails_ends_the_run(monkeypatch):
    case = OpCase(OP, "1M", (16, 20), "float32", torch.device("cuda"))
    error = RuntimeError("CUDA error: invalid argument\nand more")
    monkeypatch.setattr(torch.cuda, "synchronize", works)
    reason = "RuntimeError: CUDA error: invalid argument"
    assert measure._death(error, case, "some") == {"status": "failed", "reason": reason}
    some = Variant("some", OP.textbook)
    assert "graph_reason" in measure._attempt("graph", fails, case, some)

    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(
        measure.DeviceLost, match="1M float32, some: RuntimeError: CUDA error: invalid arg"
    ):
        measure._death(error, case, "some")
    with pytest.raises(measure.DeviceLost, match="illegal memory access"):
        measure._attempt("graph", fails, case, some)
    assert measure._death(measure.Skipped("too large"), case, "some")["status"] == "skipped"
    on_cpu = dataclasses.replace(case, device=CPU)
    assert measure._death(error, on_cpu, "some")["status"] == "failed"


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


def test_what_runs_on_the_device_is_counted(fake_cuda, monkeypatch):
    events = [
        {"cat": "kernel", "name": "add"},
        {"cat": "gpu_memset", "name": "Memset"},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoD"},
        {"cat": "gpu_user_annotation", "name": "Torch-Compiled Region"},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
        {"cat": "cpu_op", "name": "aten::add"},
        {"name": "[memory]"},
    ]
    monkeypatch.setattr(trace, "_events", lambda body, activities: (body(), events)[1])
    seen = []
    contestant = Contestant("some", seen.append, lambda count: ["item"] * count)
    assert launches.kernels(contestant, CPU) == 3
    assert seen == ["item"]
    events.clear()
    with pytest.raises(RuntimeError, match="nothing run"):
        launches.kernels(contestant, CPU)


def launched(number, name, cat="kernel", by="cudaLaunchKernel"):
    """What the trace shows of something that runs on the device, and of who launched it."""
    call = {"cat": "cuda_runtime", "name": by, "args": {"correlation": number}}
    return [call, {"cat": cat, "name": name, "args": {"correlation": number}}]


FILL = "void at::native::vectorized_elementwise_kernel<2, at::native::FillFunctor<long>>"


def test_what_a_replay_does_before_its_graph_is_not_in_the_graph(fake_cuda, monkeypatch):
    prologue = [*launched(1, FILL), *launched(2, FILL, by="cudaLaunchKernelExC")]
    graph = [
        *launched(3, FILL, by="cudaGraphLaunch"),  # of the call: it clears a buffer
        {"cat": "gpu_memset", "name": "Memset", "args": {"correlation": 3}},
        {"cat": "kernel", "name": "gaussian_backward_kernel", "args": {"correlation": 3}},
        {"cat": "gpu_user_annotation", "name": "a region"},
    ]
    events = [*prologue, *graph]
    monkeypatch.setattr(trace, "_events", lambda body, activities: (body(), events)[1])
    seen = []
    assert launches.replay_kernels(seen.append) == 3
    assert len(seen) == 1
    # As a call of its own, all of it counts.
    assert launches.kernels(Contestant("some", print), CPU) == 5
    # Without the numbers of launches nothing can be told from the prologue.
    for event in events:
        event.pop("args", None)
    assert launches.replay_kernels(seen.append) == 5
    events[:] = prologue
    prologue[0]["args"] = prologue[1]["args"] = {"correlation": 1}
    prologue[2]["args"] = prologue[3]["args"] = {"correlation": 2}
    with pytest.raises(RuntimeError, match="nothing run"):
        launches.replay_kernels(seen.append)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("work", OP.works)
def test_figures_of_a_call_on_a_gpu(work):
    device = torch.device("cuda")
    case, clock = OpCase(OP, "x", (128, 20), "float32", device), CudaClock(device)
    [fused] = [one for one in variants(OP, device)[0] if one.name == "triton"]
    row = measure._host_time(case, work, fused, clock)
    row |= measure._single_calls(case, work, fused, clock)
    assert not [name for name in row if name.endswith("_reason")], row
    assert 0 < row["host_s"] < 0.01
    assert 0 < row["graph_s"] < 0.01
    assert 1 <= row["graph_kernels"] <= 3
    assert row["kernels"] >= 1
    assert row["peak_bytes"] >= case.made(work)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_call_that_waits_for_the_device_is_not_captured_and_leaves_no_trace():
    device = torch.device("cuda")
    before = torch.cuda.current_stream(device)
    waits = Contestant("some", lambda _: torch.ones((), device=device).item())
    with pytest.raises(RuntimeError, match="synchroniz"), launches.captured(waits, device):
        pass
    assert torch.cuda.current_stream(device) == before
    assert torch.cuda.get_sync_debug_mode() == 0
    fine = Contestant("some", lambda _: torch.ones(8, device=device).exp())
    with launches.captured(fine, device) as replay:
        assert launches.replay_kernels(replay) >= 1
