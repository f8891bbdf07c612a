"""What torchrun makes of a process that dies, on the example that trains a VAE by many processes.

Each start of torchrun takes seconds, so that one test goes through the whole story.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.example_runs import EXAMPLES, skip_unless_installed
from tests.helpers.paths import ROOT, environment

skip_unless_installed()
STEPS, SAVED, KILLED = 12, 4, 7
PATIENCE = 100.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONUNBUFFERED": "1",
}


@pytest.mark.slow
def test_a_run_goes_on_after_a_fault_and_ends_as_without_it(tmp_path):
    # As it should be: two processes, and nothing happens to them.
    code, said = torchrun(tmp_path, 2, "whole")
    assert code == 0, said
    (whole,) = runs(tmp_path, "whole")
    assert whole["begun"] == 0
    assert len(whole["losses"]) == STEPS
    assert "2 processes" in said

    # Rank 1 is killed in mid-epoch, behind a checkpoint: torchrun starts both anew. A checkpoint
    # that was not written to its end is there too, and newer.
    torn = tmp_path / "killed" / f"step-{KILLED:06}"
    torn.mkdir(parents=True)
    (torn / "__0_0.distcp").write_bytes(b"half of it")
    code, said = torchrun(tmp_path, 2, "killed", "--fault", f"kill:1:{KILLED}", restarts=1)
    assert code == 0, said
    assert f"going on from step {SAVED}" in said
    (again,) = runs(tmp_path, "killed")  # that of the first start was never written
    assert again["begun"] == SAVED
    assert again["losses"] == whole["losses"][SAVED:]  # the same bits
    assert again["weights"] == whole["weights"]
    assert again["noise"] == whole["noise"]

    # Four processes, one of which raises: all end, and what it said is seen.
    code, said = torchrun(tmp_path, 4, "raised", "--fault", f"raise:2:{2 * SAVED}")
    assert code == 1, said
    message = f"RuntimeError: rank 2 was asked to fail before step {2 * SAVED}"
    assert message in report_of(2, said), said
    assert runs(tmp_path, "raised") == []
    assert (tmp_path / "raised" / f"step-{2 * SAVED:06}" / ".metadata").exists()

    # Two go on from what the four have saved.
    code, said = torchrun(tmp_path, 2, "raised")
    assert code == 0, said
    (resumed,) = runs(tmp_path, "raised")
    assert resumed["begun"] == 2 * SAVED
    assert resumed["noise"] == whole["noise"]
    assert resumed["losses"] == pytest.approx(whole["losses"][2 * SAVED :], rel=1e-5)


def torchrun(folder, processes, name, *words, restarts=0):
    """The exit status and all that was printed; no process is left behind."""
    command = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(processes), "--max-restarts", str(restarts), "--monitor-interval", "0.1",
        str(EXAMPLES / "vae_distributed.py"), "--checkpoints", str(folder / name),
        "--out", str(folder / f"{name}.jsonl"), "--steps", str(STEPS), "--save-every", str(SAVED),
        *words,
    )  # fmt: skip
    output = folder / f"{name}.txt"  # a pipe would end with the last of the processes only
    with output.open("w") as file:
        agent = subprocess.Popen(
            command, env=environment(**ENVIRONMENT), cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        code = agent.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        code = f"none after {PATIENCE:.0f} s"
    left = alive(str(folder / name))
    for number in (signal.SIGABRT, signal.SIGKILL):  # the first one shows where they are
        for pid in alive(str(folder / name)):
            os.kill(pid, number)
            time.sleep(0.5)
    agent.wait()
    said = output.read_text()
    assert isinstance(code, int), f"exit status: {code}\n{said}"
    assert not left, f"torchrun ended with {code} and left {left}\n{said}"
    return code, said


def alive(word):
    """Processes on whose command line a word stands."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if word.encode() in line:
            found.append(int(pid))
    return found


def report_of(rank, said):
    """What torchrun's summary has on a rank that failed; ranks that lost it fail too."""
    summary = said[said.index("vae_distributed.py FAILED") :]
    blocks = re.split(r"\n(?=\[\d+\]:)", summary)
    (found,) = (b for b in blocks if re.search(rf"rank +: {rank} ", b))
    return found


def runs(folder, name):
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
