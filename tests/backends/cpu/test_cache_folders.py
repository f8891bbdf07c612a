"""The compiled library's cache: which folders and files are trusted, and what else is used."""

import os
import re
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fused_reparam.backends.cpu import build
from fused_reparam.backends.cpu import cache as cpu_cache
from tests.helpers import fake_builds
from tests.helpers.fake_builds import built, found, inside

if fake_builds.at_hand() is None:
    pytest.skip("there is no native library to copy", allow_module_level=True)
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
STRANGER = 54321


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, a folder for temporary files, and a compiler that only copies."""
    yield fake_builds.use(tmp_path, monkeypatch)
    cpu_cache._folder_of_this_process.cache_clear()


def test_only_the_user_can_write_what_is_made(cache):
    before = os.umask(0)
    try:
        library = found()
    finally:
        os.umask(before)
    for path in (cache.parent, cache, library.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert stat.S_IMODE(library.stat().st_mode) & 0o022 == 0
    for path in library.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) in (0o755, 0o600), path


def unsealed(whole):
    """Without a seal: what was installed, and is copied here for a compiler's work, has one too."""
    while build.MARK in whole[-build.SEAL_SIZE :]:
        whole = whole[: -build.SEAL_SIZE]
    return whole


def replaced(path, kind):
    whole = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "file").write_text("")
    elif kind == "link":
        other = path.with_suffix(".other")
        other.write_bytes(whole)
        path.symlink_to(other)
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes({
            "empty": b"",
            "another": Path(sys.modules["_ctypes"].__file__).read_bytes(),
            "one bit": whole[:9999] + bytes([whole[9999] ^ 4]) + whole[10000:],
            "longer": whole + b"\0",
            "without seal": unsealed(whole),
            "another's seal": whole[: -build.SEAL_SIZE]
            + build.seal("libfused_reparam-0.so", whole[: -build.SEAL_SIZE]),
            "seal alone": whole[-build.SEAL_SIZE :],
        }[kind])  # fmt: skip
        if kind == "writable":
            path.chmod(0o666)


@pytest.mark.parametrize(
    "kind",
    [
        *("folder", "link", "link to nothing", "pipe", "empty", "another", "one bit", "longer"),
        *("without seal", "another's seal", "seal alone"),
    ],
)
def test_what_is_not_the_library_is_replaced(cache, capfd, kind):
    library = found()
    whole = library.read_bytes()
    replaced(library, kind)
    built(cache)
    assert found() == library
    assert built(cache)
    assert library.read_bytes() == whole
    assert not library.is_symlink()
    err = capfd.readouterr().err
    assert re.search(rf"{library} (is|can't).* and is built again", err)
    assert found() == library
    assert not built(cache)


@pytest.mark.parametrize("kind", ["folder", "pipe", "empty", "one bit"])
def test_nothing_is_replaced_where_building_is_forbidden(cache, monkeypatch, kind):
    library = found()
    replaced(library, kind)
    built(cache)
    monkeypatch.setenv("FUSED_REPARAM_NO_JIT", "1")
    with pytest.raises(build.BuildError, match=rf"{library} is .*FUSED_REPARAM_NO_JIT forbids"):
        found()
    assert not built(cache)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o720, 0o702])
@pytest.mark.parametrize("part", ["cache", "system"])
def test_a_folder_that_others_can_write_is_not_used(cache, capfd, mode, part):
    library = found()
    built(cache)
    folder = {"cache": cache, "system": library.parent}[part]
    folder.chmod(mode)
    instead = found()
    assert built(cache)
    assert inside(instead, cache.parent.parent / "tmp")
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "instead" in line]
    assert f"{folder} can be written by other users (mode {mode:04o}" in line
    assert str(instead.parent) in line
    assert found() == instead  # from now on: it isn't built for each process
    assert not built(cache)
    folder.chmod(0o700)
    assert found() == library


@pytest.mark.parametrize("mode", [0o777, 0o664, 0o602])
def test_a_file_that_others_can_write_is_built_again(cache, mode):
    library = found()
    built(cache)
    library.chmod(mode)
    assert found() == library
    assert built(cache)
    assert stat.S_IMODE(library.stat().st_mode) == 0o755


@ROOT_ONLY
@pytest.mark.parametrize("part", ["cache", "system", "file", "link"])
def test_what_belongs_to_somebody_else_is_not_loaded(cache, capfd, part):
    library = found()
    built(cache)
    path = {"cache": cache, "system": library.parent, "file": library}.get(part)
    if part == "link":
        path = cache
        cache.rename(cache.with_name("real"))
        cache.symlink_to(cache.with_name("real"))
    os.lchown(path, STRANGER, STRANGER)
    instead = found()
    assert built(cache)
    assert instead.stat().st_uid == 0
    assert (instead == library) == (part == "file")
    err = capfd.readouterr().err
    assert f"{path} belongs to another user ({STRANGER})" in err


def test_the_user_is_the_effective_one(cache, monkeypatch):
    """Root's library serves everybody; another user's serves nobody else."""
    library = found()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    if mine == 0:
        assert found() == library
    else:
        assert not inside(found(), cache)


def test_ones_own_link_to_a_folder_is_followed(cache, tmp_path):
    (tmp_path / "disk").mkdir(mode=0o700)
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "disk")
    assert inside(found(), cache)
    assert list((tmp_path / "disk").rglob("*.so"))


