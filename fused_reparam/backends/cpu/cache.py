"""Where the libraries built at first use are kept, and what is trusted there.

A library is code that runs in the user's name. So it is loaded only if its seal shows that it is
whole, and if nobody but this user or root can have put it there: its file and its folder belong to
them, and nobody else may write either. ``build.py`` says what is in a library and makes the seal.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import itertools
import logging
import os
import platform
import re
import shutil
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from . import build
from .build import BuildError, CompilerError, Product

try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

# What a relative FUSED_REPARAM_CACHE is relative to: a program may change its folder later.
try:
    _STARTED_IN = Path.cwd()
except OSError:  # the current folder has been removed
    _STARTED_IN = Path("/")
# A library for another system or another PyTorch raises one of these.
_LOAD_ERRORS = (OSError, ImportError, AttributeError)
_RECENT = 24 * 3600.0  # seconds; what failed so long ago is tried again
# The system's loader puts something else in the place of these.
_TOKENS = re.compile(r"\$\{?(ORIGIN|LIB|PLATFORM)")


def load(product: Product, opened: Callable[[Path], T]) -> tuple[T, str]:
    """A library, opened: the package's, the cache's or a fresh one; and how it came to be.

    Raises:
        BuildError: there is none, and none can be built.
    """
    installed = build.installed(product.file_name())
    if os.path.lexists(installed):
        damage = _damage(installed, of_package=True)
        if damage is None:
            with contextlib.suppress(*_LOAD_ERRORS), build.no_fork:
                return opened(installed), "with the package"
        else:
            _say(f"{installed} {damage} and is not used: install the package again")
    for attempt in (1, 2):
        path = in_cache(product)
        try:
            with build.no_fork:
                return opened(path), "at first use"
        except _LOAD_ERRORS as error:
            # It is whole, but for another system. What was built just now would be the same again.
            if attempt == 2 or jit_forbidden() or _is_recent(path):
                raise BuildError(
                    f"{path} can't be loaded ({error}); if it is removed it is built again"
                ) from error
            with contextlib.suppress(OSError):
                path.unlink()
    raise AssertionError("not reached")


def in_cache(product: Product) -> Path:
    """A library in the first folder that can be trusted and written; built if it isn't there.

    Safe with several processes at once: one builds, the others wait.
    """
    problems: list[str] = []
    for folder in itertools.chain(folders(), _last_resort()):
        output = folder / product.file_name()
        problem = _distrust(folder)
        if problem is None:
            damage = _damage(output)
            if damage is not None and jit_forbidden():
                problem = f"{output} {damage}"
            elif damage is not None:
                build.compiler()  # what is missing is said before anything is made
                build.torch_root()
                problem = _unwritable(folder) or _distrust(folder)
        if problem is not None:
            problems.append(problem)
            continue
        if problems:
            _say_once(f"{'; '.join(problems)}: {folder} is used instead")
        if damage is None:
            return output
        with _locked(folder):
            damage = _damage(output)
            if damage is not None:  # or another process was first
                _build_anew(output, damage, product)
        return output
    # The first folder is the one that the user knows.
    problem = problems[0] if problems else "there is no home and no folder for temporary files"
    if jit_forbidden():
        raise BuildError(
            f"{product.what} is not built ({problem}) and FUSED_REPARAM_NO_JIT forbids building it"
        )
    raise BuildError(f"{product.what} can't be kept anywhere ({problem})")


def jit_forbidden() -> bool:
    """Whether the environment forbids starting a compiler."""
    return os.environ.get("FUSED_REPARAM_NO_JIT", "0") not in ("", "0")


def forget_failures() -> None:
    """Let what could not be compiled be tried again."""
    for folder in filter(lambda folder: _distrust(folder) is None, folders()):
        for path in folder.glob("*.failed"):
            with contextlib.suppress(OSError):
                path.unlink()


def _bases() -> Iterator[Path]:
    """The user's cache folder, and one that is as private if that is of no use."""
    own, base = os.environ.get("FUSED_REPARAM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        yield _STARTED_IN / own
    elif base and os.path.isabs(base):
        yield Path(base) / "fused_reparam"
    else:
        with contextlib.suppress(RuntimeError):  # there is no home
            yield Path.home() / ".cache" / "fused_reparam"
    with contextlib.suppress(OSError):  # there is no folder for temporary files either
        yield Path(tempfile.gettempdir()) / f"fused_reparam-{_user()}"


def folders() -> Iterator[Path]:
    """Where libraries may be, apart for each system that may share a home folder."""
    system = "-".join(filter(None, [sys.platform, platform.machine(), *platform.libc_ver()]))
    return (base / system for base in _bases())


@functools.cache
def _folder_of_this_process() -> Path:
    """The last resort: what is built in it serves one process."""
    folder, process = tempfile.mkdtemp(prefix="fused_reparam-"), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # not at the end of a fork
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder, "own")


