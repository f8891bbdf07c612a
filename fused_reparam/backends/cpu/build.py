"""How the native library is compiled: the one description, for ``setup.py`` and for first use.

It imports nothing of the package, and PyTorch only to find its headers, so that ``setup.py`` can
load it by path. The library links against LibTorch's stable ABI only: one file serves every PyTorch
from 2.11 on, and its name in the cache doesn't depend on PyTorch's version. The extension
(``kernels/torch/extension.cpp``) is for one PyTorch and one Python, which its name tells.
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
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[2]  # fused_reparam/

# PyTorch 2.11, as torch/csrc/stable/version.h writes versions.
TORCH_TARGET = "0x020b000000000000"

# Of every command that compiles or links.
# FUSED_REPARAM_CXXFLAGS is for builds with a sanitizer.
COMMON = [
    *("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden"),
    *os.environ.get("FUSED_REPARAM_CXXFLAGS", "").split(),
]
FLAGS = [
    *(*COMMON, "-fvisibility-inlines-hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
# Scheduling before registers are given out interleaves the chains of the noise: 5 to 10 % faster.
AVX512 = [
    *AVX2,
    *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"),
    *("-fschedule-insns", "-fsched-pressure"),
]

# What a finished library ends with: this mark, its size in 8 bytes and a SHA-256 in 32. A loader
# doesn't look at what stands behind a library's last section.
MARK = b"fused_reparam 1\n"
SEAL_SIZE = len(MARK) + 8 + 32
WORK_PREFIX = ".build-"

# A fork waits while this is held. What another thread holds at that moment is kept by the child for
# ever: the ends of a pipe while a compiler is started, the locks of the system's loader.
no_fork = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=no_fork.release
    )

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


Progress = Callable[[int, int], None]


class Product(NamedTuple):
    """One of the two files that are built: what to call it, and how it is named and made."""

    what: str
    duration: str  # of building it, in processor time
    file_name: Callable[[], str]
    build: Callable[[Path, Progress], None]
    optional: bool


def is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def source_dir() -> Path:
    """``kernels/`` of a checkout, or the copy that an installed package carries."""
    for folder in (PACKAGE.parent / "kernels", PACKAGE / "_kernels"):
        if (folder / "torch" / "extension.cpp").is_file():
            return folder
    raise BuildError("the sources of the native library are missing from this installation")


def units(sources: Path) -> list[Unit]:
    """Everything to compile on this machine's architecture."""
    torch = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *(["-DFR_X86"] if is_x86() else [])]
    found = []
    for kernels in ("gaussian", "elementwise", "softmax"):
        found.append(Unit(sources / kernels / "portable.cpp", ["-Wno-psabi"], False))
        if is_x86():
            found.append(Unit(sources / kernels / "avx2.cpp", AVX2, False))
            found.append(Unit(sources / kernels / "avx512.cpp", AVX512, False))
    names = ("common/normal.cpp", "elementwise/entry.cpp", "softmax/entry.cpp")
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


def source_files(sources: Path) -> list[Path]:
    """The headers and sources in the folders of ``kernels/``, in a fixed order."""
    return sorted(path for path in sources.rglob("*") if path.suffix in (".h", ".cpp"))


def write_formula_lists(sources: Path, work: Path) -> None:
    """Make the headers that list the element-wise families' formulas, as their files have them."""
    files = sorted((sources / "elementwise" / "formulas").glob("*.h"))
    text = "".join(path.read_text() for path in files)
    names = ""
    for kind in ("Transform", "Term"):
        found = dict.fromkeys(re.findall(rf"struct {kind}Formula<{kind}::(\w+)", text))
        names += f"#define FR_{kind.upper()}S(X) {' '.join(f'X({name})' for name in found)}\n"
    included = "".join(f'#include "elementwise/formulas/{path.name}"\n' for path in files)
    folder = work / "elementwise"
    folder.mkdir()
    (folder / "formula_names.h").write_text("#pragma once\n" + names)
    (folder / "formula_files.h").write_text("#pragma once\n" + included)


def includes(sources: Path) -> list[str]:
    """Headers are named from the root of the sources. Only quoted names are looked up there, so
    that its folder torch/ hides nothing of PyTorch's.
    """
    return ["-iquote", str(sources)]


def fingerprint() -> str:
    """What decides the library's contents: the sources and the flags.

    The compiler is not in it: it changes nothing that the library does, and so a finished library
    is found without starting a process.
    """
    sources = source_dir()
    digest = hashlib.sha256()
    for path in source_files(sources):
        name = path.relative_to(sources).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    for unit in units(sources):
        name = unit.source.relative_to(sources).as_posix()
        digest.update(" ".join([name, *FLAGS, *unit.flags]).encode())
    return digest.hexdigest()[:16]


def library_name() -> str:
    """The library's file name, which changes with its sources: a stale file is never taken."""
    return f"libfused_reparam-{fingerprint()}.so"


