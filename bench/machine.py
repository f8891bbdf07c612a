"""Where and with what a measurement is made: device, versions and commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import cast

import torch

# What figures depend on, in a checkout.
MEASURED = ("bench", ":!bench/results", "fused_reparam", "kernels", "setup.py", "pyproject.toml")


def describe(device: torch.device) -> dict[str, object]:
    """Device, processor, versions, commit and time, as they go into every result file."""
    about: dict[str, object] = {
        "device": cpu_model(), "device_type": device.type, "cpu": cpu_model(),
        "cpus": os.cpu_count(), "simd": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}", "versions": _versions(),
        "commit": commit(), "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        driver, *clocks = nvidia_smi("driver_version", "clocks.sm", "clocks.max.sm",
                                     "clocks.max.mem", "power.limit")  # fmt: skip
        about |= {
            "device": torch.cuda.get_device_name(device), "driver": driver,
            "clocks": ", ".join(clocks),
            "compute_capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count, "memory_bytes": found.total_memory,
        }  # fmt: skip
    return about


def nvidia_smi(*fields: str) -> list[str]:
    """What NVIDIA's tool says of the GPU; `unknown` where nothing tells it."""
    words = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=30)
        return done.stdout.splitlines()[0].split(", ")
    except (OSError, subprocess.SubprocessError, IndexError):
        return ["unknown"] * len(fields)


def folder_name(machine: dict[str, object]) -> str:
    """A machine's folder under the results: `intel-xeon-processor-2.50ghz-2-threads`.

    A GPU's name is followed by the versions of driver, PyTorch and Triton.
    """
    name = re.sub(r"\((R|TM|r|tm)\)|CPU|@", " ", str(machine["device"]))
    if machine["device_type"] == "cpu":
        name += f" {machine['threads']} threads"
    else:
        versions = cast("dict[str, str]", machine["versions"])
        name += f" driver {machine['driver']} torch {versions['torch']}"
        name += f" triton {versions.get('triton', 'none')}"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.lower().startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def commit() -> str:
    """The checkout's commit, as it was when this process first asked."""
    return commit_of(Path(__file__).resolve().parent.parent)


def commit_of(root: Path) -> str:
    """The commit of a checkout, with `+` where what is measured differs; `unknown` without git."""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--", *MEASURED)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    for name in ("triton", "fused_reparam"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
