"""Where and with what a measurement was made."""

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

from bench import allocator

# What figures depend on, in a checkout.
MEASURED = ("bench", ":!bench/results", "fused_reparam", "kernels", "setup.py", "pyproject.toml")


def describe(device: torch.device) -> dict[str, object]:
    """Device, processor, versions, commit and time, as they go into every result file."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "keeps_freed_memory": allocator.kept(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": _versions(),
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    } | (_cuda(device) if device.type == "cuda" else {})


def _cuda(device: torch.device) -> dict[str, object]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "driver": driver_version(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
    }


def driver_version() -> str:
    """The NVIDIA driver's version; `unknown` where nothing tells it."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=30)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        pass
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found.group(0) if found else "unknown"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def folder_name(machine: dict[str, object]) -> str:
    """A machine's folder under the results: `intel-xeon-processor-2.50ghz-2-threads`.

    A GPU's name is followed by the versions of driver, PyTorch and Triton.
    """
    name = re.sub(r"\((R|TM|r|tm)\)|CPU|@", " ", str(machine["device"]))
    if machine["device_type"] == "cpu":
        name += f" {machine['threads']} threads"
        name += " kept memory" if machine.get("keeps_freed_memory") else ""
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