def extension_name() -> str:
    """The extension's file name."""
    text = (torch_root() / "version.py").read_text()
    torch = re.search(r"^__version__ = ['\"](.+?)['\"]", text, re.MULTILINE)
    versions = f"torch{torch[1] if torch else ''}-{sys.implementation.cache_tag}"
    return f"fused_reparam_torch-{fingerprint()}-{re.sub(r'[^a-z0-9-]+', '_', versions)}.so"


def installed(name: str) -> Path:
    """Where ``setup.py`` puts a library inside the package."""
    return PACKAGE / "backends" / "cpu" / name


def no_progress(done: int, total: int) -> None:
    """Say nothing."""


def build(output: Path, progress: Progress = no_progress) -> None:
    """Compile the library to ``output``. Nothing appears there unless all went well.

    ``progress`` is told how many of how many commands are done.
    """
    cxx, torch = compiler(), torch_root()
    with _beside(output) as (work, made):
        sources = source_dir()
        write_formula_lists(sources, work)
        steps = [_compile_step(cxx, unit, sources, work, torch) for unit in units(sources)]
        objects = [str(target) for target, _ in steps]
        link = [*cxx, *COMMON, "-shared", "-o", str(made), *objects]
        commands = [command for _, command in steps]
        _run_all(commands, lambda done: progress(done, len(commands) + 1))
        _run([*link, f"-L{torch / 'lib'}", "-ltorch_cpu"])
        progress(len(commands) + 1, len(commands) + 1)


def build_extension(output: Path, progress: Progress = no_progress) -> None:
    """Compile the extension, likewise."""
    cxx, torch = compiler(), torch_root()
    python = Path(sysconfig.get_paths()["include"])
    if not (python / "Python.h").is_file():
        raise BuildError(f"Python's headers are missing: there is no Python.h in {python}")
    include = torch / "include"
    folders = (include, include / "torch" / "csrc" / "api" / "include", python)
    sources = source_dir()
    with _beside(output) as (_, made):
        _run([
            *cxx, *COMMON, "-shared", *includes(sources),
            *(word for folder in folders for word in ("-isystem", str(folder))),
            str(sources / "torch" / "extension.cpp"), "-o", str(made),
            f"-L{torch / 'lib'}", "-ltorch_python", "-ltorch_cpu", "-lc10",
        ])  # fmt: skip
    progress(1, 1)


LIBRARY = Product("the native library", "one to two minutes", library_name, build, False)
EXTENSION = Product("the native extension", "15 seconds", extension_name, build_extension, True)


def seal(name: str, library: bytes) -> bytes:
    """What a library ends with. Another library's seal doesn't do for this name."""
    found = hashlib.sha256(name.encode() + b"\0" + library).digest()
    return MARK + len(library).to_bytes(8, "little") + found


def _finish(made: Path) -> None:
    """Add the seal, and see to it that all is on the disk before the file gets its name."""
    with open(made, "r+b") as file:
        file.write(seal(made.name, file.read()))
        file.flush()
        os.fsync(file.fileno())
    # Whatever the umask says, nobody else may write it.
    made.chmod(0o755)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems can't
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[tuple[Path, Path]]:
    """A working folder, and where in it to make what becomes ``output`` when all has gone well."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Beside the output, so that the last step is a rename within one file system.
        work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=output.parent))
        # No TemporaryDirectory: a process forked meanwhile would remove it at its end.
        try:
            made = work / output.name
            yield work, made
            _finish(made)
            os.replace(made, output)
            _sync_folder(output.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise BuildError(f"{output} can't be written: {error}") from error


def _compile_step(
    cxx: list[str], unit: Unit, sources: Path, work: Path, torch: Path
) -> tuple[Path, list[str]]:
    target = work / f"{unit.source.parent.name}_{unit.source.stem}.o"
    include = [*includes(sources), *includes(work)]
    if unit.needs_torch:
        include += ["-isystem", str(torch / "include")]
    command = [*cxx, *FLAGS, *unit.flags, *include, "-c", str(unit.source), "-o", str(target)]
    return target, command


def _run_all(commands: list[list[str]], progress: Callable[[int], None]) -> None:
    """Run commands, as many at a time as there are cores; the first that fails ends it."""
    failed = threading.Event()

    def run(command: list[str]) -> None:
        # Asked by the worker itself: it takes its next command before anybody reads its failure.
        if failed.is_set():
            return
        try:
            _run(command)
        except BaseException:
            failed.set()
            raise

    pool = ThreadPoolExecutor(cores())
    try:
        tasks = [pool.submit(run, command) for command in commands]
        for done, task in enumerate(as_completed(tasks), 1):
            task.result()
            progress(done)
    finally:
        failed.set()
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(command: list[str]) -> None:
    try:
        with no_fork:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                encoding="utf-8", errors="backslashreplace",
            )  # fmt: skip
    except OSError as error:
        raise BuildError(f"the native library could not be built: {error}") from error
    with process:
        output, _ = process.communicate()
    if process.returncode:
        last = "\n".join(output.splitlines()[-30:])
        raise CompilerError(f"the native library could not be built: {command[0]} said\n{last}")
