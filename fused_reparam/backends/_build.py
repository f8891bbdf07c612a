"""How the native library is compiled: the one description, for ``setup.py`` and for first use.

It imports nothing of the package, and PyTorch only to find its headers, so that ``setup.py`` can
load it by path. The library links against LibTorch's stable ABI only: one file serves every PyTorch
from 2.11 on, and its name in the cache doesn't depend on PyTorch's version. The host extension
(``kernels/host.cpp``) is for one PyTorch and one Python, which its name tells.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent  # fused_reparam/

# PyTorch 2.11, as torch/csrc/stable/version.h writes versions.
TORCH_TARGET = "0x020b000000000000"

FLAGS = [
    *("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
# Scheduling before registers are given out interleaves the chains of the noise: 5 to 10 % faster.
AVX512 = [
    *AVX2,
    *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"),
    *("-fschedule-insns", "-fsched-pressure"),
]

NO_COMPILER = (
    "no C++ compiler was found to build the native library: install g++ 12 or later, or clang, or "
    "name one in CXX"
)


class BuildError(RuntimeError):
    """The library can't be built here; the message says why and what would help."""


class CompilerError(BuildError):
    """The compiler was started and failed."""


class Unit(NamedTuple):
    """One file to compile."""

    source: Path
    flags: list[str]
    needs_torch: bool


def is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def source_dir() -> Path:
    """``kernels/`` of a checkout, or the copy that an installed package carries."""
    for folder in (PACKAGE.parent / "kernels", PACKAGE / "_kernels"):
        if (folder / "ops.cpp").is_file():
            return folder
    raise BuildError("the sources of the native library are missing from this installation")


def units(sources: Path) -> list[Unit]:
    """Everything to compile on this machine's architecture."""
    torch = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *(["-DFR_X86"] if is_x86() else [])]
    found = []
    for prefix in ("", "draws_", "softmax_"):
        found.append(Unit(sources / f"{prefix}portable.cpp", ["-Wno-psabi"], False))
        if is_x86():
            found.append(Unit(sources / f"{prefix}avx2.cpp", AVX2, False))
            found.append(Unit(sources / f"{prefix}avx512.cpp", AVX512, False))
    names = ("ops.cpp", "draws.cpp", "softmax.cpp")
    return found + [Unit(sources / name, torch, True) for name in names]


def torch_root() -> Path:
    """The installed PyTorch's folder, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("PyTorch is not installed, so its headers are missing")
    root = Path(next(iter(spec.submodule_search_locations)))
    if not (root / "include" / "torch" / "csrc" / "stable" / "ops.h").is_file():
        raise BuildError("this PyTorch has no stable ABI headers: PyTorch 2.11 or later is needed")
    return root


def compiler() -> list[str]:
    """The C++ compiler's command: ``CXX``, or the first usual name on the path."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        try:
            command = shlex.split(name)
        except ValueError as error:
            raise BuildError(f"the environment variable CXX is {name!r}: {error}") from None
        if command and shutil.which(command[0]):
            return command
    raise BuildError(NO_COMPILER)


def jit_forbidden() -> bool:
    """Whether the environment forbids building at first use."""
    return os.environ.get("FUSED_REPARAM_NO_JIT", "0") not in ("", "0")


