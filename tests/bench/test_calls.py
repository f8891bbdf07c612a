"""The table of small calls: every one is right, and a wrong one gets no time."""

from dataclasses import replace

import pytest
import torch

import fused_reparam
from bench import __main__ as command_line
from bench import call_times, calls, report, results
from tests.helpers import bench_formulas, invented

EVERY = {call.name: call for call in calls.calls()}
SMALLER = {call.name: call for call in calls.calls(256, 6)}


@pytest.mark.parametrize("name", EVERY)
def test_a_call_is_the_formula_with_the_noise_of_its_key(name):
    for every in (EVERY, SMALLER):
        call = every[name]
        assert not bench_formulas.problem(
            call.ours, call.formula, call.inputs, call.base, call.noise, call.incoming
        )


@pytest.mark.skipif(fused_reparam.current_backend("cpu") != "native", reason="needs the library")
@pytest.mark.parametrize("name", ["two tensors", "kl, none", "gumbel hard"])
def test_a_call_that_is_wrong_gets_no_time(name):
    call = EVERY[name]

    def off(*inputs):
        wrong = 1e-3 * (fused_reparam.current_backend("cpu") == "native")
        return [output * (1 + wrong) for output in call.ours(*inputs)]

    row = call_times.measured(replace(call, ours=off), compiled=False, rounds=3)
    assert row["status"] == "failed"
    assert "differs by" in row["reason"]
    assert "ratio" not in row


def test_a_call_that_raises_is_reported():
    def broken(*_):
        raise ValueError("no such prior")

    row = call_times.measured(replace(EVERY["z.sum()"], ours=broken), False, 3)
    assert (row["status"], row["reason"]) == ("failed", "ValueError: no such prior")


LAYOUTS = {"sum": (0, 0), "expanded": (0, 1), "transposed": (1, 128), "dense": (20, 1)}


@pytest.mark.parametrize(("kind", "stride"), LAYOUTS.items())
def test_gradients_arrive_in_the_layout_that_a_row_names(kind, stride):
    [made] = calls.gradients(kind, [torch.zeros(128, 20)])
    assert (made.shape, made.stride()) == ((128, 20), stride)


def row(work, ratio, **more):
    return {"op": "calls", "work": work, "size": "128x20", "dtype": "float32", "variant": "native",
            "status": "ok", "ratio": ratio, "low_ratio": 0.2, "high_ratio": 3.0, "most": 0.6,
            "median_s": 1e-4, "low_s": 1e-4, "high_s": 1e-4, "formula_s": 2e-4} | more  # fmt: skip


def test_the_table_has_the_worst_first_flags_what_is_above_its_bound_and_fits_80_columns(capsys):
    wrong = {"status": "failed", "reason": "output 0: off by 1"}
    rows = [row("fine", 0.3), row("kl, batchmean, prior of tensors", 2.5), row("bad", 0.0, **wrong)]
    report.print_result(invented.result("calls", sizes=()) | {"rows": rows})
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if "2.50 (0.20-3.00)" in line)
    assert [line[:3] for line in lines[first : first + 2]] == ["! k", "  f"]
    assert lines[first + 2] == "1 of 3 calls within their bound"
    assert lines[-1].endswith("bad: output 0: off by 1")
    assert max(map(len, lines[:-1])) <= 80


def test_a_run_writes_a_row_for_each_call_and_leaves_the_threads_alone(
    tmp_path, monkeypatch, capsys
):
    some = [EVERY["two tensors"], EVERY["rsample, z.sum()"]]
    monkeypatch.setattr(call_times, "calls", lambda *_: some)
    threads = torch.get_num_threads()
    assert command_line.main(["--op", "calls", "--quick", "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads
    assert "of 2 calls within their bound" in capsys.readouterr().out
    [path] = tmp_path.glob("*/calls.json")
    assert command_line.main(["show", str(path)]) == 0
    assert capsys.readouterr().out.count("of 2 calls within their bound") == 2
    made = results.read(path)
    assert [row["work"] for row in made["rows"]] == 2 * [call.name for call in some]
    assert made["complete"]
    assert all(0 < row["low_ratio"] <= row["ratio"] <= row["high_ratio"] for row in made["rows"])


@pytest.mark.slow
def test_compiled_calls_are_right_too():
    row = call_times.measured(EVERY["free bits per sample"], compiled=True, rounds=3)
    assert (row["status"], row["most"]) == ("ok", calls.COMPILED)


def test_pages_show_the_worst_calls(tmp_path):
    pages = pytest.importorskip("bench.pages")
    rows = [row(str(i), i / 10) for i in range(1, 13)]
    invented.write(tmp_path / "machine", invented.result("calls", sizes=()) | {"rows": rows})
    made = pages.SECTIONS["calls"](pages.machines(tmp_path), tmp_path)
    assert "### Invented CPU" in made
    lines = [line for line in made.splitlines() if "| native |" in line]
    assert len(lines) == 8
    assert lines[0] == "| 12 | 128x20 | native | 100 us | 200 us | **1.20** (0.20-3.00) | 0.6 |"
    assert "The 8 worst of 12 small calls" in made
    assert "; 6 take at most what they may." in made
    assert "python -m bench --op calls" in pages.SECTIONS["calls"]([], tmp_path)