def _last_resort() -> Iterator[Path]:
    if not jit_forbidden():
        with contextlib.suppress(OSError):
            yield _folder_of_this_process()


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _is_recent(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _RECENT
    except OSError:  # there is no such file
        return False


def _foreign(status: os.stat_result) -> str | None:
    """Why somebody else may have written a file or a folder; root is trusted as the system is."""
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user ({status.st_uid})"
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022 and not stat.S_ISLNK(status.st_mode):
        return f"can be written by other users (mode {mode:04o}; chmod go-w makes it private)"
    return None


def _distrust(folder: Path) -> str | None:
    """Why nothing may be loaded from a folder, one that there isn't yet excepted."""
    if _TOKENS.search(str(folder)):
        return f"nothing can be loaded from {folder} because of its name"
    for path in (folder.parent, folder):
        try:
            # A link could be turned elsewhere by its owner.
            found = [os.lstat(path), os.stat(path)]
        except FileNotFoundError:
            if path.is_symlink():
                return f"the cache folder {path} is a link to nothing"
            continue
        except OSError as error:
            return f"the cache folder {path} can't be read ({error.strerror})"
        if not stat.S_ISDIR(found[1].st_mode):
            return f"the cache folder {path} is not a folder"
        for reason in filter(None, map(_foreign, found)):
            return f"the cache folder {path} {reason}"
    return None


def _unwritable(folder: Path) -> str | None:
    """Make a folder and its lock; or say why not."""
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                with contextlib.suppress(FileExistsError):  # another process was first
                    path.mkdir(mode=0o700)
        os.close(_open_lock(folder))
    except OSError as error:
        return f"the cache folder {folder} can't be written ({error.strerror})"
    return None


def _damage(path: Path, of_package: bool = False) -> str | None:
    """What is wrong with a library, to be said after its name; None when it may be loaded.

    A library of the package may lack its seal, because packagers strip what they pack, and to whom
    it belongs is the installation's affair; but it must be whole too.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not of_package:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a symbolic link"
        return f"can't be read ({error.strerror})"
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return "is not a file"
        foreign = None if of_package else _foreign(status)
        if foreign is not None:
            return foreign
        with open(handle, "rb", closefd=False) as file:
            data = file.read()
    except OSError as error:
        return f"can't be read ({error.strerror})"
    finally:
        os.close(handle)
    library, seal = data[: -build.SEAL_SIZE], data[-build.SEAL_SIZE :]
    if not seal.startswith(build.MARK):
        whole = of_package and not _cut_off(data)
        return None if whole else "is not a whole library"
    return None if seal == build.seal(path.name, library) else "is damaged"


def _cut_off(data: bytes) -> bool:
    """Whether a library ends before what its program headers (of ELF) say is in it.

    To map such a file works, and to read what is missing kills the process.
    """
    if data[:6] != b"\x7fELF\x02\x01":  # of 64 bits, little endian; else the loader decides
        return False
    try:
        (start,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        for header in range(start, start + size * count, size):
            (offset,) = struct.unpack_from("<Q", data, header + 8)
            (length,) = struct.unpack_from("<Q", data, header + 32)
            if offset + length > len(data):
                return True
    except (struct.error, ValueError):
        return True
    return False


def _open_lock(folder: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(folder / "build.lock", flags, 0o600)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, and nothing left of those that were killed.

    The lock belongs to a process: a child forked meanwhile doesn't hold it, and it ends with its
    process. Where there are no file locks, two may build; the rename is atomic.
    """
    handle = _open_lock(folder)
    try:
        if _lock(handle, folder):
            for path in folder.glob(build.WORK_PREFIX + "*"):
                shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return False  # a file system without locks
        _say(f"waiting for another process that builds in {folder}")
        fcntl.lockf(handle, fcntl.LOCK_EX)
    return True


def _build_anew(output: Path, damage: str, product: Product) -> None:
    """Build, and tell the user what takes so long."""
    failed = output.with_suffix(".failed")
    # What failed is not tried at each start: that takes as long as a success.
    if product.optional and _is_recent(failed):
        with contextlib.suppress(OSError):
            raise BuildError(
                f"{failed.read_text(errors='backslashreplace')}\n"
                "(python -m fused_reparam build tries again)"
            )
    if os.path.lexists(output):
        _say(f"{output} {damage} and is built again")
        if output.is_dir() and not output.is_symlink():
            shutil.rmtree(output, ignore_errors=True)
    _say(
        f"building {product.what} once, into {output.parent}: about {product.duration} of "
        f"processor time, on {build.cores()} cores (FUSED_REPARAM_NO_JIT=1 turns this off; "
        "python -m fused_reparam build does it ahead of time)"
    )
    start = time.monotonic()
    try:
        product.build(output, _progress)
    except CompilerError as error:
        if product.optional:
            with contextlib.suppress(OSError):
                failed.write_text(str(error), errors="backslashreplace")
        raise
    _say(f"{product.what} is built, after {time.monotonic() - start:.0f} s")


def _progress(done: int, total: int) -> None:
    """On a terminal, a line that the next one overwrites; elsewhere first and last line do."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # as below
        if total > 1 and _logger.isEnabledFor(logging.INFO) and sys.stderr.isatty():
            sys.stderr.write(f"fused_reparam: {done} of {total} files\r")
            sys.stderr.flush()


class _Stderr(logging.Handler):
    """Writes to what ``sys.stderr`` is at the time, and fails at nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # it is closed
                sys.stderr.write(f"{record.name}: {record.getMessage()}\n")
                sys.stderr.flush()


# What a build says is seen without any set-up of logging, and once. A program that has set up this
# logger before it imports the package keeps what it chose.
_logger = logging.getLogger("fused_reparam")
if not _logger.handlers:
    _logger.addHandler(_Stderr())
    _logger.propagate = False
if _logger.level == logging.NOTSET:
    _logger.setLevel(logging.INFO)


def _say(text: str) -> None:
    _logger.info("%s", text)


@functools.cache
def _say_once(text: str) -> None:
    _say(text)
