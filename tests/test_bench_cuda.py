"""What surrounds the bench's CUDA figures, as far as that shows without a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import time
from pathlib import Path

import pytest
import torch

from bench import launches, machine, measure, trace
from bench.case import OpCase
from bench.ops import OPS
from bench.timing import Contestant, CpuClock, CudaClock
from bench.variants import REDUCE_OVERHEAD, Variant

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


def test_host_times_come_before_anything_that_is_profiled(monkeypatch):
    order = []

    def note(name, figures):
        monkeypatch.setattr(launches, name, lambda *_: (order.append(name), figures)[1])

    note("host_seconds", 1.0)
    note("kernels", 3)
    note("in_graph", {"graph_s": 2.0})
    monkeypatch.setattr(measure, "_timed", lambda *_: {})
    settings = measure.Settings(op=OP.name)
    case = OpCase(OP, "x", (16, 20), "float32", CPU)
    variants = [Variant("one", OP.textbook), Variant("two", OP.textbook)]
    clock = object.__new__(CudaClock)
    rows = measure.measure_case(case, settings, variants, clock, {}, lambda *_: None)
    assert order[:6] == ["host_seconds"] * 6
    assert sorted(order[6:]) == ["in_graph"] * 6 + ["kernels"] * 6
    assert {(row["host_s"], row["kernels"], row["graph_s"]) for row in rows} == {(1.0, 3, 2.0)}


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


def test_a_cache_that_cannot_be_emptied_ends_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", fails)
    monkeypatch.setattr(torch.cuda, "synchronize", works)
    case = OpCase(OP, "x", (16, 20), "float32", torch.device("cuda"))
    monkeypatch.setattr(measure, "_checked", lambda *_: {"status": "failed", "reason": "some"})
    settings = measure.Settings(op=OP.name)
    some = [Variant("some", OP.textbook)]
    rows = measure.measure_case(case, settings, some, CpuClock(), {}, lambda *_: None)
    assert [row["status"] for row in rows] == ["failed"] * 3


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


def test_the_rate_of_sleep_is_measured(fake_cuda):
    clock = object.__new__(CudaClock)
    clock.device = CPU
    assert clock._sleep_rate() == pytest.approx(10_000_000 / 2e-3)


def test_without_a_way_to_sleep_the_clock_still_runs(fake_cuda, monkeypatch):
    monkeypatch.delattr(torch.cuda, "_sleep")
    clock = object.__new__(CudaClock)
    clock.device, clock.flush = CPU, torch.ones(4)
    clock.cycles_per_second = clock._sleep_rate()
    assert clock.cycles_per_second == 0
    assert clock.seconds(lambda _: None, range(2)) == pytest.approx(2 * 2e-3)


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


def test_host_time_leaves_out_preparation_and_waiting(fake_cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: time.sleep(0.02))
    monkeypatch.setattr(launches, "HOST_SECONDS", 0.0)

    def prepare(count):
        time.sleep(0.02)
        return range(count)

    assert launches.host_seconds(Contestant("some", lambda _: None, prepare), CPU) < 0.01


def test_a_call_that_waits_for_the_device_is_not_captured(monkeypatch):
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def waits(_):
        assert modes[-1] == "error"
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        launches._refuse_waiting(waits, None)
    assert modes == [0, "error", 0]


def test_a_failed_capture_leaves_the_stream_as_it_was(fake_cuda, monkeypatch):
    streams = ["first"]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)

    def fails(_):
        streams.append("capture")
        raise RuntimeError("capture failed")

    monkeypatch.setattr(launches, "_captured", fails)
    with pytest.raises(RuntimeError, match="capture failed"):
        launches.in_graph(Contestant("some", print), object.__new__(CudaClock), CPU)
    assert streams == ["first", "capture", "first"]


def test_results_of_a_gpu_are_filed_by_driver_and_versions():
    described = {
        "device": "NVIDIA H100 80GB HBM3",
        "device_type": "cuda",
        "driver": "550.54.15",
        "versions": {"torch": "2.11.0+cu128", "triton": "3.6.0"},
    }
    expected = "nvidia-h100-80gb-hbm3-driver-550.54.15-torch-2.11.0-cu128-triton-3.6.0"
    assert machine.folder_name(described) == expected


def test_the_driver_is_known_without_its_tool(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024"
    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert machine.driver_version() == "550.54.15"
    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.driver_version() == "unknown"
