"""When the Triton backend is there, how tensors are cut into tiles, and how kernels are
launched.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from triton_truth import needs_backend

ROOT = Path(__file__).parent.parent


def python(code: str, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), env.get("PYTHONPATH", "")) if p)
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


def test_import_is_lazy_and_reasons_say_what_is_missing():
    code = """
import sys, types, torch
for name in ("fused_reparam", "fused_reparam.backends"):  # this package alone, not its parents
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [ROOT + "/" + name.replace(".", "/")]
before = set(sys.modules)
import fused_reparam.backends.triton as backend
reason = lambda device: backend.unavailable_reason(torch.device(device))
print(reason("cpu")); print(reason("cuda")); print(reason("meta"))
backend.info()
new = set(sys.modules) - before
print(any(m == "triton" or m.startswith("triton.") for m in new), torch.cuda.is_initialized())
import os, triton
os.environ["TRITON_INTERPRET"] = "1"
print(reason("cpu"))
"""
    cpu, cuda, meta, imported, late = python(code.replace("ROOT", repr(str(ROOT)))).splitlines()
    assert "TRITON_INTERPRET=1" in cpu
    assert cuda == "None"
    assert "meta" in meta
    assert imported == "False False"
    assert "after triton was imported" in late


@needs_backend
def test_a_plan_covers_every_element_once():
    from fused_reparam.backends.triton.launch import plan

    for vector in (2, 4, 8):
        for n in (1, 1000, 4096, 10**6, 10**6 + 1, 2**31 + 8):
            for segments in (1, n, *(s for s in (2, 5, 125, 1000) if n % s == 0)):
                cut = plan(n, segments, vector)
                tile = cut.shape.groups * vector
                if cut.segment_groups:
                    each = cut.shape.groups // cut.segment_groups
                    assert cut.programs * each >= segments > (cut.programs - 1) * each
                    assert cut.segment_groups * vector >= n // segments
                else:
                    assert cut.programs * tile >= n > (cut.programs - 1) * tile
                    assert segments in (1, n) or n // segments >= tile


class Pointer:
    """As much of a CUDA tensor as a launch looks at."""

    device = SimpleNamespace(type="cuda", index=0)
    dtype = torch.float32

    def __init__(self, address: int):
        self.address = address

    def data_ptr(self) -> int:
        return self.address


@pytest.fixture
def recorded(monkeypatch):
    """`launch` with the GPU taken away: what went through Triton's path, and what straight to the
    kernel.
    """
    from fused_reparam.backends.triton import launch

    calls = SimpleNamespace(plain=[], direct=[], module=launch, error=None)

    def run(*arguments):
        if calls.error:
            raise calls.error
        calls.direct.append(arguments)

    def plain(*arguments):
        calls.plain.append(arguments)
        return SimpleNamespace(run=run, function="function", packed_metadata="metadata")

    active = SimpleNamespace(get_current_stream=lambda index: f"stream {index}")
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(launch, "_COMPILED", {})
    monkeypatch.setattr(launch, "_plain", plain)
    monkeypatch.setattr(launch, "_device_guard", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(launch.triton.runtime, "driver", SimpleNamespace(active=active))
    return calls


@needs_backend
def test_second_launch_goes_straight_to_the_kernel(recorded):
    for address in (64, 128, 4, 8, 256):  # 4 and 8 are off alignment: another variant
        pointers = (Pointer(address), None)
        recorded.module.launch("kernel", 7, pointers, (5, 0.5), (True, 3), 4)
    assert [c[2][0].address for c in recorded.plain] == [64, 4]
    head = (7, 1, 1, "stream 0", "function", "metadata", None, None, None)
    assert recorded.direct == [(*head, a, None, 5, 0.5, True, 3) for a in (128, 8, 256)]


@needs_backend
def test_another_calling_convention_falls_back(recorded):
    arguments = ("kernel", 7, (Pointer(64),), (), (), 4)
    recorded.module.launch(*arguments)
    recorded.error = TypeError("wrong number of arguments")
    recorded.module.launch(*arguments)
    recorded.error = None
    recorded.module.launch(*arguments)
    assert len(recorded.plain) == 3
    assert recorded.direct == []


@needs_backend
def test_a_profiler_sees_launches(recorded, monkeypatch):
    arguments = ("kernel", 7, (Pointer(64),), (), (), 4)
    recorded.module.launch(*arguments)
    monkeypatch.setattr(recorded.module, "_hooked", lambda: True)
    recorded.module.launch(*arguments)
    assert len(recorded.plain) == 2
    assert recorded.direct == []
