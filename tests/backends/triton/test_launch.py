"""When the Triton backend is there, how tensors are cut into tiles, and how kernels are
launched.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.paths import ROOT
from tests.helpers.triton_truth import needs_backend


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
    from fused_reparam.backends.triton.launch import launch_configuration

    for vector in (2, 4, 8):
        for n in (1, 1000, 4096, 10**6, 10**6 + 1, 2**31 + 8):
            for segments in (1, n, *(s for s in (2, 5, 125, 1000) if n % s == 0)):
                config = launch_configuration(n, segments, vector)
                tile = config.shape.groups * vector
                if config.segment_groups:
                    each = config.shape.groups // config.segment_groups
                    assert config.programs * each >= segments > (config.programs - 1) * each
                    assert config.segment_groups * vector >= n // segments
                else:
                    assert config.programs * tile >= n > (config.programs - 1) * tile
                    assert segments in (1, n) or n // segments >= tile


class Pointer:
    """As much of a CUDA tensor as a launch looks at."""

    dtype = torch.float32

    def __init__(self, address: int):
        self.address = address

    def data_ptr(self) -> int:
        return self.address


@pytest.fixture
def recorded(monkeypatch):
    """A variant with the GPU taken away: what went through Triton's path, and what straight to the
    kernel.
    """
    from fused_reparam.backends.triton import launch

    calls = SimpleNamespace(plain=[], direct=[], module=launch, error=None)

    def run(*arguments):
        if calls.error:
            raise calls.error
        calls.direct.append(arguments)

    def plain(self, pointers, scalars):
        calls.plain.append((self.programs, pointers, scalars, self.constexprs, self.warps))
        return SimpleNamespace(run=run, function="function", packed_metadata="metadata")

    active = SimpleNamespace(get_current_stream=lambda index: f"stream {index}")
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(launch.Variant, "_launch_by_triton", plain)
    monkeypatch.setattr(launch.triton.runtime, "driver", SimpleNamespace(active=active))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    calls.variant = launch.Variant("kernel", torch.device("cuda", 0), 7, (True, 3), 4)
    return calls


@needs_backend
def test_second_launch_goes_straight_to_the_kernel(recorded):
    for address in (64, 128, 4, 8, 256):  # 4 and 8 are off alignment: another variant
        recorded.variant.launch((Pointer(address), None), (5, 0.5))
    assert [c[1][0].address for c in recorded.plain] == [64, 4]
    assert recorded.plain[0][0] == 7
    assert recorded.plain[0][2:] == ((5, 0.5), (True, 3), 4)
    head = (7, 1, 1, "stream 0", "function", "metadata", None, None, None)
    assert recorded.direct == [(*head, a, None, 5, 0.5, True, 3) for a in (128, 8, 256)]


@needs_backend
def test_each_alignment_has_its_own_kernel(recorded):
    for pair in ((16, 32), (16, 40), (24, 32), (48, 8), (24, 24), (16, 16)):
        recorded.variant.launch(tuple(Pointer(a) for a in pair), ())
    seen = [tuple(p.address for p in c[1]) for c in recorded.plain]
    assert seen == [(16, 32), (16, 40), (24, 32), (24, 24)]
    assert [c[9:11] for c in recorded.direct] == [(48, 8), (16, 16)]


@needs_backend
def test_launches_on_its_own_device(recorded, monkeypatch):
    entered = []
    monkeypatch.setattr(
        torch.cuda, "device", lambda device: entered.append(device) or contextlib.nullcontext()
    )
    recorded.variant.launch((Pointer(64),), ())
    assert entered == []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    recorded.variant.launch((Pointer(64),), ())
    assert entered == [torch.device("cuda", 0)]
    assert recorded.direct[0][3] == "stream 0"


@needs_backend
def test_another_calling_convention_falls_back(recorded):
    recorded.variant.launch((Pointer(64),), ())
    recorded.error = TypeError("wrong number of arguments")
    recorded.variant.launch((Pointer(64),), ())
    recorded.error = None
    recorded.variant.launch((Pointer(64),), ())
    assert len(recorded.plain) == 3
    assert recorded.direct == []


@needs_backend
def test_a_profiler_sees_launches(recorded, monkeypatch):
    recorded.variant.launch((Pointer(64),), ())
    runtime = recorded.module.knobs.runtime
    for hook in ("launch_enter_hook", "launch_exit_hook"):
        with monkeypatch.context() as patch:
            patch.setattr(runtime, hook, lambda *_: None)
            recorded.variant.launch((Pointer(64),), ())
    assert len(recorded.plain) == 3
    assert recorded.direct == []
    recorded.variant.launch((Pointer(64),), ())
    assert len(recorded.direct) == 1


@needs_backend
def test_calls_that_differ_take_variants_that_differ():
    """What a variant is kept under must hold all that its constants are made from."""
    from fused_reparam.backends.triton import gaussian

    device, wide = torch.device("cpu"), torch.float32
    rows = ((3, 8), ((8, 1), (16, 1), None, (8, 1)))
    base = (device, wide, 24, 1, 0, False, 0, (False, True), None, None)
    changes = [
        {1: torch.float16}, {2: 25}, {3: 0}, {3: 3}, {3: 24}, {4: 1}, {5: True}, {6: 1},
        {8: rows}, {8: ((3, 8), ((8, 1), (8, 1), None, (8, 1)))},
    ]  # fmt: skip
    seen = set()
    for change in ({}, *changes):
        call = gaussian._forward(*(change.get(i, a) for i, a in enumerate(base)))
        seen.add((call.variant.constexprs, call.head))
    assert len(seen) == 1 + len(changes)
    assert gaussian._forward(*base) is gaussian._forward(*base)


@needs_backend
@pytest.mark.skipif(bool(torch.version.hip), reason="CUDA's capture modes")
def test_a_new_kernel_is_loaded_in_the_relaxed_mode_of_capture(recorded, monkeypatch):
    modes = [0]  # global, as torch.cuda.graph captures

    def exchange(reference):
        mode = reference._obj
        modes.append(mode.value)
        mode.value = modes[-2]

    library = SimpleNamespace(cuThreadExchangeStreamCaptureMode=exchange)
    monkeypatch.setattr(recorded.module.ctypes, "CDLL", lambda name: library)
    recorded.variant.launch((Pointer(64),), ())
    assert modes == [0]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    recorded.variant.launch((Pointer(64),), ())  # known: nothing is loaded
    assert modes == [0]
    recorded.variant.launch((Pointer(8),), ())
    assert modes == [0, 2, 0]
