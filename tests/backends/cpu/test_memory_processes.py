"""Kept memory of a whole process: its forks, its end, its bounds, and memory that is short."""

import shutil
import subprocess
import sys

import pytest
import torch

import fused_reparam
from fused_reparam.backends.cpu import extension
from tests.helpers import fresh
from tests.helpers.paths import ROOT, environment

MB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

START = """
import os, threading, time
import torch, fused_reparam as fr
MB = 1 << 20
def sample(megabytes, **options):
    x = torch.zeros(1).expand(int(megabytes * MB) // 4)
    return fr.gaussian_rsample(x, x, **options)
def stats(name):
    return fr.memory_stats()[name]
def memory(name, of="smaps_rollup"):
    with open(f"/proc/self/{of}") as file:
        lines = dict(line.split(":", 1) for line in file if line.count(":") == 1)
    return int(lines[name].split()[0]) << 10
"""
LOADED = START + "fr.gaussian_kl(torch.zeros(1), torch.zeros(1))\n"


@pytest.fixture(autouse=True)
def _an_extension():
    fused_reparam.gaussian_latent(torch.zeros(1), torch.zeros(1))  # loads the library
    if extension.module is None:
        pytest.skip(f"no extension: {extension.reason}")


def run(code, **changes):
    """What a program prints that ends well and says nothing on stderr."""
    done = fresh.run(LOADED + code, environment(OMP_NUM_THREADS="1", **changes))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_before_the_first_call_nothing_is_loaded():
    code = """
fr.empty_cache()
with open('/proc/self/maps') as file:
    print(set(fr.memory_stats().values()), 'libfused' in file.read())
"""
    assert fresh.run(START + code, environment()).stdout == "{0} False\n"


