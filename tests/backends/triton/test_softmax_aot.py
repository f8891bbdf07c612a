"""The machine code of the Triton Gumbel-softmax, for GPUs that need not be here: see `aot.py`.

Kernels of rows that a program holds have no loops and no calls. Where rows are longer, a loop's
body is counted once: for NVIDIA that is one chunk of each walk.
"""

from __future__ import annotations

import json
from functools import cache

import pytest

pytest.importorskip("triton")
from tests.helpers import aot, aot_softmax
from tests.helpers.loops import where
from tests.helpers.machine_code import narrow, run, wide

# Instructions for an element on sm_90, by what is held; sm_80 and sm_100 get no more. They are made
# of:
#   the words of Philox 11; Gumbel noise 12: u 5 (conversion, scale, sign, 1 - u, choice), a series
#     4, comparison and choice 2, its logarithm 1
#   the softmax of scores 10: the outer logarithm 1, less the row's top 1, score 1, two maxima 2,
#     less the best, rate, exp, sum and share 5
#   backward 6: the product with the gradient and its sum 2, less the sum, share and 1 / tau 3
#   of a thread's 16 elements, a share of addresses, key, loads and stores: forward 5, backward 3
#   threads that share a row exchange its three results (backward: one), 10 instructions each for
#     one row of a warp, which is 2 for each of 16 elements; columns of one thread are rows of
#     their own, 4 of them in float32 and 8 in bfloat16: 8 and 16, backward 3 and 6
#   bfloat16 converts: one for each number in and out
# A second walk makes noise and scores again, without maxima and sum: 35. A walk in chunks keeps a
# lane's own top, best and sum, 8 for each lane, which is a column's or a group's 4 elements or 2.
BOUNDS = {
    ("float32", "rows"): 42,  # 11 + 12 + 10 + 5 + 2
    ("float32", "columns"): 49,
    ("float32", "rows-backward"): 10.1,  # 6 + 3 + 1
    ("float32", "columns-backward"): 14,
    ("float32", "rows-long"): 81,  # 42 + 35 + 2 and what is around the loops
    ("float32", "columns-long"): 96.5,
    ("float32", "rows-long-backward"): 14.1,
    ("float32", "columns-long-backward"): 21.5,
    ("bfloat16", "rows"): 42.5,
    ("bfloat16", "columns"): 58.5,
    ("bfloat16", "rows-backward"): 11.7,
    ("bfloat16", "columns-backward"): 18,
    ("bfloat16", "rows-long"): 79,
    ("bfloat16", "columns-long"): 117,
}
# On gfx942 words take 10 more (a wide product and an xor of three are two instructions each), and a
# bfloat16 is rounded by 6.
AMD = {
    ("float32", "rows"): 58,
    ("float32", "columns-long"): 134.5,
    ("float32", "rows-backward"): 7.65,
    ("bfloat16", "rows-long"): 117,
    ("bfloat16", "columns"): 85.5,
    ("bfloat16", "columns-backward"): 20.8,
}
CASES = [
    *(("sm_90", *kind) for kind in BOUNDS),
    *((target, *kind) for target in ("sm_80", "sm_100", "gfx942") for kind in AMD),
]


@cache
def listings() -> dict[tuple[str, str, str], aot.Listing]:
    code = (
        "from tests.helpers import aot, aot_softmax; import json\nfrom dataclasses import asdict\n"
    )
    code += "kernels = [aot_softmax.kernel(name, dtype, target)\n"
    code += f"           for target, dtype, name in {CASES!r}]\n"
    code += "for one in aot.listings(kernels): print(json.dumps(asdict(one)))\n"
    lines = [line for line in run("-c", code).splitlines() if line.startswith("{")]
    return {case: aot.Listing(**json.loads(line)) for case, line in zip(CASES, lines, strict=True)}


def counted() -> dict[tuple[str, str, str], aot.Listing]:
    """Without long rows for another Triton, which may unroll a loop, whose body then counts several
    times.
    """
    here = aot.counted_here()
    return {case: one for case, one in listings().items() if here or "long" not in case[2]}


def test_no_spills_and_wide_accesses():
    for case, one in counted().items():
        with where(*case):
            check_accesses(one, case)


