"""That `make sanitize` can fail: a fault made on purpose ends the process, whatever the ISA."""

import os
import subprocess
import sys

import pytest

from fused_reparam.backends import cpu

pytestmark = pytest.mark.skipif(
    "libasan" not in os.environ.get("LD_PRELOAD", ""), reason="for `make sanitize`"
)
START = """
import math
import torch
from fused_reparam.backends import cpu

def forward(scale, kind):
    loc = torch.zeros(100)
    numbers = (-math.inf, math.inf, 0.0, 1.0, -math.inf)
    cpu.elementwise_forward(
        "gaussian", kind, 0, numbers, (loc, scale), None, loc, 1, 1.0, True, torch.zeros(100), []
    )

forward(torch.zeros(100), 0)
print("began", flush=True)
"""
FAULTS = {
    "forward(torch.zeros(4), 0)": "ERROR: AddressSanitizer",
    "forward(torch.zeros(100), 99)": "runtime error: index 99 out of bounds",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("isa", cpu.ISA_NAMES)
def test_a_fault_ends_the_process(fault, isa):
    found = subprocess.run(
        [sys.executable, "-c", START + fault],
        env={**os.environ, "FUSED_REPARAM_ISA": isa},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert found.returncode != 0
    assert found.stdout == "began\n"
    assert FAULTS[fault] in found.stderr, found.stderr[-2000:]
