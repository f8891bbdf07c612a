"""Processes with a limit of time, and what is kept of tests that run in one."""

from __future__ import annotations

import json
import time

import pytest

from bench import outcomes, processes


def test_summary_of_outcomes(tmp_path):
    lines = [
        ("a::test_graph", "passed", ""),
        ("a::test_sync[1]", "passed", ""),
        ("a::test_sync[2]", "failed", "it waited"),
        ("a::test_left", "skipped", "no GPU"),
        ("b.py", "skipped", "no GPU"),
        ("a::test_down", "passed", ""),
        ("a::test_down", "failed", "in its tear-down"),
    ]
    path = tmp_path / "outcomes"
    names = ("name", "outcome", "reason")
    path.write_text("".join(json.dumps(dict(zip(names, x, strict=True))) + "\n" for x in lines))
    shown = {"graphs": "graph", "waits": "sync", "others": "left|absent"}
    assert outcomes.summary(path, shown) == {
        "passed": 2,
        "failed": {"a::test_sync[2]": "it waited", "a::test_down": "in its tear-down"},
        "skipped": {"no GPU": 2},
        "shown": {"graphs": True, "waits": False, "others": None},
    }
    assert outcomes.summary(tmp_path / "absent", {})["passed"] == 0
    path.write_text(path.read_text() + '{"name": "a::test_cut", "outc')
    assert outcomes.summary(path, {})["passed"] == 2


def test_a_process_is_ended_with_all_it_started(tmp_path):
    mark = tmp_path / "mark"
    script = f"(sleep 2; touch {mark}) & echo begun; sleep 60"
    start = time.monotonic()
    done = processes.run(["sh", "-c", script], 0.5, tmp_path)
    assert (done.code, done.output) == (processes.TIMED_OUT, "begun\n")
    assert time.monotonic() - start < 30
    time.sleep(2.5)
    assert not mark.exists()


def test_json_among_what_a_process_said():
    said = 'first\n[1]\n[{"a": 1}, {}]\n[W1122 21:00:00 a.cpp:1] Warning: left\nsome warning\n'
    assert processes.Done(0, said).json() == [{"a": 1}, {}]
    with pytest.raises(ValueError, match="expected a line of JSON"):
        processes.Done(0, "[W1122] Warning\n").json()


def test_how_processes_end(tmp_path):
    command = ["sh", "-c", "echo $WORD; echo last >&2; exit 3"]
    done = processes.run(command, 10, tmp_path, {"WORD": "first"})
    assert (done.code, done.output, done.last_line()) == (3, "first\nlast\n", "last")
    done = processes.run(["no-such-command"], 10, tmp_path)
    assert (done.code, done.output) == (
        processes.NOT_STARTED,
        "no-such-command could not be started",
    )