@pytest.mark.parametrize(
    ("text", "bound"),
    [("0", 0), ("48M", 48 * MB), ("1.5 GiB", 1536 * MB), ("33554432", 32 * MB)],
)
def test_the_environment_bounds_it(text, bound):
    code = """
held = [sample(16) for _ in range(6)]
del held[2:]
print(stats("bound_bytes"), stats("kept_bytes"), stats("in_use_bytes"))
"""
    found = [int(word) for word in run(code, FUSED_REPARAM_KEPT_MEMORY=text).split()]
    assert found == [bound, min(bound // (2 * MB) * 2 * MB, 64 * MB), 32 * MB if bound else 0]


def test_another_word_in_the_environment_is_an_error():
    done = fresh.run("import fused_reparam", environment(FUSED_REPARAM_KEPT_MEMORY="lots"))
    line = (
        "ValueError: the environment variable FUSED_REPARAM_KEPT_MEMORY must be a number of bytes, "
        "such as 0, 512M or 2G, got 'lots'"
    )
    assert done.stderr.splitlines()[-1] == line


def test_by_default_it_is_a_part_of_what_the_process_may_have():
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (32 << 30, 32 << 30))
sample(1)
machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
print(0 < stats("bound_bytes") <= min(machine, 32 << 30) // 4)
"""
    assert run(code) == "True\n"


def test_emptied_it_is_the_systems_again_and_until_then_the_system_may_take_it():
    out = run("""
sample(1)
fr.empty_cache()
before = memory("Rss")
z = sample(64)
in_use = memory("Rss") - before, memory("LazyFree")
del z
kept = memory("Rss") - before, memory("LazyFree")
fr.empty_cache()
print(*in_use, *kept, memory("Rss") - before, memory("LazyFree"))
""")
    in_use, free_in_use, kept, free_kept, emptied, free_emptied = map(int, out.split())
    assert min(in_use, kept) >= 64 * MB
    assert free_in_use == free_emptied == 0
    assert free_kept >= 64 * MB
    assert emptied < 8 * MB


def test_a_forked_child_keeps_nothing_and_computes_on():
    out = run("""
key = fr.noise.key(1)
expected, held = sample(3, key=key), sample(3, key=key)
stop = threading.Event()
def churn():
    while not stop.is_set():
        del [sample(1.5), sample(2)][:]
threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads:
    thread.start()
codes = []
for _ in range(8):
    child = os.fork()
    if not child:
        good = stats("kept_bytes") == 0
        for _ in range(3):
            good = good and torch.equal(sample(3, key=key), expected)
        held.zero_()
        del held
        os._exit(0 if good else 1)
    codes.append(os.waitpid(child, 0)[1])
stop.set()
for thread in threads:
    thread.join()
print(set(codes), torch.equal(held, expected))
""")
    assert out == "{0} True\n"


def test_a_fork_does_not_hold_what_its_parent_keeps():
    out = run("""
sample(64)
child = os.fork()
if not child:
    os._exit(stats("kept_bytes") // MB + memory("LazyFree") // MB)
print(os.waitpid(child, 0)[1], stats("kept_bytes") // MB)
""")
    assert out == "0 64\n"


def test_results_go_to_other_processes_and_come_back():
    code = """
import torch.multiprocessing as mp
def double(queue, back):
    z = queue.get()
    back.put(2 * z)
    queue.get()
if __name__ == "__main__":
    context = mp.get_context("fork")
    z = sample(2, key=fr.noise.key(1))
    queue, back = context.Queue(), context.Queue()
    child = context.Process(target=double, args=(queue, back))
    child.start()
    queue.put(z)
    print(torch.equal(back.get(), 2 * z))
    queue.put(None)
    child.join()
"""
    assert run(code) == "True\n"


def test_results_may_outlive_the_interpreter():
    out = run("""
import sys, builtins
class Late:
    def __init__(self):
        self.z = sample(4)
    def __del__(self):
        self.z = None
        print("freed")
builtins.late, kept = Late(), sample(8)
sys.late, torch.late = sample(2), sample(3)
torch.cycle = [sample(2)]
torch.cycle.append(torch.cycle)
threading.Thread(target=lambda: (time.sleep(60), sample(4)), daemon=True).start()
del kept
""")
    assert out == "freed\n"


def test_where_memory_is_short_what_is_kept_goes_first():
    """And where that is not enough it is an error, after which all goes on."""
    out = run("""
import resource
held = [sample(50) for _ in range(2)]
del held
room = memory("VmSize", "status") + 25 * MB
resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
z = sample(75)  # in no piece that is kept, and not beside them
print(stats("kept_bytes") // MB, stats("reused"))
for _ in range(3):
    try:
        sample(225)
    except RuntimeError as error:
        print(str(error).splitlines()[0])
del z
print(sample(75).std().item() > 0.9, stats("in_use_bytes"))
""")
    said = "fused_reparam: can't allocate memory: you tried to allocate 235929600 bytes. "
    said += "Error code 12 (Cannot allocate memory)"
    assert out.splitlines() == ["0 0", *[said] * 3, "True 0"]


def test_the_peak_of_a_training_loop_is_no_higher_than_without():
    """By more than the bound: what was in use at once."""
    code = """
mu = torch.randn(3 * MB, requires_grad=True)
rho = torch.full_like(mu, -3.0).requires_grad_()
before = memory("Rss")
for _ in range(3):
    w, kl = fr.sample_weight(mu, rho)
    (w * w).sum().backward()
    with torch.no_grad():
        for p in (mu, rho):
            p -= 1e-3 * p.grad
            p.grad = None
    del w
print(memory("VmHWM", "status") - before, stats("recent_peak_bytes"))
"""
    (kept, bound), (without, _) = (
        map(int, run(code, FUSED_REPARAM_KEPT_MEMORY=most).split()) for most in ("8G", "0")
    )
    assert 24 * MB <= bound <= 36 * MB
    assert kept <= without + bound


def test_after_a_while_without_use_it_is_given_back(tmp_path):
    """At the next call of any size. The clock is one that the test can move."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "clock.c").write_text("""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
long seconds_later = 0;
int clock_gettime(clockid_t clock, struct timespec* time) {
  static int (*real)(clockid_t, struct timespec*) = 0;
  if (!real) real = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, time);
  if (!failed && clock == CLOCK_MONOTONIC_COARSE) time->tv_sec += seconds_later;
  return failed;
}
""")
    library = tmp_path / "clock.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", str(tmp_path / "clock.c"), "-o", str(library), "-ldl"],
        check=True,
    )
    code = (
        LOADED
        + """
import ctypes, sys
later = ctypes.c_long.in_dll(ctypes.CDLL(sys.argv[1]), "seconds_later")
small = torch.zeros(3)
z = sample(64)
held = sample(8)
del z
print(stats("kept_bytes") // MB)
for seconds in (9, 30, 60):
    later.value = seconds
    fr.gaussian_rsample(small, small)
    print(memory("LazyFree") // MB, end=" ")
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(library)], capture_output=True, text=True, cwd=ROOT,
        env=environment(LD_PRELOAD=str(library), OMP_NUM_THREADS="1"),
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["64", "64", "0", "0"], "")
