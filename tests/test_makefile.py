"""What `make bench` does when a part of it fails; the bench itself is not run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench import __main__ as command_line
from bench.ops import OPS

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("fails", ["training_step", "others", "plots", "nothing"])
def test_a_failed_part_stops_no_other_and_is_not_forgotten(fails, tmp_path):
    log, stamp, python = (tmp_path / name for name in ("log", "stamp", "python"))
    python.write_text(f'#!/bin/sh\necho "$@" >>{log}\ncase "$*" in *{fails}*) exit 1;; esac\n')
    python.chmod(0o755)
    stamp.write_text("")
    words = ["make", "bench", f"BIN={tmp_path}", f"STAMP={stamp}", f"BENCH={tmp_path}/out"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == (fails != "nothing"), done.stderr
    assert log.read_text().splitlines() == [
        f"-m bench --op gaussian_latent,training_step --out {tmp_path}/out",
        f"-m bench --op others --out {tmp_path}/out",
        f"-m bench plots {tmp_path}/out/*",
    ]


def test_the_groups_of_ops():
    others = command_line._options(["--op", "others"]).op.split(",")
    assert sorted([*others, "gaussian_latent"]) == sorted(OPS)
    assert command_line._options(["--op", "all"]).op.split(",") == [*OPS, "training_step"]
    assert command_line._options(["--op", "normal,gaussian_kl"]).op == "normal,gaussian_kl"