@pytest.mark.parametrize("taken", ["by others", "by a file"])
def test_a_folder_for_this_process_alone_is_the_last_resort(cache, monkeypatch, taken):
    """The folder in /tmp has a name that anybody can know, and make first."""
    monkeypatch.setenv("FUSED_REPARAM_CACHE", "/proc/no such folder")
    known = cache.parent.parent / "tmp" / f"fused_reparam-{os.geteuid()}"
    known.mkdir(mode=0o700) if taken == "by others" else known.write_text("")
    known.chmod(0o777)
    library = found()
    assert inside(library, known.parent)
    assert not inside(library, known)
    assert stat.S_IMODE(library.parent.parent.stat().st_mode) == 0o700
    assert found() == library


@pytest.mark.parametrize("problem", ["no home", "a home that can't be", "read-only", "a file"])
def test_where_nothing_can_be_kept(cache, monkeypatch, capfd, problem):
    if problem == "a file":
        cache.parent.mkdir()
        cache.write_text("")
    elif problem == "read-only":
        monkeypatch.setenv("FUSED_REPARAM_CACHE", "/proc/1/cache")
    else:
        monkeypatch.delenv("FUSED_REPARAM_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/proc/home")
        if problem == "no home":

            def fail():
                raise RuntimeError("Could not determine home directory.")

            monkeypatch.setattr(Path, "home", fail)
    library = found()
    assert inside(library, cache.parent.parent / "tmp")
    lines = [line for line in capfd.readouterr().err.splitlines() if "instead" in line]
    assert len(lines) == (problem != "no home")


@pytest.mark.parametrize("forbidden", ["0", "1"])
def test_where_nothing_at_all_can_be_kept(cache, monkeypatch, forbidden):
    monkeypatch.setenv("FUSED_REPARAM_CACHE", "/proc/no such folder")
    monkeypatch.setenv("FUSED_REPARAM_NO_JIT", forbidden)
    monkeypatch.setattr(tempfile, "tempdir", "/proc/neither")
    with pytest.raises(build.BuildError, match=r"/proc/no such folder.* (can't|does not)"):
        found()
    monkeypatch.delenv("FUSED_REPARAM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def fail(error):
        raise error("no")

    monkeypatch.setattr(Path, "home", lambda: fail(RuntimeError))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: fail(FileNotFoundError))
    with pytest.raises(build.BuildError, match="there is no home"):
        found()


def test_nothing_is_written_where_the_library_is_found(cache):
    """So that a cache that can only be read serves."""
    library = found()
    (library.parent / "build.lock").unlink()
    before = sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*"))
    assert found() == library
    assert sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*")) == before


def test_a_relative_folder_is_one_of_where_the_import_happened(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSED_REPARAM_CACHE", os.path.relpath(tmp_path / "relative"))
    monkeypatch.chdir("/")
    assert inside(found().resolve(), tmp_path / "relative")
    monkeypatch.delenv("FUSED_REPARAM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # it has no meaning, says its standard
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert inside(found(), tmp_path / "home" / ".cache")
    shutil.rmtree(tmp_path / "home")


def test_a_whole_library_for_another_system_is_built_again_once(cache, monkeypatch):
    monkeypatch.setattr(build, "installed", lambda name: cache / "absent")
    library = found()
    built(cache)
    times = []

    def opened(path):
        times.append(path)
        if len(times) == 1:
            raise OSError("GLIBC_9.99 not found")
        return path

    def fails():
        times.clear()
        with pytest.raises(build.BuildError, match=r"can't be loaded \(GLIBC_9.99 not found"):
            cpu_cache.load(build.LIBRARY, opened)
        assert not built(cache)
        assert library.is_file()

    fails()  # for it was built just now, and would be the same
    os.utime(library, (time.time() - 90000,) * 2)
    monkeypatch.setenv("FUSED_REPARAM_NO_JIT", "1")
    fails()
    monkeypatch.delenv("FUSED_REPARAM_NO_JIT")
    times.clear()
    assert cpu_cache.load(build.LIBRARY, opened) == (library, "at first use")
    assert built(cache)


@pytest.mark.parametrize("kind", ["folder", "empty", "one bit", "another", "link to nothing"])
def test_what_is_not_the_library_beside_the_package(cache, monkeypatch, capfd, kind):
    """It is left alone, being the installation's, and the cache's is taken."""
    library = found()
    installed = shutil.copy(library, cache.parent / library.name)
    replaced(Path(installed), kind)
    monkeypatch.setattr(build, "installed", lambda name: Path(installed))

    def opened(path):
        if path != library:  # a library, and not this one
            raise AttributeError("undefined symbol: fused_reparam_isa")
        return path

    assert cpu_cache.load(build.LIBRARY, opened) == (library, "at first use")
    assert os.path.lexists(installed)
    said = kind in ("folder", "one bit")  # the others are no damage that is known before loading
    assert (f"{installed} is " in capfd.readouterr().err) == said


def test_a_library_of_the_package_may_be_stripped(cache, monkeypatch):
    """As packagers do, which takes its seal."""
    library = found()
    stripped = shutil.copy(library, cache.parent / library.name)
    replaced(Path(stripped), "without seal")
    monkeypatch.setattr(build, "installed", lambda name: Path(stripped))
    assert cpu_cache.load(build.LIBRARY, lambda path: path) == (stripped, "with the package")


@pytest.mark.parametrize("token", ["$LIB", "${ORIGIN}", "a$PLATFORM"])
def test_names_that_the_loader_would_replace(cache, monkeypatch, token):
    monkeypatch.setenv("FUSED_REPARAM_CACHE", str(cache.parent / token))
    assert inside(found(), cache.parent.parent / "tmp")
