"""Processes with a limit of time, and what is kept of tests that run in one."""

from __future__ import annotations

import time

from bench import outcomes, processes, targets

WITH_WORKERS = """\
tests/a.py::test_graph[kl, none]
[gw0] [ 10%] PASSED tests/a.py::test_graph[kl, none]
[gw1] [ 20%] FAILED tests/a.py::test_wrong[x - y]
"""
ALONE = """\
tests/a.py::test_in_a_cuda_graph PASSED                                   [ 10%]
tests/a.py::test_replays_draw_new_noise PASSED                            [ 20%]
tests/a.py::test_no_synchronisation FAILED                                [ 30%]
tests/a.py::test_left SKIPPED (no GPU)                                    [ 40%]
tests/a.py::test_down PASSED                                              [ 50%]
tests/a.py::test_down ERROR                                               [ 50%]
=========================== short test summary info ============================
SKIPPED [2] tests/a.py:12: no GPU
FAILED tests/a.py::test_no_synchronisation - AssertionError: it waited
ERROR tests/a.py::test_down - RuntimeError: tear-down
ERROR tests/b.py - ModuleNotFoundError: No module named 'c'
"""


def test_how_tests_ended():
    assert outcomes.read(ALONE) == {
        "passed": 2,
        "failed": {
            "tests/a.py::test_no_synchronisation": "AssertionError: it waited",
            "tests/a.py::test_down": "RuntimeError: tear-down",
            "tests/b.py": "ModuleNotFoundError: No module named 'c'",
        },
        "skipped": {"no GPU": 2},
        "shown": dict(zip(targets.TESTED, (True, False), strict=True)),
    }
    cut = outcomes.read(WITH_WORKERS + "tests/a.py::test_of_which_the_end_was_c")
    assert (cut["passed"], list(cut["failed"])) == (1, ["tests/a.py::test_wrong[x - y]"])
    assert list(cut["shown"].values()) == [None, None]


def test_a_process_is_ended_with_all_it_started(tmp_path):
    mark = tmp_path / "mark"
    script = f"(sleep 2; touch {mark}) & echo begun; sleep 60"
    start = time.monotonic()
    done = processes.run(["sh", "-c", script], 0.5, tmp_path)
    assert (done.code, done.output) == (processes.TIMED_OUT, "begun\n")
    assert time.monotonic() - start < 30
    time.sleep(2.5)
    assert not mark.exists()


def test_how_processes_end(tmp_path):
    command = ["sh", "-c", "echo $WORD; echo last >&2; exit 3"]
    done = processes.run(command, 10, tmp_path, {"WORD": "first"})
    assert (done.code, done.output, done.last_line) == (3, "first\nlast\n", "last")
    done = processes.run(["no-such-command"], 10, tmp_path)
    assert done.code == processes.NOT_STARTED
    assert done.output.startswith("no-such-command could not be started")
