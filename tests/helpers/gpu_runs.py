"""Runs of `gpu-report` that have begun, on a machine that is invented."""

from __future__ import annotations

import time

from bench import gpu_report
from tests.helpers import invented

STEP = gpu_report.Step("some op 1M", (), 60)


def begun(folder, seconds=60.0):
    """A run that has a result, and all of whose tools are at hand but xdist."""
    tools = dict.fromkeys(gpu_report.TOOLS, "1") | {"xdist": None}
    deadline = time.monotonic() + seconds
    run = gpu_report.Run("cpu", deadline, time.monotonic(), folder, invented.machine(), tools, "")
    run.results = {"gaussian_latent": invented.result(sizes=("1M",))}
    return run
