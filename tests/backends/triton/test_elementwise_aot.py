"""The machine code of the Triton draws, for GPUs that need not be here: see `aot.py`."""

from __future__ import annotations

import json
from functools import cache

import pytest

pytest.importorskip("triton")
from fused_reparam.families import FAMILIES, Family
from tests.helpers import aot
from tests.helpers.loops import where
from tests.helpers.machine_code import narrow, run, wide

# Instructions for an element on sm_90, one sample: float32 forward and backward, bfloat16 forward
# and backward. sm_80 and sm_100 get no more. They are made of:
#   words 11.5: rounds 39 and counter 2 of a block of four, and the key's own rounds, 18 of a thread
#   a frame 2, with four gradients and parameters more 3: addresses, loads, stores; of a thread that
#     holds 8 elements (a prior's parameters) with the words' share 6
#   a normal of two words 8, or of one word u 2 (conversion, scale) and its sign 2
#   sigma from log sigma^2 6 and another exp 7, of which 5 keep float32's last bits: bfloat16's 2
#   sigma and its logarithm from rho 31: exp, a reciprocal, a series of nine 12, choices 4, a log 7
#   a sum 2.5, where a thread holds 8 elements 4
#   a logarithm 2, where it may be of a subnormal number 6; a reciprocal or a root 1
#   a sample 1; a backward makes words and sigma again, its sample's part 2, sigma's slope 3
#   bfloat16 converts on the way in (1) and out (a half), and shares a thread's own between 32
BOUNDS = {
    # KL 8: distance 2, ratio 1, squares 2, logarithms 2, half; backward 9
    "gaussian": (39.5, 46.5, 35.5, 47),
    "gaussian from rho": (64.5, 67.5, 64.5, 70.2),  # weights
    # a ratio by logarithms 7 and the root of one over a second sigma 7; the prior's gradients 8
    "gaussian_prior": (58.5, 70, 50.5, 65),
    # densities of the noise 2 and of the prior 4, two sums; backward distance 2, slope 3
    "log_prob": (43, 47.5, 37.5, 45),
    "log_prob_prior": (64, 71.5, 56, 66.5),
    # density of the noise 2; two normals 5, exp, log 2, maximum and sums 4; shares 10 for the log
    "mixture": (51.5, 61, 43, 53.5),
    "mixture from rho": (78, 81.5, 73.5, 79.5),
    # density 4; exp, expm1 12, a log 2, quotient and sign 5, bounds 4; backward the same, slope 6
    "tanh_normal": (66, 68, 60, 63.5),
    # exp, KL 4; backward exp and 4
    "log_normal": (43, 52.5, 33.5, 47),
    # log 2 v 3; KL 20: loc in scales 4, exp, a subnormal's log; backward 20, without it
    "laplace": (46.5, 44.5, 41.5, 42.5),
    # two logs 5; nothing is known of a value
    "logistic": (24, 25, 25, 25.5),
    # u 2, a series of four 5 and choices 2 in place of the sign, two logs 4
    "gumbel": (29, 30, 32, 32.5),
    # 1 - 2 v 1; KL 11: within the bounds 3, choice, a subnormal's log; backward 10
    "uniform": (35.5, 33, 35.5, 35),
    # cotangent 16: a series of five, a root, a reciprocal, choices; KL 8, backward 11
    "cauchy": (60, 58.5, 60, 64.5),
    # two words; log u 13: a series of eight, log 2, choice; exp, expm1 12, cosine 9, root, sums 4
    "student_t": (83, 84, 87.5, 86),
    # two logs 5; exp, reciprocal, choice 8; backward exp, reciprocal, products 5
    "relaxed_bernoulli": (36, 38.5, 33, 35.5),
    # log u 13, quotients 4, two exps, expm1 12, log of the nearer 15; backward products 12
    "kumaraswamy": (74, 85.5, 66, 80),
}
# A loop's tile is half as large, so that a frame is 4, the key's rounds and a sum count double; the
# counter is made again for each sample, 3.
LOOP = {
    "gaussian": (48, 56, 46.5, 56),
    "log_prob_prior": (68.5, 85.5, 62, 80),
    "mixture": (62.5, 72.5, 56.5, 66.5),
}
# Families that have functions of their own take the tile of a loop. On sm_90: float32 forward,
# bfloat16 backward. A division is 8, or 12 of numbers of which nothing is known.
BY_FUNCTION = {
    # Of the ends a log, which may be of a subnormal number, 6; backward a reciprocal, shares 8
    "tanh_normal_between": (81, 88.5),
    "categorical_kl": (40, 49.5),  # two exps, two logs, a choice; backward a reciprocal
    "exponential": (53, 64),  # log u 13, divisions 2, a log; backward log u, divisions 4
    # log u, two logs, exp, divisions 2; KL 55: logs 4, two series 13, exp, expm1; backward the same
    "weibull": (139, 174.5),
    # two words; log u 13; exp, expm1 12, cosine 9, roots, a division; backward divisions 2
    "student_t_df": (100, 132.5),
    "pareto": (73.5, 101.5),  # log u, exp, divisions 2, logs 2; backward divisions 5
    "generalized_pareto": (84.5, 125.5),  # log u, two exps, expm1 12, divisions 2; a series of 8
    "half_normal": (43.5, 48),  # KL: a division, a log; backward divisions 3
    "half_cauchy": (55, 59.5),  # cotangent 16; KL: logs 2; backward divisions 2
    # log u, two exps and expm1s 28, log of the nearer 15, divisions 2; KL 60; backward 20 for sums
    "continuous_bernoulli": (184, 223),
    # A log of any number more of each of the prior's; backward a quotient or two.
    "exponential_prior": (62, 78.5),
    "weibull_prior": (156, 245),
    "continuous_bernoulli_prior": (238.5, 304),
    "mixture_density": (77.5, 168),  # logs of any number 3, exp, divisions 3; backward divisions 8
}
# On gfx942: float32 forward, bfloat16 backward. A wide product and an xor of three take two
# instructions, which is 10 for the words, and a bfloat16 is rounded by 6.
AMD = {
    "gaussian": (43, 56.5),
    "gaussian from rho": (76.5, 88),
    "gaussian_prior": (77, 86.5),
    "log_prob": (45.5, 57),
    "log_prob_prior": (82.5, 88),
    "mixture": (58, 68),
    "mixture from rho": (92.5, 104),
    "tanh_normal": (77, 73),
    "log_normal": (45.5, 58),
    "laplace": (66, 64.5),
    "logistic": (38, 49.5),
    "gumbel": (42, 53.5),
    "uniform": (45.5, 50.5),
    "cauchy": (76, 80),
    "student_t": (79.5, 89.5),
    "relaxed_bernoulli": (51.5, 57),
    "kumaraswamy": (85.5, 108),
}
DTYPES = ("float32", "bfloat16")
ALL = [(dtype, name) for dtype in DTYPES for name in aot.PASSES]  # a bound's places
SOME = (ALL[0], ALL[-1])
# How many parameters gradients do not need: none is needed where loc + scale eps has no value.
UNREAD = {"logistic": 2, "gumbel": 2, "student_t": 2, "generalized_pareto": 1, "student_t_df": 1}