def cache_dir() -> Path:
    """Where libraries built at first use are kept, per user."""
    own = os.environ.get("FUSED_REPARAM_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fused_reparam"


def fingerprint() -> str:
    """What decides the library's contents: the sources and the flags.

    The compiler is not in it: it changes nothing that the library does, and so a finished library
    is found without starting a process.
    """
    sources = source_dir()
    digest = hashlib.sha256()
    for path in sorted(sources.iterdir()):
        if path.suffix in (".h", ".cpp", ".inc"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for unit in units(sources):
        digest.update(" ".join([unit.source.name, *FLAGS, *unit.flags]).encode())
    return digest.hexdigest()[:16]


def library_name() -> str:
    """The library's file name, which changes with its sources: a stale file is never taken."""
    return f"libfused_reparam-{fingerprint()}.so"


def host_name() -> str:
    """The host extension's file name."""
    text = (torch_root() / "version.py").read_text()
    torch = re.search(r"^__version__ = ['\"](.+?)['\"]", text, re.MULTILINE)
    versions = f"torch{torch[1] if torch else ''}-{sys.implementation.cache_tag}"
    return f"fused_reparam_host-{fingerprint()}-{re.sub(r'[^a-z0-9-]+', '_', versions)}.so"


def installed(name: str) -> Path:
    """Where ``setup.py`` puts a library inside the package."""
    return PACKAGE / "backends" / name


def cached(name: str) -> Path:
    """A library's place in the cache, apart for each system that may share a home folder."""
    system = "-".join(filter(None, [sys.platform, platform.machine(), *platform.libc_ver()]))
    return cache_dir() / system / name


def build(output: Path, cxx: list[str] | None = None) -> None:
    """Compile the library to ``output``. Nothing appears there unless all went well."""
    cxx = cxx or compiler()
    torch = torch_root()
    with _beside(output) as (work, made):
        steps = [_compile_step(cxx, unit, work, torch) for unit in units(source_dir())]
        objects = [target for target, _ in steps]
        link = [*cxx, "-shared", "-o", str(made), *map(str, objects)]
        link += [f"-L{torch / 'lib'}", "-ltorch_cpu"]
        ninja = _ninja()
        if ninja:
            (work / "build.ninja").write_text(_ninja_file(steps, made, link))
            _run([ninja, "-C", str(work)])
        else:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                list(pool.map(_run, [command for _, command in steps]))
            _run(link)


def build_host(output: Path, cxx: list[str] | None = None) -> None:
    """Compile the host extension, likewise."""
    cxx = cxx or compiler()
    torch = torch_root()
    python = Path(sysconfig.get_paths()["include"])
    if not (python / "Python.h").is_file():
        raise BuildError(f"Python's headers are missing: there is no Python.h in {python}")
    include = torch / "include"
    folders = (include, include / "torch" / "csrc" / "api" / "include", python)
    flags = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-shared"]
    with _beside(output) as (_, made):
        _run([
            *cxx, *flags, *(word for folder in folders for word in ("-isystem", str(folder))),
            str(source_dir() / "host.cpp"), "-o", str(made),
            f"-L{torch / 'lib'}", "-ltorch_python", "-ltorch_cpu", "-lc10",
        ])  # fmt: skip


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[tuple[Path, Path]]:
    """A working folder, and where in it to make what becomes ``output`` when all has gone well."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the output, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=output.parent) as folder:
        made = Path(folder) / output.name
        yield Path(folder), made
        os.replace(made, output)


def build_in_cache(name: str, what: str, builder: Callable[[Path, list[str]], None]) -> Path:
    """A library in the cache, built if it isn't there. Safe with several processes at once."""
    output = cached(name)
    if output.is_file():
        return output
    cxx = compiler()
    torch_root()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"the cache folder {output.parent} can't be made: {error}") from error
    with _lock(output.with_suffix(".lock")):
        if not output.is_file():  # another process may have been first
            print(
                f"fused_reparam: building {what} once, into {output.parent} "
                "(FUSED_REPARAM_NO_JIT=1 turns this off)",
                file=sys.stderr,
                flush=True,
            )
            builder(output, cxx)
    return output


def _compile_step(cxx: list[str], unit: Unit, work: Path, torch: Path) -> tuple[Path, list[str]]:
    target = work / (unit.source.stem + ".o")
    include = ["-isystem", str(torch / "include")] if unit.needs_torch else []
    command = [*cxx, *FLAGS, *unit.flags, *include, "-c", str(unit.source), "-o", str(target)]
    return target, command


def _ninja() -> str | None:
    """The ninja program: the Python package's (which may not be on the path), or the system's."""
    beside = Path(sys.executable).parent / "ninja"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("ninja")


def _ninja_file(steps: list[tuple[Path, list[str]]], made: Path, link: list[str]) -> str:
    def line(command: list[str]) -> str:
        return shlex.join(command).replace("$", "$$")

    def name(path: Path) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    text = "rule run\n  command = $command\n"
    for target, command in steps:
        text += f"build {name(target)}: run\n  command = {line(command)}\n"
    objects = " ".join(name(target) for target, _ in steps)
    return text + f"build {name(made)}: run {objects}\n  command = {line(link)}\n"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"the native library could not be built: {error}") from error
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise CompilerError(f"the native library could not be built: {command[0]} said\n{last}")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time. Where there are no file locks, two may build; the rename is atomic."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing the file releases the lock
