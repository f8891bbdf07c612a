"""The CPU kernels' inner loops, by the instructions that they execute: a gate without a clock.

`python -m tests.helpers.stepping` prints the counts; see there how they are made.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import stepping
from tests.helpers.loops import where
from tests.helpers.paths import environment
from tests.helpers.stepping import COMPILER, OTHER_MARGIN

# What the arithmetic alone takes, in instructions per element in float32, with every constant in a
# register. In AVX-512, two registers of 16 numbers at a time:
#   Philox, 8 blocks in 64-bit lanes: counter 1, rounds 1 to 3 (half of them scalar) 13, rounds 4 to
#     9 six times 2 products, 2 shifts and 2 three-way xors, round 10 and packing 6: 56 for 32
#   Box-Muller: log 16, sine and cosine 13, root 3, sign 3, products 2, order and store 4: 41 for 32
#   forward, for 16: loads 2, exp 13, KL 4, sample and store 2: 21
#   backward, for 16: loads 3, exp 13, gradient of mu 2, of logvar 5, store 1: 24
#   KL alone, for 16, with the exp of bfloat16: loads 2, exp 8, KL 4: 14
#   KL backward, likewise: loads 2, exp 8, gradient of mu 1, of logvar 3, stores 2: 16
#   Gumbel noise in place of Box-Muller, for 16: u 4, two logs 27, order and store 3: 34
#   softmax, for 16: largest logit 1, score 4, largest score 1, exp 16 and its sum 4, share 3: 29
#   softmax backward, for 16: sum 2, gradient 5: 7
# bfloat16 converts on the way in and out (6 and 9 more), and its exp takes 8 in AVX-512.
NOISE = (56 + 41) / 32
ARITHMETIC = {
    "normal": NOISE,
    "forward": NOISE + 21 / 16,
    "backward": NOISE + 24 / 16,
    "kl": 14 / 16,
    "kl backward": 16 / 16,
    "softmax": 56 / 32 + (34 + 29) / 16,
    "softmax backward": 7 / 16,
}
# Registers of half and of a quarter of the width, of which AVX2 has no three-way xor, no exponent
# instructions and 16 registers rather than 32, and portable (SSE2) no fused multiply-add either.
LANES = {"avx512": 16, "avx2": 8, "portable": 4}

# Counted with the compiler that leaves COMPILER in what it makes, instructions per element. Where
# it made the library, the margin is below one more round of Philox (5 % of the noise); the larger
# margin is for other compilers and versions.
MARGIN = 1.03
COUNTED = {
    ("avx512", "normal"): {"float32": 3.74, "bfloat16": 3.91},
    ("avx512", "forward"): {"float32": 5.26, "bfloat16": 5.08},
    ("avx512", "backward"): {"float32": 5.21, "bfloat16": 5.25},
    ("avx512", "kl"): {"float32": 1.45, "bfloat16": 1.17},
    ("avx512", "kl backward"): {"float32": 1.56, "bfloat16": 1.81},
    ("avx512", "softmax"): {"float32": 8.98, "bfloat16": 10.25},
    ("avx512", "softmax backward"): {"float32": 1.12, "bfloat16": 2.97},
    ("avx2", "normal"): {"float32": 9.97, "bfloat16": 10.47},
    ("avx2", "forward"): {"float32": 14.00, "bfloat16": 14.62},
    ("avx2", "backward"): {"float32": 13.97, "bfloat16": 15.47},
    ("avx2", "kl"): {"float32": 4.06, "bfloat16": 4.21},
    ("avx2", "kl backward"): {"float32": 4.12, "bfloat16": 5.69},
    ("avx2", "softmax"): {"float32": 21.27, "bfloat16": 24.00},
    ("avx2", "softmax backward"): {"float32": 2.25, "bfloat16": 6.00},
    ("portable", "normal"): {"float32": 24.75, "bfloat16": 25.88},
    ("portable", "forward"): {"float32": 39.52, "bfloat16": 41.17},
    ("portable", "backward"): {"float32": 40.62, "bfloat16": 43.75},
    ("portable", "kl"): {"float32": 14.58, "bfloat16": 15.24},
    ("portable", "kl backward"): {"float32": 15.50, "bfloat16": 18.88},
    ("portable", "softmax"): {"float32": 59.37, "bfloat16": 65.15},
    ("portable", "softmax backward"): {"float32": 5.25, "bfloat16": 12.81},
}


def counts() -> tuple[dict[tuple[str, str, str], float], float]:
    """By (instruction set, operation, dtype), and the margin for the library that was counted."""
    command = [sys.executable, "-m", stepping.__name__, "--json"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment())
    assert out.returncode == 0, out.stderr[-4000:]
    found = json.loads(out.stdout.splitlines()[-1])
    if found["reason"]:
        pytest.skip(f"instructions can't be counted: {found['reason']}")
    margin = MARGIN if COMPILER in Path(found["library"]).read_bytes() else OTHER_MARGIN
    return {tuple(case): count for *case, count in found["counts"]}, margin


def test_instructions_per_element():
    """With each instruction set that this machine has."""
    found, margin = counts()
    assert len(found) % len(ARITHMETIC) == 0
    for (isa, operation, dtype), count in found.items():
        floor = ARITHMETIC[operation] * 16 / LANES[isa]
        bound = COUNTED[isa, operation][dtype] * margin
        with where(isa, operation, dtype):
            assert floor <= count <= bound, "see `python -m tests.helpers.stepping` for all counts"


READY = """
import ctypes, json, os, signal, sys, time
print(json.dumps({"library": "libnone.so", "best": "portable"}), flush=True)
"""


def step_through(script: str, tmp_path: Path, monkeypatch, **options) -> None:
    """`per_element` of a process that does something else."""
    path = tmp_path / "child.py"
    path.write_text(READY + script)
    monkeypatch.setattr(stepping, "CHILD", [str(path)])
    stepping.per_element([("portable", "normal", "float32")], **options)


def test_a_machine_that_forbids_ptrace_is_no_failure(tmp_path, monkeypatch):
    with pytest.raises(stepping.CannotStep, match="not permitted"):
        step_through(f"sys.exit({stepping.REFUSED})", tmp_path, monkeypatch)


def test_calls_that_fail_are_a_failure(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="ended: status 0x100"):
        step_through("sys.exit(1)", tmp_path, monkeypatch)


def test_calls_that_hang_are_killed(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="ended: status 0x9"):
        step_through("time.sleep(600)", tmp_path, monkeypatch, limit=0.5)
