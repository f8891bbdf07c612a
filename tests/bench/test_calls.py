"""The table of small calls: every one is right, and a wrong one gets no time."""

import json
from dataclasses import replace

import pytest
import torch

import fused_reparam
from bench import __main__ as command_line
from bench import calls, pages
from tests.helpers import invented

EVERY = {call.name: call for call in calls.calls()}
SMALLER = {call.name: call for call in calls.calls(256, 6)}


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", EVERY)
def test_a_call_is_the_formula_with_the_noise_of_its_key(name, backend):
    with fused_reparam.backend(backend):
        for every in (EVERY, SMALLER):
            assert calls.problem(every[name], every[name].ours) is None


@pytest.mark.parametrize(
    "name", ["two tensors", "kl, none", "gumbel hard", "cauchy, scale a number"]
)
def test_a_call_that_is_wrong_gets_no_time(name):
    call = EVERY[name]

    def off(*inputs):
        return [output * (1 + 1e-3) for output in call.ours(*inputs)]

    row = calls.measured(replace(call, ours=off), compiled=False, rounds=3, count=1)
    assert row["status"] == "failed"
    assert "off by" in row["reason"]
    assert "ratio" not in row


def test_a_gradient_that_is_missing_is_found():
    call = EVERY["log_std of one row"]

    def detached(mean, log_std):
        return call.ours(mean, log_std.detach())

    assert str(calls.problem(call, detached)).startswith("gradient 1: got None, expected tensor(")


def test_a_call_that_raises_is_reported():
    def broken(*_):
        raise ValueError("no such prior")

    row = calls.measured(replace(EVERY["z.sum()"], ours=broken), False, 3, 1)
    assert (row["status"], row["reason"]) == ("failed", "ValueError: no such prior")


LAYOUTS = {"sum": (0, 0), "expanded": (0, 1), "transposed": (1, 128), "dense": (20, 1)}


@pytest.mark.parametrize(("kind", "stride"), LAYOUTS.items())
def test_gradients_arrive_in_the_layout_that_a_row_names(kind, stride):
    [made] = calls.gradients([torch.zeros(128, 20)], kind)
    assert (made.shape, made.stride()) == ((128, 20), stride)


def test_the_table_has_the_worst_first_flags_what_is_above_its_bound_and_fits_80_columns():
    figures = {"status": "ok", "low_ratio": 0.2, "high_ratio": 3.0, "median_s": 1e-4}
    figures |= {"formula_s": 2e-4, "most": 0.6, "variant": "native"}
    named = {"fine": 0.3, "kl, batchmean, prior of tensors": 2.5}
    rows = [
        figures | {"work": name, "size": "128x20", "ratio": ratio} for name, ratio in named.items()
    ]
    rows.append(
        {
            "work": "wrong",
            "size": "128x20",
            "status": "failed",
            "variant": "native",
            "reason": "output 0: off by 1",
        }
    )
    lines = calls.tables(rows).splitlines()
    assert [line[:2] for line in lines[2:4]] == ["! ", "  "]
    assert "2.50 (0.20-3.00)" in lines[2]
    assert lines[-2:] == ["NOT TIMED: wrong: output 0: off by 1", "1 of 3 calls within their bound"]
    assert max(map(len, lines)) <= 80


def test_a_run_writes_a_row_for_each_call_and_leaves_the_threads_alone(tmp_path, capsys):
    threads = torch.get_num_threads()
    assert command_line.main(["--op", "calls", "--quick", "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads
    assert "calls within their bound" in capsys.readouterr().out
    [path] = tmp_path.glob("*/calls.json")
    capsys.readouterr()
    assert command_line.main(["compare", str(path), str(path)]) == 0
    assert command_line.main(["table", str(path)]) == 0
    assert "| rsample, z.sum() | 256x6 | native |" in capsys.readouterr().out
    rows = json.loads(path.read_text())["rows"]
    assert [row["work"] for row in rows] == [*EVERY, *SMALLER]
    assert json.loads(path.read_text())["complete"]
    assert all(0 < row["low_ratio"] <= row["ratio"] <= row["high_ratio"] for row in rows)
    assert pages.other_ops([json.loads(path.read_text())]) == []


@pytest.mark.slow
def test_compiled_calls_are_right_too():
    call = EVERY["free bits per sample"]
    row = calls.measured(call, compiled=True, rounds=3, count=2)
    assert (row["status"], row["most"]) == ("ok", calls.COMPILED)


@pytest.mark.parametrize("words", [["--op", "calls", "--device", "cuda"],
                                   ["--op", "normal", "--compile"]])  # fmt: skip
def test_options_that_calls_do_not_have(words, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(words)
    assert ended.value.code == 2
    assert "--" in capsys.readouterr().err


def test_pages_show_the_worst_calls(tmp_path):
    rows = [
        {"status": "ok", "work": str(i), "size": "256x6", "variant": "native",
         "median_s": 1e-6, "formula_s": 2e-6, "ratio": i / 10, "low_ratio": 0.0,
         "high_ratio": 2.0, "most": 0.6}
        for i in range(1, 13)
    ]  # fmt: skip
    result = invented.result("calls", sizes=()) | {"rows": rows}
    invented.write(tmp_path / "machine", result)
    made = pages.SECTIONS["calls"](pages.machines(tmp_path), tmp_path)
    assert "### Invented CPU" in made
    lines = [line for line in made.splitlines() if "| native |" in line]
    assert len(lines) == 8
    assert lines[0] == "| 12 | 256x6 | native | 1.00 us | 2.00 us | **1.20** (0.00-2.00) | 0.6 |"
    assert "The 8 worst of 12 small calls" in made
    assert "; 6 take at most what they may." in made
    assert "python -m bench --op calls" in pages.SECTIONS["calls"]([], tmp_path)
