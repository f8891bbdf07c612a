"""Building the native library: into the cache, by two processes at once, and when it can't be."""

import os
import shlex
import sys

import pytest

from fused_reparam.backends import cpu
from fused_reparam.backends.cpu import build, extension
from tests.helpers.fake_builds import (
    PROBE,
    copying_compiler,
    needs_compiler,
)
from tests.helpers.fake_builds import start as run


@needs_compiler
@pytest.mark.skipif(
    "FUSED_REPARAM_NO_EXTENSION" in os.environ, reason="the extension is turned off"
)
def test_there_is_an_extension():
    """Or the tests of it are skipped, and nobody sees that it no longer compiles."""
    cpu.info()
    assert extension.module is not None, extension.reason


@pytest.mark.slow
@needs_compiler
def test_two_processes_build_once(tmp_path):
    """The library is compiled; its extension, whose headers take as long as all else, is copied."""
    cache = tmp_path / "cache"
    # To optimize takes most of a compiler's time, and the last of such options counts.
    compile_library = f'exec {shlex.join(build.compiler())} "$@" -O0'
    quick = copying_compiler(tmp_path, library=compile_library)
    both = [run(PROBE, cache, CXX=quick) for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in both]
    for process, (out, err) in zip(both, outputs, strict=True):
        assert process.returncode == 0, err
        assert out.splitlines()[0] == "None", out + err
    notices = "".join(err for _, err in outputs).splitlines()
    notices = [line for line in notices if "building the native" in line]
    assert len(notices) == 2  # the library and its extension
    for notice in notices:
        assert str(cache) in notice
        assert "FUSED_REPARAM_NO_JIT=1" in notice
    files = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    names = [build.extension_name(), build.library_name()]
    assert sorted(path.name for path in files) == names
    waited = "".join(err for _, err in outputs)
    assert "waiting for another process" in waited

    third = run(PROBE, cache, PATH="", CXX="")  # found again, without a compiler and in silence
    out, err = third.communicate(timeout=100)
    assert out.splitlines()[0] == "None"
    assert "building" not in err


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"CXX": 'clang"'}, "environment variable CXX is 'clang\"'"),
        ({"FUSED_REPARAM_ISA": "neon"}, "FUSED_REPARAM_ISA must be one of portable, avx2, avx512"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path, environment, says):
    out, err = run(PROBE, tmp_path, **environment).communicate(timeout=100)
    assert says in out.splitlines()[0]
    assert says in err


def test_no_compiler_is_said_once(tmp_path):
    code = PROBE + "; cpu.unavailable_reason(torch.device('cpu'))"
    out, err = run(code, tmp_path, PATH="", CXX="").communicate(timeout=100)
    assert "install g++" in out.splitlines()[0]
    assert err.count("RuntimeWarning") == 1
    assert not list(tmp_path.rglob("*.so"))


def test_building_can_be_turned_off(tmp_path):
    out, err = run(PROBE, tmp_path, FUSED_REPARAM_NO_JIT="1").communicate(timeout=100)
    assert "FUSED_REPARAM_NO_JIT" in out.splitlines()[0]
    assert "building the native" not in err
    assert not list(tmp_path.rglob("*"))


def test_a_failed_build_leaves_nothing(tmp_path):
    out, err = run(PROBE, tmp_path, CXX="false").communicate(timeout=100)
    assert "could not be built" in out.splitlines()[0]
    assert "could not be built" in err
    assert not list(tmp_path.rglob("*.so"))
    assert not list(tmp_path.rglob(".build-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_importing_loads_nothing():
    code = (
        "from fused_reparam.backends import cpu; import pathlib, torch;"
        "assert 'GPU' not in str(cpu.unavailable_reason(torch.device('meta')));"
        "assert 'libfused_reparam' not in pathlib.Path('/proc/self/maps').read_text()"
    )
    process = run(code, "/nonexistent")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
