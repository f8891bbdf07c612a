"""Builds of the native library that take no time: a compiler that has all results at hand."""

import contextlib
import os
import shlex
import tempfile
from pathlib import Path

import pytest

from fused_reparam.backends import cpu
from fused_reparam.backends.cpu import build, extension
from fused_reparam.backends.cpu import cache as cpu_cache
from tests.helpers import fresh
from tests.helpers.paths import ROOT

# An installed library is hidden, so that there is something to build.
HIDDEN = (
    "import pathlib, torch; from fused_reparam.backends import cpu, dispatch;"
    "from fused_reparam.backends.cpu import build;"
    "build.installed = lambda name: pathlib.Path('absent');"
)
PROBE = HIDDEN + (
    "dispatch.pick(torch.device('cpu'));"
    "print(cpu.unavailable_reason(torch.device('cpu'))); print(cpu.info())"
)


def start(code, cache, **environment):
    """Run code in a fresh interpreter, with a cache of its own."""
    env = {**os.environ, "FUSED_REPARAM_CACHE": str(cache), "PYTHONPATH": str(ROOT), **environment}
    return fresh.start(code, env, warn=True)


def finish(code, cache, **environment):
    """The same to its end: exit status, lines of stdout, and stderr."""
    process = start(code, cache, **environment)
    out, err = process.communicate(timeout=200)
    return process.returncode, out.splitlines(), err


def script(path, text):
    """A program for CXX."""
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def at_hand():
    """The libraries that this process runs on, or None."""
    details = cpu.info()
    if "library" not in details or extension.module is None:
        return None
    return Path(details["library"]), Path(extension.module.__file__)


def copying_compiler(folder, before="", library=None):
    """A compiler that copies the libraries at hand; ``before`` is done at each of its starts.

    With a command for ``library`` only the extension is copied.
    """
    at = [shlex.quote(str(path)) for path in at_hand()]
    return script(
        folder / "copying-compiler",
        f"""
        {before}
        for word; do
            if [ "$previous" = -o ]; then made=$word; fi
            previous=$word
        done
        case $made in
            *fused_reparam_torch*) cp {at[1]} "$made" ;;
            *.o) {library or ': > "$made"'} ;;
            *) {library or f'cp {at[0]} "$made"'} ;;
        esac
        """,
    )


def system_folder(cache):
    """The folder in a cache that its libraries are in."""
    with contextlib.suppress(FileNotFoundError):
        for path in Path(cache).iterdir():
            if path.is_dir():
                return path
    return None


def use(folder, monkeypatch):
    """Give this process a cache that isn't there yet, and that compiler; returns the cache."""
    cache = folder / "new" / "cache"
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    monkeypatch.setenv("FUSED_REPARAM_CACHE", str(cache))
    monkeypatch.setenv("CXX", copying_compiler(folder, f"echo >> {folder}/log"))
    monkeypatch.delenv("FUSED_REPARAM_NO_JIT", raising=False)
    cpu_cache._say_once.cache_clear()
    cpu_cache._folder_of_this_process.cache_clear()
    return cache


def found():
    """The library in the cache of this process."""
    return cpu_cache.in_cache(build.LIBRARY)


def built(cache):
    """How often the compiler was started since this was asked for last."""
    log = cache.parent.parent / "log"
    count = len(log.read_text()) if log.exists() else 0
    log.unlink(missing_ok=True)
    return count


def inside(path, folder):
    return folder in path.parents


def names():
    return build.library_name(), build.extension_name()


def copied(source):
    """The folder, with all of this checkout that a package is made of, but nothing compiled."""
    source.mkdir(exist_ok=True)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for folder in ("kernels", "fused_reparam"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".so"):
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    return source


def compiler_missing():
    try:
        build.compiler()
    except build.BuildError as error:
        return str(error)
    return None


needs_compiler = pytest.mark.skipif(compiler_missing() is not None, reason=str(compiler_missing()))
