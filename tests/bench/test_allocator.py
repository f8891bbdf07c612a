"""Freed memory stays with the process when the bench is asked for it, and the result says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as command_line
from bench import machine, results

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="for Linux's glibc")

RESIDENT = """
import sys, torch
from bench import machine
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
if sys.argv[1] == "keep":
    machine.keep_freed_memory()
before = resident()
block = torch.ones(1 << 26)
most = resident()
del block
print((resident() - before) / (most - before))
"""


def python(*words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("how", "left"), [("keep", 1.0), ("give back", 0.0)])
def test_freed_memory_stays_resident(how, left):
    assert float(python("-c", RESIDENT, how)) == pytest.approx(left, abs=0.1)


def test_results_with_kept_memory_are_apart(tmp_path):
    words = "--quick --op normal --sizes 16x20 --dtype float32 --variants reference --keep-memory"
    python("-m", "bench", *words.split(), "--out", str(tmp_path))
    [path] = tmp_path.glob("*/normal.json")
    assert path.parent.name.endswith("-threads-kept-memory")
    result = results.read(path)
    assert result["machine"]["keeps_freed_memory"] is True


def test_a_library_that_cannot_keep_memory_is_an_error_of_one_line(monkeypatch, capsys):
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    with pytest.raises(SystemExit) as end:
        command_line.main(["--quick", "--keep-memory"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "python -m bench: error: this C library has no mallopt: --keep-memory is for glibc"
    )
