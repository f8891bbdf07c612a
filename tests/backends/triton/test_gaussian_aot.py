"""The Triton kernels' machine code, for GPUs that need not be here.

Compiled in a subprocess, because this one may run Triton's interpreter; see `aot.py` for what is
counted.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import product

import pytest

pytest.importorskip("triton")
from fused_reparam.backends.triton import shapes
from tests.helpers import aot, gpus
from tests.helpers.loops import where
from tests.helpers.machine_code import narrow, run, wide

DTYPES = ("float32", "bfloat16")
# Instructions for an element: forward, backward, and normals alone. They are made of, on sm_90 in
# float32:
#   normals: words 11.5 (41 for a block of four, 18 for a thread's key), Box-Muller 8, addresses and
#     store 1
#   forward: normals, loads and their addresses 1.5, sigma 6, sample 1, KL 3, its sum 2.5
#   backward: normals, loads and stores 2, sigma 6, gradient of mu 1, of logvar 4
# bfloat16 has a coarser sigma, 2, and converts. sm_100 does two elements in some instructions. On
# gfx942 a wide product and an xor of three are two instructions each, which is 10, and a bfloat16
# is rounded by 6. A bound is within 3 % of its count, which is one instruction of the arithmetic:
# so none can creep in unseen.
BOUNDS = {
    "sm_80": {"float32": (35, 33.5, 21.3), "bfloat16": (31, 31.3, 20.5)},
    "sm_90": {"float32": (35.5, 34, 21.4), "bfloat16": (31.3, 31.6, 20.6)},
    "sm_100": {"float32": (31.6, 34.7, 21.3), "bfloat16": (30.8, 31.6, 20.5)},
    "gfx942": {"float32": (41.2, 40.3, 31.2), "bfloat16": (43, 49.2, 35.2)},
}
KERNELS = (*aot.PASSES, "normal")
# Loads and stores of latent tensors for one thread's tile, beside the key, the KL and its gradient.
LATENTS = {"forward": 3, "backward": 5, "normal": 1}


@cache
def listings() -> dict[tuple[str, str, str], aot.Listing]:
    """By (target, dtype, pass)."""
    out = run("-m", "tests.helpers.aot", "--json", "--dtypes", *DTYPES, "--passes", *KERNELS)
    found = [aot.Listing(**json.loads(line)) for line in out.splitlines() if line.startswith("{")]
    assert len(found) == len(aot.TARGETS) * len(DTYPES) * len(KERNELS)
    return {(one.target, one.dtype, one.name): one for one in found}


def spills_elsewhere(case: tuple[str, str, str]) -> bool:
    """Triton 3.6 spills sixteen registers of this one kernel, and 3.9 none."""
    return case == ("sm_100", "bfloat16", "backward") and not aot.counted_here()


def test_no_spills_and_wide_accesses():
    for case, one in listings().items():
        target, dtype, name = case
        # Every latent tensor moves in accesses of 128 bits: as many as the tile needs (on AMD also
        # the key).
        needed = LATENTS[name] * one.elements * aot.BYTES[dtype] // 16
        with where(*case):
            if spills_elsewhere(case):
                continue
            assert one.spills == 0
            assert one.local == []
            assert len(wide(one)) - needed in ((0, 1) if target.startswith("gfx") else (0,))
            # What is left: the key's two numbers, and one KL value or its gradient.
            assert len(narrow(one)) <= 3, narrow(one)


def test_instructions_per_element():
    for case, one in listings().items():
        target, dtype, name = case
        with where(*case):
            # So that the static count is the executed one; AMD's compiler jumps over storing the
            # sum.
            assert one.branches <= (1 if target.startswith("gfx") and name == "forward" else 0)
            aot.check_count(one, BOUNDS[target][dtype][KERNELS.index(name)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_shared_memory_serves_the_last_reduction_only(dtype):
    """No shuffle of tiles: single words for the warps' sums (Triton 3.6 takes two steps), and
    nothing in the backward.
    """
    for name, most in (("forward", 4), ("backward", 0)):
        one = listings()["sm_90", dtype, name]
        assert set(one.shared) <= {
            "STS",
            "LDS",
        }  # no wide or strided forms, which a tile would need
        assert len(one.shared) <= most
        assert one.shared_bytes <= 8 * most


def test_the_chosen_shapes_keep_the_processors_full():
    """Enough warps and enough loads in flight, by registers and loads in the machine code."""
    for target, dtype, name in product(aot.TARGETS, DTYPES, aot.PASSES):
        shape = shapes.large_shape(16 // aot.BYTES[dtype], target)
        gpu = gpus.GPUS[target]
        vectors = shape.groups // (shape.warps * gpu.threads)
        if spills_elsewhere((target, dtype, name)):
            continue
        with where(target, dtype, name):
            assert gpus.verdict(listings()[target, dtype, name], gpu, shape.warps, vectors) == ""


def test_a_slow_kernel_is_seen():
    """The counter itself: the path for arbitrary strides is narrow and far over the bound."""
    code = (
        "from tests.helpers import aot;"
        "one = aot.listing('forward', 'float32', 'sm_90', (128, 4), LAYOUT=2);"
        "print(one.per_element, len([a for a in one.accesses if '.128' in a]))"
    )
    out = run("-c", code)
    per_element, wide_count = out.split()[-2:]
    assert float(per_element) > BOUNDS["sm_90"]["float32"][0]
    assert int(wide_count) == 0


VARIANTS = [  # what the hot path leaves out, each at least once
    ("forward", {"KIND": 1, "CLAMP": True, "TAIL": 2, "KL": 3}),
    ("forward", {"KIND": 2, "LAYOUT": 2, "KL": 4, "GROUPS": 8, "TAIL": 2}),
    ("forward", {"KIND": 3, "LAYOUT": 1, "UNIT": 9, "LONG_ROWS": True, "KL": 1, "TAIL": 1}),
    ("forward", {"KIND": 4, "z": None, "key": None, "KL": 4, "GROUPS": 64}),
    ("backward", {"KIND": 1, "CLAMP": True, "TAIL": 2, "GKL": 3}),
    ("backward", {"KIND": 2, "LAYOUT": 2, "GKL": 4, "GROUPS": 8, "TAIL": 2, "WIDE_INDEX": True}),
    ("backward", {"KIND": 3, "LAYOUT": 1, "UNIT": 65, "GKL": 1, "grad_loc": None}),
    ("backward", {"KIND": 4, "grad_z": None, "key": None}),
    ("normal", {"TAIL": 2}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_variant_compiles(dtype):
    """The interpreter accepts what the compiler does not; this is the compiler."""
    code = (
        "from tests.helpers import aot\n"
        f"for name, changes in {VARIANTS!r}:\n"
        # A small tile: the compiler's time grows with it.
        f"    aot.kernel(name, {dtype!r}, 'sm_90', Q=64, **changes)\n"
        "print('compiled')\n"
    )
    assert run("-c", code).strip().endswith("compiled")