CASES = [
    *(("sm_90", *kind, family, True) for kind in ALL for family in BOUNDS),
    *(("sm_90", *kind, family, False) for kind in ALL for family in LOOP),
    *(("sm_90", *kind, family, True) for kind in SOME for family in BY_FUNCTION),
    *(("gfx942", *kind, family, True) for kind in SOME for family in AMD),
    # sm_90's code for another scheduler: half of the families each way.
    *(("sm_80", *SOME[i % 2], family, True) for i, family in enumerate(BOUNDS)),
    *(("sm_100", *SOME[1 - i % 2], family, True) for i, family in enumerate(BOUNDS)),
]
DRAW = """
from tests.helpers import aot
import json
from dataclasses import asdict
from fused_reparam.families import FAMILIES
from fused_reparam.backends.triton import elementwise, shapes
from fused_reparam.backends.triton.kernels import bases, scale

def draw(name, dtype, target, family, one, **changes):
    family, _, kind = family.partition(" from ")
    about = FAMILIES[family]
    known = dict(BASE=bases.base_index(about), ONE_SAMPLE=one)
    known |= dict(SAMPLED=about.sampled, KIND=2 if about.base != "normal" else 0)
    absent = [f"{kind}{i}" for kind in ("p", "out") for i in range(about.parameters, 4)]
    absent += [f"{kind}{i}" for kind in ("term", "grad") for i in range(about.terms, 2)]
    known |= dict.fromkeys(absent)
    if about.terms == 0:
        known |= dict(TERM=0, GTERM=0)
    if family == "relaxed_bernoulli":
        known["KIND"] = 0
    if kind == "rho":
        known["KIND"] = scale.RHO.value
    names = "PREPARE SAMPLE TERM_OF".split()
    if name == "backward":
        names = "PREPARE GRADIENTS TERM_GRADIENTS ZEROS FINISH".split()
    known |= zip(names, elementwise.functions(family, 0, name == "backward"), strict=True)
    # As in `triton.elementwise`.
    sparse = not one or about.parameters > 2 or known["PREPARE"] is None
    shape = shapes.sparse_shape(16 // aot.BYTES[dtype], target) if sparse else None
    return aot.kernel("elementwise_" + name, dtype, target, shape, **known | changes)
"""


