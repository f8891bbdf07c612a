"""What a machine is called, in tables and in the names of folders."""

from __future__ import annotations

import subprocess
from pathlib import Path

import invented

from bench import machine, results


def test_one_thread_is_no_threads():
    assert results.machine_words(invented.machine(threads=1)).startswith(
        "Invented CPU, 1 thread, AVX2;"
    )
    # Folders keep their names.
    assert machine.folder_name(invented.machine(threads=1)) == "invented-1-threads"


def test_results_of_a_gpu_are_filed_by_driver_and_versions():
    described = {
        "device": "NVIDIA H100 80GB HBM3",
        "device_type": "cuda",
        "driver": "550.54.15",
        "versions": {"torch": "2.11.0+cu128", "triton": "3.6.0"},
    }
    expected = "nvidia-h100-80gb-hbm3-driver-550.54.15-torch-2.11.0-cu128-triton-3.6.0"
    assert machine.folder_name(described) == expected


def test_the_driver_is_known_without_its_tool(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024"
    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert machine.driver_version() == "550.54.15"
    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.driver_version() == "unknown"
