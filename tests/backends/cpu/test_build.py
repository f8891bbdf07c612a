"""Building the native library: into the cache, by two processes at once, and when it can't be."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile

import pytest

from fused_reparam.backends import cpu
from fused_reparam.backends.cpu import build, extension
from tests.helpers.fake_builds import (
    PROBE,
    ROOT,
    at_hand,
    copied,
    copying_compiler,
    needs_compiler,
    script,
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


def make_wheel(tmp_path, **environment):
    """The finished process that makes a wheel of a copy of the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    source = copied(tmp_path / "source")
    code = (
        "from setuptools import build_meta; import sys; "
        "print(build_meta.build_wheel(sys.argv[1] if len(sys.argv) > 1 else '.'))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=source, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("required", [False, True])
def test_wheel_where_nothing_can_be_compiled(tmp_path, required):
    """What build isolation gives: a wheel for any platform, with the sources inside."""
    done = make_wheel(tmp_path, PATH="", CXX="", FUSED_REPARAM_REQUIRE_NATIVE=str(int(required)))
    if required:
        assert done.returncode != 0
        assert "install g++" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "kernels").glob("*/*.*"):
        assert f"fused_reparam/_kernels/{path.relative_to(ROOT / 'kernels').as_posix()}" in names
    assert not [name for name in names if name.endswith(".so")]


@pytest.mark.skipif(at_hand() is None, reason="there is no native library to copy")
def test_wheel_with_the_libraries(tmp_path):
    """They are whole, and what a build that was killed has left is not packed with them."""
    write = 'for word; do if [ "$before" = -o ]; then : > "$word"; fi; before=$word; done\n'
    killer = script(tmp_path / "killer", write + "kill -9 $PPID")
    assert make_wheel(tmp_path, CXX=killer).returncode == -signal.SIGKILL
    done = make_wheel(tmp_path, CXX=copying_compiler(tmp_path), FUSED_REPARAM_REQUIRE_NATIVE="1")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    assert "-py3-none-linux" in path.name or not sys.platform.startswith("linux")
    with zipfile.ZipFile(path) as packed:
        for name in (build.library_name(), build.extension_name()):
            data = packed.read(f"fused_reparam/backends/cpu/{name}")
            assert data.endswith(build.seal(name, data[: -build.SEAL_SIZE]))
        assert not [name for name in packed.namelist() if ".build-" in name]


def test_sdist_holds_what_its_tests_need(tmp_path):
    """Every file that git keeps, but for those of its host and of the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    kept = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    source = tmp_path / "source"
    for name in kept:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    code = "from setuptools import build_meta; import sys; build_meta.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as packed:
        found = {name.partition("/")[2] for name in packed.getnames()}
    missing = {name for name in kept - found if not name.startswith((".git", ".pre-commit"))}
    assert not missing
