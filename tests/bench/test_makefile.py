"""What `make bench` and `make results` do when a part fails; the bench itself is not run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import __main__ as command_line
from bench.ops import OPS

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
@pytest.mark.parametrize("fails", ["training_step", "others", "plots", "nothing"])
def test_a_failed_part_stops_no_other_and_is_not_forgotten(fails, tmp_path):
    done, calls = make("bench", tmp_path, fails, f"BENCH={tmp_path}/out")
    assert (done.returncode != 0) == (fails != "nothing"), done.stderr
    assert calls == [
        f"-m bench --op gaussian_latent,training_step --out {tmp_path}/out",
        f"-m bench --op others --out {tmp_path}/out",
        f"-m bench plots {tmp_path}/out/*",
    ]


@needs_make
@pytest.mark.parametrize("fails", ["threads", "pages", "nothing"])
def test_results_are_all_that_the_pages_show(fails, tmp_path):
    # A folder given on the command line is another's: what is shown is in bench/results.
    done, calls = make("results", tmp_path, fails, f"BENCH={tmp_path}/out")
    assert (done.returncode != 0) == (fails != "nothing"), done.stderr
    folders = sorted(f"bench/results/{path.name}" for path in (ROOT / "bench/results").iterdir())
    assert sorted(calls.pop(-2).split()[3:]) == folders
    runs = ("--threads 1", "--op gaussian_latent,training_step", "--op others")
    assert calls == [*(f"-m bench {one} --out bench/results" for one in runs), "-m bench pages"]


def make(target, folder, fails, *words):
    """The process, and the arguments of each call of a Python that fails at some of them."""
    log, stamp, python = (folder / name for name in ("log", "stamp", "python"))
    python.write_text(f'#!/bin/sh\necho "$@" >>{log}\ncase "$*" in *{fails}*) exit 1;; esac\n')
    python.chmod(0o755)
    stamp.write_text("")
    command = ["make", target, f"BIN={folder}", f"STAMP={stamp}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done, log.read_text().splitlines()


def test_the_tests_under_the_sanitizers_exist():
    lists = re.findall(r"^SANITIZED\w* := \$\(addprefix (\S+),([^)]*)\)", MAKEFILE, re.MULTILINE)
    assert len(lists) == 2
    for prefix, names in lists:
        for name in names.replace("\\", "").split():
            assert (ROOT / (prefix + name)).is_file(), name


def test_the_groups_of_ops():
    others = command_line._options(["--op", "others"]).op
    assert sorted([*others, "gaussian_latent"]) == sorted([*OPS, "calls"])
    assert command_line._options(["--op", "all"]).op == (*OPS, "training_step", "calls")
    assert command_line._options(["--op", "normal,gaussian_kl"]).op == ("normal", "gaussian_kl")
