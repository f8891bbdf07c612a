"""The compiled library's cache: one process builds, what it says, what it leaves if it fails."""

import io
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fused_reparam.backends.cpu import build
from fused_reparam.backends.cpu import cache as cpu_cache
from tests.helpers import fake_builds
from tests.helpers.fake_builds import built, found, inside

if fake_builds.at_hand() is None:
    pytest.skip("there is no native library to copy", allow_module_level=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, a folder for temporary files, and a compiler that only copies."""
    yield fake_builds.use(tmp_path, monkeypatch)
    cpu_cache._folder_of_this_process.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")
def test_a_full_disk(cache, tmp_path, capfd):
    """With room for all but the last file: it is said, and nothing is left behind."""
    cache.mkdir(parents=True, mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(cache)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("file systems can't be mounted here")
    try:
        with pytest.raises(build.BuildError, match="No space left on device"):
            found()
        assert [path.name for path in cache.rglob("*") if path.is_file()] == ["build.lock"]
        assert not list(cache.rglob(".build-*"))
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_a_disk_that_fills_at_the_end(cache, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(build.BuildError, match=r"can't be written: .*No space left"):
        found()
    assert not list(cache.rglob("*.so"))
    assert not list(cache.rglob(".build-*"))


@pytest.mark.parametrize("exists", [False, True])
def test_the_lock_follows_no_link(cache, tmp_path, exists):
    library = found()
    victim = tmp_path / "victim"
    if exists:
        victim.write_text("precious")
    locks = [path for path in library.parent.iterdir() if "lock" in path.name]
    assert locks
    for lock in locks:
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
        lock.unlink()
        lock.symlink_to(victim)
    library.unlink()
    assert not inside(found(), cache)
    assert (victim.read_text() == "precious") if exists else not victim.exists()


def test_a_lock_is_not_emptied(cache):
    library = found()
    locks = [path for path in library.parent.iterdir() if "lock" in path.name]
    for lock in locks:
        lock.write_text("precious")
    library.unlink()
    assert found() == library
    assert [lock.read_text() for lock in locks] == ["precious"]


# Without PyTorch, which takes a second to import.
LIGHT = f"""
import sys, types
sys.path.insert(0, {str(fake_builds.ROOT)!r})
for name in ("fused_reparam", "fused_reparam.backends", "fused_reparam.backends.cpu"):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [{str(fake_builds.ROOT)!r} + "/" + name.replace(".", "/")]
from fused_reparam.backends.cpu import build
from fused_reparam.backends.cpu import cache as cpu_cache
print(cpu_cache.in_cache(build.LIBRARY))
"""


def test_one_of_eight_processes_builds_and_the_others_wait(cache, tmp_path):
    slow = fake_builds.copying_compiler(tmp_path, f"echo >> {tmp_path}/log; sleep 0.1")
    processes = [fake_builds.start(LIGHT, cache, CXX=slow) for _ in range(8)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    assert len({out for out, _ in outputs}) == 1
    assert inside(Path(outputs[0][0].strip()), cache)
    err = "".join(err for _, err in outputs)
    assert err.count("building the native library once") == 1
    waiting = err.count("waiting for another process")
    assert 1 <= waiting <= 7
    assert err.count("\n") == waiting + 2  # where there is no terminal, two lines of the builder
    assert built(cache) == len(build.units(build.source_dir())) + 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal(cache, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    found()
    start, *steps, end = re.split(r"[\r\n]+", sys.stderr.getvalue().strip())
    assert "processor time" in start
    assert "python -m fused_reparam build" in start
    count = len(build.units(build.source_dir())) + 1
    assert steps == [f"fused_reparam: {i} of {count} files" for i in range(1, count + 1)]
    assert "is built, after" in end


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_nobody_to_tell(cache, monkeypatch, capfd, stderr):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stderr else None)
    assert found().is_file()
    assert capfd.readouterr().out == ""


def test_a_compiler_that_says_no_text(cache, monkeypatch, tmp_path):
    says = fake_builds.script(tmp_path / "says", r"printf 'no \377 text\n' >&2; exit 1")
    monkeypatch.setenv("CXX", says)
    with pytest.raises(build.CompilerError, match=r"no \\xff text"):
        found()


def test_what_failed_is_tried_again_the_next_day(cache, monkeypatch, tmp_path):
    good = os.environ["CXX"]
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.CompilerError):
        cpu_cache.in_cache(build.EXTENSION)
    monkeypatch.setenv("CXX", good)
    with pytest.raises(build.BuildError, match="build tries again"):
        cpu_cache.in_cache(build.EXTENSION)
    (failed,) = cache.rglob("*.failed")
    os.utime(failed, (time.time() - 90000,) * 2)
    assert cpu_cache.in_cache(build.EXTENSION).is_file()


def test_the_first_failure_ends_a_build(cache, monkeypatch, tmp_path):
    failing = fake_builds.script(tmp_path / "failing", f"echo >> {tmp_path}/log; exit 1")
    monkeypatch.setenv("CXX", failing)
    monkeypatch.setattr(build, "cores", lambda: 1)
    with pytest.raises(build.CompilerError):
        found()
    assert built(cache) == 1
