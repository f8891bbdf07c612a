"""What a machine is called, in tables and in the names of folders."""

from __future__ import annotations

from bench import machine, results
from tests.helpers import invented


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
