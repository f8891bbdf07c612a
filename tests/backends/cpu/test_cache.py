"""The compiled library's cache, from outside: damaged files, forks, kills, odd folders."""

import os
import shutil
import signal
import time

import pytest

from tests.helpers import fake_builds
from tests.helpers.fake_builds import HIDDEN, PROBE, finish, start

if fake_builds.at_hand() is None:
    pytest.skip("there is no native library to copy", allow_module_level=True)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    return fake_builds.copying_compiler(tmp_path_factory.mktemp("compiler"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory, compiler):
    """A cache with both libraries."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    status, out, err = finish(PROBE, cache, CXX=compiler)
    assert (status, out[0]) == (0, "None"), err
    assert err.count("building the native") == 2
    return cache


@pytest.fixture
def cache(tmp_path, filled):
    """One's own copy of it."""
    return shutil.copytree(filled, tmp_path / "cache")


def cut(path, share):
    os.truncate(path, int(path.stat().st_size * share))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_library_is_built_again(cache, compiler, filled, share):
    """To load it would kill the process: a page that is mapped and not there is a bus error."""
    folder = fake_builds.system_folder(cache)
    for name in fake_builds.names():
        cut(folder / name, share)
    status, out, err = finish(PROBE, cache, CXX=compiler)
    assert (status, out[0]) == (0, "None"), err
    assert "C++, built at first use" in out[1]
    assert err.count("is built again") == 2
    for name in fake_builds.names():
        whole = fake_builds.system_folder(filled) / name
        assert (folder / name).read_bytes() == whole.read_bytes()


def test_a_truncated_library_of_the_package_is_not_taken(cache, tmp_path):
    for library, name in zip(fake_builds.at_hand(), fake_builds.names(), strict=True):
        shutil.copy(library, tmp_path / name)
        cut(tmp_path / name, 0.6)
    code = PROBE.replace("pathlib.Path('absent')", f"pathlib.Path({str(tmp_path)!r}) / name")
    status, out, err = finish(code, cache, CXX="false")
    assert (status, out[0]) == (0, "None"), err
    assert str(cache) in out[1]
    assert err.count("is not a whole library and is not used") == 2


def test_no_compiler_is_started_where_that_is_forbidden(cache, tmp_path):
    log = tmp_path / "log"
    noting = fake_builds.script(tmp_path / "noting", f'echo "$@" >> {log}; exit 1')
    library = fake_builds.system_folder(cache) / fake_builds.names()[0]
    library.write_bytes(b"no library")
    code = PROBE + "; import fused_reparam as f; print(f.gaussian_kl(*torch.zeros(2, 3, 4)).item())"
    status, out, err = finish(code, cache, CXX=noting, FUSED_REPARAM_NO_JIT="1")
    assert status == 0, err
    assert not log.exists()
    assert f"{library} is not a whole library" in out[0]
    assert "FUSED_REPARAM_NO_JIT" in out[0]
    assert out[-1] == "0.0"
    assert err.count("RuntimeWarning") == 1


# Children forked while another thread builds, and how they end.
FORK = (
    PROBE.split("print(")[0]
    + """
import os, signal, sys, threading, time
started, pipe = pathlib.Path(os.environ["STARTED"]), os.pipe

def slow_pipe():
    found = pipe()
    time.sleep(0.02)
    return found

os.pipe = slow_pipe  # a child that inherits both ends of one keeps its reader waiting
loading = threading.Thread(target=cpu.info)
loading.start()
while not started.exists():
    time.sleep(0.01)
idle = os.fork()
if idle == 0:
    sys.exit()  # all that is done at an exit must leave the parent's files alone
os.waitpid(idle, 0)
children = []
for _ in range(8):
    time.sleep(0.01)
    children.append(os.fork())
    if children[-1] == 0:
        signal.alarm(30)
        os._exit(cpu.unavailable_reason(torch.device("cpu")) is not None)
print([os.waitpid(child, 0)[1] for child in children])
loading.join()
print(cpu.unavailable_reason(torch.device("cpu")))
"""
)


def test_a_fork_while_a_thread_builds(tmp_path):
    started = tmp_path / "started"
    slow = fake_builds.copying_compiler(tmp_path, f": > {started}; sleep 0.05")
    status, out, err = finish(FORK, tmp_path / "cache", CXX=slow, STARTED=str(started))
    assert status == 0, err
    assert out == [str([0] * 8), "None"], err
    assert err.count("building the native library once") == 1


def test_what_a_killed_build_leaves_is_removed_by_the_next(tmp_path, compiler):
    started, cache = tmp_path / "started", tmp_path / "cache"
    slow = fake_builds.copying_compiler(tmp_path, f": > {started}; exec sleep 1")
    killed = start(PROBE, cache, CXX=slow)
    while not started.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=100)
    folder = fake_builds.system_folder(cache)
    assert list(folder.glob(".build-*"))
    status, out, err = finish(PROBE, cache, CXX=compiler)
    assert (status, out[0]) == (0, "None"), err
    assert not list(folder.glob(".build-*"))


