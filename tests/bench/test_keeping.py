"""The rival in a process whose C library keeps freed memory."""

import platform
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bench import keeping, measure
from bench.cases import LARGE, OpCase
from bench.ops import BOTH, OPS
from bench.timing import CpuClock, Effort
from bench.variants import EAGER, EAGER_KEPT, Variant, variants

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="for Linux's glibc"
)
CPU = torch.device("cpu")
OP = OPS["gaussian_latent"]
CASE = OpCase(OP, "4096x2048", (4096, 2048), "float32", CPU)
KEPT = Variant(EAGER_KEPT, OP.textbook, keeps=True)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def status():
    """Minor page faults, and resident bytes, of the other process."""
    folder = Path(f"/proc/{keeping.process().child.pid}")
    faults = int((folder / "stat").read_text().rpartition(")")[2].split()[7])
    return faults, int((folder / "statm").read_text().split()[1]) * 4096


def test_it_takes_part_where_tensors_are_large():
    found = {large: [v.name for v in variants(OP, CPU, large=large)[0]] for large in (False, True)}
    assert found[True] == [EAGER, EAGER_KEPT, *found[False][1:]]
    assert EAGER_KEPT in [v.name for v in CASE.variants()[0]]
    assert CASE.elements == LARGE
    smaller = OpCase(OP, "4095x2048", (4095, 2048), "float32", CPU)
    assert EAGER_KEPT not in [v.name for v in smaller.variants()[0]]


def test_its_memory_is_kept_and_given_back_in_the_end():
    made, counts = keeping.contestant(CASE, "forward", KEPT), []
    for _ in range(6):
        made.call(*made.prepare(1))
        counts.append(status()[0])
    # Of a call that fits into what is there: each of its tensors has 8,192 pages.
    assert min(after - before for before, after in pairwise(counts)) < 1000
    resident = status()[1]
    del made
    assert status()[1] < resident - 100 * 2**20


def test_it_is_timed_beside_the_others():
    effort = Effort(sample_seconds=1e-5, seconds=0.02, least_rounds=3, most_rounds=3)
    settings = measure.Settings(OP.name, works=(BOTH,), effort=effort)
    eager = Variant(EAGER, OP.textbook)
    case = OpCase(OP, "256x128", (256, 128), "float32", CPU)
    rows = measure.measure_case(case, settings, [eager, KEPT], CpuClock())
    own, kept = rows
    assert (kept["variant"], kept["status"]) == (EAGER_KEPT, "ok")
    assert kept["vs_eager"] == pytest.approx(own["median_s"] / kept["median_s"])
    assert kept["saved_bytes"] == own["saved_bytes"]
    assert kept["peak_bytes"] == own["peak_bytes"]


def test_what_it_dies_of_is_told_here():
    made = keeping.contestant(CASE, "forward", KEPT)
    with pytest.raises(RuntimeError, match="IndexError"):
        made.call(0)  # nothing was prepared
    made.prepare(1)
    made.call(0)
    first = keeping.process()
    first.child.kill()
    with pytest.raises(RuntimeError, match="has ended"):
        made.call(0)
    assert keeping.process() is not first
