"""What the packages hold: built by the real build backend, with a stand-in for the compiler."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

from fused_reparam.backends.cpu import build
from tests.helpers.fake_builds import ROOT, at_hand, copied, copying_compiler, script

pytest.importorskip("setuptools", minversion="77")
needs_library = pytest.mark.skipif(at_hand() is None, reason="there is no native library to copy")


def make_wheel(tmp_path, **environment):
    """The finished process that makes a wheel of a copy of the checkout."""
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


@needs_library
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


@needs_library
def test_wheel_without_the_extension(tmp_path):
    """It is for every PyTorch and Python, and holds nothing that an earlier build has left."""
    source = copied(tmp_path / "source")
    for folder in ("lib", f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"):
        left = source / "build" / folder / "fused_reparam" / "backends" / "cpu"
        left.mkdir(parents=True)
        for name in ("libfused_reparam-0123456789abcdef.so", "removed.py"):
            (left / name).write_text("")
    done = make_wheel(
        tmp_path, CXX=copying_compiler(tmp_path),
        FUSED_REPARAM_REQUIRE_NATIVE="1", FUSED_REPARAM_NO_EXTENSION="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as packed:
        names = packed.namelist()
        tags = packed.read(next(name for name in names if name.endswith("/WHEEL"))).decode()
    assert [name for name in names if name.endswith(".so")] == [
        f"fused_reparam/backends/cpu/{build.library_name()}"
    ]
    assert not [name for name in names if "removed" in name]
    assert "Root-Is-Purelib: false" in tags
    assert re.findall("^Tag: (.*)$", tags, re.MULTILINE) == [path.stem.split("-", 2)[2]]
    assert path.stem.split("-")[2:4] == ["py3", "none"]


@needs_library
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("nm") is None, reason="reads an ELF file with binutils"
)
def test_the_library_is_for_every_python_and_pytorch():
    """It takes nothing from Python, and from PyTorch only functions of its stable C interface."""
    library = str(at_hand()[0])

    def lines(*command):
        return subprocess.run(
            [*command, library], capture_output=True, text=True, check=True
        ).stdout.splitlines()

    needed = {
        line.split("[")[1][:-1] for line in lines("readelf", "-d", "-W") if "(NEEDED)" in line
    }
    loader = {name for name in needed if name.startswith("ld-linux-")}
    if "FUSED_REPARAM_CXXFLAGS" not in os.environ:  # a sanitizer needs its runtime
        system = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6"}
        assert needed - loader - system == {"libtorch_cpu.so"}
    symbols = [line.split() for line in lines("nm", "-D", "--undefined-only")]
    # Those of the system have a version after an @; kind w may be missing.
    taken = [name for kind, name in symbols if kind == "U" and "@" not in name]
    taken = [name for name in taken if not name.startswith(("__asan", "__ubsan"))]
    assert taken
    assert not [name for name in taken if not name.startswith(("aoti_torch_", "torch_"))]


def test_sdist_holds_what_its_tests_need(tmp_path):
    """Every file that git keeps, but for those of its host and of the checkout."""
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


def test_recipes_name_what_there_is():
    """Wheels and containers: the PyTorch of `make test`, and files that exist."""
    containers = {path.name: path.read_text() for path in (ROOT / "containers").iterdir()}
    assert containers
    texts = {name: (ROOT / name).read_text() for name in ("Makefile", "pyproject.toml")}
    versions = {
        name: set(re.findall(r"(?:TORCH \?= torch==|--no-deps torch==|ARG TORCH=)(\d[\w.]+)", text))
        for name, text in (texts | containers).items()
    }
    assert list(versions.values()) == [versions["Makefile"]] * len(versions), versions
    assert len(versions["Makefile"]) == 1
    for name, text in containers.items():
        copied_files = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
        assert copied_files, name
        for path in " ".join(copied_files).split():
            assert (ROOT / path).exists(), (name, path)
