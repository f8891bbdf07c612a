"""What tests of compiled kernels share: a Python that compiles, and readers of machine code."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers import aot
from tests.helpers.paths import environment


def run(*arguments: str) -> str:
    """What Python printed, without Triton's interpreter and with this checkout on its path."""
    dropped = ("TRITON_INTERPRET", "FUSED_REPARAM")
    kept = {k: v for k, v in environment().items() if not k.startswith(dropped)}
    command = [sys.executable, *arguments]
    out = subprocess.run(command, capture_output=True, text=True, env=kept, check=False)
    assert out.returncode == 0, out.stderr[-4000:]
    return out.stdout


def wide(one: aot.Listing) -> list[str]:
    return [op for op in one.accesses if ".128" in op or op.endswith("dwordx4")]


def narrow(one: aot.Listing) -> list[str]:
    return [op for op in one.accesses if op not in wide(one)]
