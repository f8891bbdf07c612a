"""The machine code of the Triton draws, for GPUs that need not be here: see `aot.py`."""

from __future__ import annotations

import json
from functools import cache

import pytest

pytest.importorskip("triton")
import aot
from test_triton_aot import narrow, run, wide

from fused_reparam.backends.reference.families import FAMILIES

# Instructions for an element on sm_90, float32, one sample, forward and backward. They are made of:
# the words of Philox 11; a normal of two words 9; u 3, ln u 3 to 11; addresses, loads, stores and
# sums 3; sigma from log sigma^2 7, from rho 30; a logarithm, reciprocal or root 2; exp 7; the sums
# of a formula. A backward makes the noise again, and the gradients of two parameters take 5.
BOUNDS = {
    "gaussian": (42, 44),  # 20 + 3 + 7 + KL 7
    "log_prob": (43, 41),  # 20 + 3 + 7 + two densities 9
    "mixture": (51, 55),  # log_prob + exp, log, maximum; the parts' shares of the slope
    "tanh_normal": (57, 57),  # log_prob's one density + exp, reciprocal, log, bounds; 1 - tanh^2
    "gumbel": (30, 31),  # 11 + 3 + 3; a series of 4, choices 3, two logarithms, the sample
    "cauchy": (52, 51),  # 11 + 3 + 3 + a series of 5, a root, a reciprocal; KL 14
    "student_t": (77, 78),  # 22 + 6 + 11; exp and expm1 18; a series of 6, a root
    "relaxed_bernoulli": (37, 40),  # 11 + 3 + 3 + two logarithms; exp, reciprocal, selection
}
LOOP = {"gaussian": (51, 55), "log_prob_prior": (64, 70)}  # a tile half as large, and the counter
OTHERS = ("sm_80", "sm_100", "gfx942")
PARAMETERS = {"relaxed_bernoulli": 1, "log_prob_prior": 4}  # else two

CASES = [
    *(("sm_90", "float32", name, family, True) for family in BOUNDS for name in aot.PASSES),
    *(("sm_90", "float32", name, family, False) for family in LOOP for name in aot.PASSES),
    ("sm_90", "bfloat16", "backward", "log_prob_prior", False),
    *((target, "float32", "forward", "gaussian", True) for target in OTHERS),
    *((target, "bfloat16", "backward", "tanh_normal", True) for target in OTHERS),
]
LISTING = """
import aot, json
from dataclasses import asdict
from fused_reparam.backends.reference.families import FAMILIES
from fused_reparam.backends.triton import bases, shapes

def draw(name, dtype, target, family, one, **changes):
    about = FAMILIES[family]
    known = dict(FAMILY=list(FAMILIES).index(family), BASE=bases.INDEX[about.base], ONE=one)
    known |= dict(SAMPLED=about.sampled, KIND=2 if about.base != "normal" else 0)
    absent = [f"{kind}{i}" for kind in ("p", "out") for i in range(about.parameters, 4)]
    absent += [f"{kind}{i}" for kind in ("value", "grad") for i in range(about.values, 2)]
    known |= dict.fromkeys(absent)
    if about.values == 0:
        known |= dict(VALUE=0, GVALUE=0)
    if family == "relaxed_bernoulli":
        known["KIND"] = 0
    sparse = not one or about.parameters > 2
    shape = shapes.sparse_shape(16 // aot.BYTES[dtype], target) if sparse else None
    return aot.listing("draw_" + name, dtype, target, shape, **known | changes)
"""


@cache
def listings() -> dict[tuple, aot.Listing]:
    code = f"{LISTING}\nfor target, dtype, name, family, one in {CASES!r}:\n"
    code += "    print(json.dumps(asdict(draw(name, dtype, target, family, one))))\n"
    lines = [line for line in run("-c", code).splitlines() if line.startswith("{")]
    return {case: aot.Listing(**json.loads(line)) for case, line in zip(CASES, lines, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_no_spills_and_wide_accesses(case):
    target, dtype, name, family, _ = case
    one, about = listings()[case], FAMILIES[family]
    assert one.spills == 0
    assert one.local == []
    # Every latent tensor moves in accesses of 128 bits: the parameters, and z or its gradient and
    # those of the parameters. Sums and their gradients are what is left, and on AMD the key.
    latents = about.parameters + 1 + (about.parameters if name == "backward" else 0)
    if not about.values and about.parameters == 2 and name == "backward":
        latents -= 2  # loc + std * noise: its gradients need neither
    needed = latents * one.elements * aot.BYTES[dtype] // 16
    assert len(wide(one)) - needed in ((0, 1) if target.startswith("gfx") else (0,))
    assert len(narrow(one)) <= 3, narrow(one)
    if name == "backward":
        assert one.shared == []  # no tile changes threads


@pytest.mark.parametrize(
    "case", CASES[: 2 * (len(BOUNDS) + len(LOOP))], ids=lambda c: "-".join(c[2:4]) + str(c[4])
)
def test_instructions_per_element_on_sm_90(case):
    _, _, name, family, single = case
    one = listings()[case]
    bound = (BOUNDS if single else LOOP)[family][aot.PASSES.index(name)]
    assert bound - 8 < one.per_element <= bound
    assert one.branches <= (0 if single else 2)  # the loop's own


VARIANTS = [  # what the hot path leaves out, each at least once
    ("forward", "float32", "log_prob_prior", {
        "KEY": 2, "CLAMP": True, "LAYOUT": 1, "UNIT": 5, "VALUE": 4, "GROUPS": 8, "TAIL": 2,
        "ALIGNED": False, "KIND": 4, "PRIOR_KIND": 3}),
    ("backward", "float64", "gaussian_prior", {
        "FLOOR": True, "LAYOUT": 2, "GVALUE": 3, "KIND": 2, "out0": None, "BIG": True, "TAIL": 2}),
    ("backward", "bfloat16", "kumaraswamy", {"KEY": 1, "LAYOUT": 1, "UNIT": 65, "LONG": True}),
]  # fmt: skip


def test_variants_compile():
    """The interpreter accepts what the compiler does not; this is the compiler."""
    code = f"{LISTING}\nfor name, dtype, family, changes in {VARIANTS!r}:\n"
    code += "    draw(name, dtype, 'sm_90', family, False, **changes)\nprint('compiled')\n"
    assert run("-c", code).strip().endswith("compiled")