@cache
def listings(target: str) -> dict[tuple, aot.Listing]:
    cases = [case for case in CASES if case[0] == target]
    code = f"{DRAW}\nkernels = [draw(name, dtype, target, family, one)\n"
    code += f"           for target, dtype, name, family, one in {cases!r}]\n"
    code += "for one in aot.listings(kernels): print(json.dumps(asdict(one)))\n"
    lines = [line for line in run("-c", code).splitlines() if line.startswith("{")]
    return {case: aot.Listing(**json.loads(line)) for case, line in zip(cases, lines, strict=True)}


def about(family: str) -> Family:
    return FAMILIES[family.partition(" ")[0]]


TARGET = pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])


@TARGET
def test_no_spills_and_wide_accesses(target):
    for case, one in listings(target).items():
        with where(*case):
            check_accesses(one, *case[:4])


def check_accesses(one: aot.Listing, target: str, dtype: str, name: str, family: str) -> None:
    parameters = about(family).parameters
    assert one.spills == 0
    assert one.local == []
    # Every latent tensor moves in accesses of 128 bits: the parameters, and z or its gradient and
    # those of the parameters. Sums and their gradients are what is left, and on AMD the key.
    latents = parameters + 1 + (parameters if name == "backward" else 0)
    if name == "backward":
        latents -= UNREAD.get(family, 0)
    needed = latents * one.elements * aot.BYTES[dtype] // 16
    assert len(wide(one)) - needed in ((0, 1) if target.startswith("gfx") else (0,))
    assert len(narrow(one)) <= 3, narrow(one)
    if name == "backward":
        assert one.shared == []  # no tile changes threads


# Instructions that Triton 3.6 makes of what it makes more of.
TRITON_3_6 = {
    ("sm_90", "float32", "forward", "exponential", True): 59.7,
    ("gfx942", "float32", "forward", "log_prob", True): 52.5,
    ("gfx942", "float32", "forward", "log_prob_prior", True): 96.8,
}


@TARGET
def test_instructions_per_element(target):
    amd = target.startswith("gfx")
    for case, one in listings(target).items():
        _, *kind, family, single = case
        if amd:
            bound = AMD[family][SOME.index(tuple(kind))]
        elif family in BY_FUNCTION:
            bound = BY_FUNCTION[family][SOME.index(tuple(kind))]
        else:
            bound = (BOUNDS if single else LOOP)[family][ALL.index(tuple(kind))]
        with where(*case):
            exact = target in ("sm_90", "gfx942")  # whose bounds they are
            aot.check_count(one, bound, exact=exact, elsewhere=TRITON_3_6.get(case))
            # The loop's own. AMD's compiler jumps over what only the first thread does: storing a
            # sum.
            sums = about(family).terms if amd and "forward" in kind else 0
            assert one.branches <= (sums if single else 2)


VARIANTS = [  # what the hot path leaves out, each at least once
    ("forward", "float32", "log_prob_prior", {
        "KEY": 2, "CLAMP": True, "LAYOUT": 1, "UNIT": 5, "TERM": 4, "GROUPS": 8, "TAIL": 2,
        "ALIGNED": False, "KIND": 4, "PRIOR_KIND": 3}),
    ("backward", "float64", "gaussian_prior", {
        "FLOOR": True, "LAYOUT": 2, "GTERM": 3, "KIND": 2, "out0": None, "WIDE_INDEX": True,
        "TAIL": 2}),
    ("backward", "bfloat16", "kumaraswamy", {"KEY": 1, "LAYOUT": 1, "UNIT": 65, "LONG_ROWS": True}),
]  # fmt: skip


def test_variants_compile():
    """The interpreter accepts what the compiler does not; this is the compiler."""
    code = f"{DRAW}\nfor name, dtype, family, changes in {VARIANTS!r}:\n"
    code += "    draw(name, dtype, 'sm_90', family, False, **changes)\nprint('compiled')\n"
    assert run("-c", code).strip().endswith("compiled")