@pytest.mark.parametrize("name", ["a|b $c:d'\"%#&;*\\ \t", "line\nfeed", os.fsdecode(b"by\xfftes")])
def test_any_name_of_a_folder(tmp_path, compiler, name):
    """Relative to where the package was imported, whatever folder the program enters later."""
    (tmp_path / "elsewhere").mkdir()
    code = f"import os, fused_reparam; os.chdir({str(tmp_path / 'elsewhere')!r}); {PROBE}"
    code = f"import os; os.chdir({str(tmp_path)!r}); {code}"
    status, out, err = finish(code, name, CXX=compiler)
    assert (status, out[0]) == (0, "None"), err
    assert "C++, built at first use" in out[1]
    folder = fake_builds.system_folder(tmp_path / name)
    for library in fake_builds.names():
        assert (folder / library).is_file()


def test_nothing_is_taken_from_a_folder_that_others_can_write(cache, tmp_path, compiler):
    cache.chmod(0o777)
    (tmp_path / "tmp").mkdir()
    for building in (2, 0):
        status, out, err = finish(PROBE, cache, CXX=compiler, TMPDIR=str(tmp_path / "tmp"))
        assert (status, out[0]) == (0, "None"), err
        assert f"{tmp_path / 'tmp'}/fused_reparam-" in out[1]
        assert err.count("can be written by other users (mode 0777") == 1
        assert err.count("building the native") == building


BUILD = HIDDEN + (
    "import sys; from fused_reparam import __main__; sys.exit(__main__.main(['build']))"
)


def test_building_ahead_of_time(tmp_path, compiler):
    cache = tmp_path / "cache"
    failing = {"CXX": fake_builds.script(tmp_path / "failing", "echo no 1>&2; exit 1")}
    status, out, err = finish(BUILD, cache, **failing)
    assert (status, out) == (1, [])
    assert "the native library is missing: the native library could not be built" in err
    assert "Warning" not in err
    status, out, err = finish(BUILD, cache, CXX="false", FUSED_REPARAM_NO_JIT="1")
    assert (status, out) == (1, [])
    assert "FUSED_REPARAM_NO_JIT forbids" in err
    for building in (2, 0):
        status, out, err = finish(BUILD, cache, CXX=compiler)
        assert status == 0, err
        assert out[0].startswith(f"library: {cache}")
        assert out[1] == "extension: C++, built at first use"
        assert err.count("building the native") == building


def test_building_ahead_of_time_tries_again_what_failed(cache, tmp_path, compiler):
    (fake_builds.system_folder(cache) / fake_builds.names()[1]).unlink()
    for tries in (1, 0):  # at first use it is tried once
        status, out, err = finish(PROBE, cache, CXX="false")
        assert "Python: the native library could not be built" in out[1]
        assert err.count("building the native extension") == tries
    assert "python -m fused_reparam build tries again" in out[1]
    status, out, err = finish(BUILD, cache, CXX="false")
    assert status == 1
    status, out, err = finish(BUILD, cache, CXX=compiler)
    assert status == 0, err
    assert out[1] == "extension: C++, built at first use"