def check_accesses(one: aot.Listing, case: tuple[str, str, str]) -> None:
    assert one.spills == 0
    assert one.local == []
    # Each tensor moves in accesses of 128 bits, once; where rows are long, what is read once for
    # each walk. On AMD also the key, and its compiler repeats the bodies of short loops.
    given = aot_softmax.CASES[case[2]][2]
    reads, writes = (1, 1) if given == ("y",) else (2, 1)
    walks = 2 if "long" in case[2] else 1
    needed = (walks * reads + writes) * one.elements * aot.BYTES[case[1]] // 16
    if case[0].startswith("gfx"):
        assert needed <= len(wide(one))
    else:
        assert needed == len(wide(one))
    assert narrow(one) == []


def test_instructions_per_element():
    for case, one in counted().items():
        with where(*case):
            check_instructions(one, case)


def check_instructions(one: aot.Listing, case: tuple[str, str, str]) -> None:
    target, *kind = case
    bound = (AMD if target == "gfx942" else BOUNDS)[tuple(kind)]
    elsewhere = 24.5 if case == ("gfx942", "bfloat16", "columns-backward") else None  # Triton 3.6
    exact = target in ("sm_90", "gfx942")  # whose bounds they are
    aot.check_count(one, bound, exact=exact, elsewhere=elsewhere)
    # For a long row: whether there are chunks, on some targets once more for each walk, and the end
    # of each walk.
    most = 3 if target in ("sm_90", "sm_100") else 5
    if target.startswith("sm_") or aot.counted_here():  # AMD's rounding may branch
        assert one.branches <= (most if "long" in kind[1] else 0)


def test_shared_memory_serves_the_reductions_only():
    """A tile that changed threads would need all of its elements there, and wide accesses."""
    for dtype, name in BOUNDS:
        with where(dtype, name):
            one = listings()["sm_90", dtype, name]
            assert set(one.shared) <= {"STS", "LDS", "STS.128", "LDS.128", "STS.64", "LDS.64"}
            if aot.counted_here():  # another Triton may exchange one element at a time
                assert len(one.shared) <= (4 if "backward" in name else 12)
            assert one.shared_bytes <= 1024


SOFT, HARD, ONE_HOT = range(3)
LONG_ROWS = {"RESIDENT": False}
VARIANTS = [  # what the hot path leaves out, each at least once: pass, size, given, mode, changes
    ("forward", (4, 61, 1), ("y", "soft", "kl"), HARD, {"KEY": 1}),
    ("forward", (4, 61, 1), ("y", "kl"), ONE_HOT, LONG_ROWS | {"MIXED": True, "KEY": 2}),
    ("forward", (1, 6, 24), ("y", "soft", "kl"), HARD, LONG_ROWS),
    ("forward", (1, 6, 24), ("y", "kl"), ONE_HOT, {"MIXED": True, "FORM": 1}),
    ("forward", (1, 6, 23), ("y",), ONE_HOT, LONG_ROWS | {"FORM": 2, "WIDE_INDEX": True}),
    ("forward", (4, 64, 1), ("kl",), SOFT, {"FORM": 1}),
    ("forward", (4, 61, 1), ("y", "noise"), SOFT, LONG_ROWS | {"FORM": 2}),
    ("backward", (4, 61, 1), ("grad_y", "grad_kl", "soft"), HARD, {"GRAD_FORM": 2}),
    ("backward", (4, 64, 1), ("grad_y", "grad_kl"), ONE_HOT, LONG_ROWS | {"FORM": 1}),
    ("backward", (1, 6, 24), ("grad_kl",), SOFT, LONG_ROWS | {"FORM": 2}),
    ("backward", (1, 6, 24), ("grad_y",), ONE_HOT, {"GRAD_FORM": 1, "WIDE_INDEX": True}),
]


@pytest.mark.parametrize(
    ("target", "dtype", "variants"),
    [
        ("sm_90", "float32", VARIANTS),
        ("sm_90", "float64", VARIANTS[::3]),
        ("gfx942", "bfloat16", VARIANTS[1::3]),
    ],
    ids=["sm_90-float32", "sm_90-float64", "gfx942-bfloat16"],
)
def test_variants_compile(target, dtype, variants):
    """The interpreter accepts what the compiler does not; this is the compiler."""
    # FORM and GRAD_FORM are what a tensor's strides lead to.
    code = f"from tests.helpers.aot_softmax import kernel_of\nfor case in {variants!r}:\n"
    code += "    name, size, given, mode, changes = case\n"
    code += f"    kernel_of(name, size, given, {dtype!r}, {target!r}, mode, **changes)\n"
    code += "print('compiled')\n"
    assert run("-c", code).strip().endswith("compiled")
