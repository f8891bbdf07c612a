"""Shared by all tests: which backends are at hand, memory filled with NaN, fixed seeds."""

import os
from contextlib import nullcontext

# Workers share the cores; threads that wait for a busy one take most of the time. Tests of several
# threads ask for them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# Before triton is imported: without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A graph compiled yesterday says nothing of an op changed today.
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")

import fused_reparam
from fused_reparam.backends import cpu, dispatch
from tests.helpers import interpreter
from tests.helpers.python_kernels import python_kernels

collect_ignore = ["helpers"]  # where nothing is a test, and imports may skip
try:
    import numpy  # noqa: F401
except ModuleNotFoundError:
    collect_ignore.append("ptx")  # the executor of PTX is written in it

interpreter.patch_once_a_launch()

CPU = torch.device("cpu")
# Every (backend, device) that a numeric test runs on.
TARGETS = [(name, "cpu") for name in ("reference", "native", "triton")]
GPU_TARGETS = [(name, "cuda") for name in ("reference", "triton")]
if torch.cuda.is_available():
    TARGETS += GPU_TARGETS


def missing(name, device):
    """Why a backend can't run on a device here, or None."""
    if device == "cuda" and not torch.cuda.is_available():
        return "no CUDA GPU"
    return dispatch.unavailable_reason(name, torch.device(device))


def pytest_report_header():
    lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads"]
    for name, device in dict.fromkeys(TARGETS + GPU_TARGETS):
        reason = missing(name, device)
        lines.append(f"backend {name} on {device}: {'runs' if reason is None else reason}")
    return lines


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(params=[f"{name}-{device}" for name, device in TARGETS])
def target(request):
    """Runs the test once for each backend and device; yields (backend, device)."""
    name, device = request.param.split("-")
    reason = missing(name, device)
    if reason is not None:
        pytest.skip(f"backend {name} on {device}: {reason}")
    with fused_reparam.backend(name):
        yield name, torch.device(device)


@pytest.fixture(params=["reference", "native"])
def backend(request):
    """Runs the test once for each backend that is fast on a CPU: the interpreter takes minutes."""
    reason = missing(request.param, "cpu")
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    with fused_reparam.backend(request.param):
        yield request.param


@pytest.fixture(params=cpu.ISA_NAMES)
def isa(request):
    """Each instruction set of the native library that the machine has."""
    before = cpu.isa()
    if cpu.set_isa(request.param) != request.param:
        cpu.set_isa(before)
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    cpu.set_isa(before)


@pytest.fixture
def no_extension():
    """The native backend's calls all go through its Python functions, which a test may watch."""
    with python_kernels():
        yield


@pytest.fixture(params=["extension", "python", "reference"])
def way(request):
    """The native backend by its extension and, for public functions, without it; the reference."""
    with fused_reparam.backend("reference" if request.param == "reference" else "native"):
        fused_reparam.gaussian_latent(torch.zeros(1), torch.zeros(1))  # loads the library
        with python_kernels() if request.param == "python" else nullcontext():
            yield request.param


@pytest.fixture
def device(target):
    """The device of ``target``, with its backend asked for."""
    return target[1]


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan():
    """``torch.empty`` gives NaN, so that an element that no kernel writes shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20140412)
