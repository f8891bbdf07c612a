"""The CPU draws' inner loops, by what stands in their machine code: a gate without a clock.

`python -m tests.helpers.disassembly` prints the counts; see there how the loops are found.
"""

from __future__ import annotations

from functools import cache

import pytest

from tests.helpers import disassembly
from tests.helpers.loops import where
from tests.helpers.stepping import COMPILER, OTHER_MARGIN

# Instructions for each register of results, AVX-512 and AVX2, float32. In AVX-512 made of:
#   loads, a store and the loop 6 to 8, with an addition to what is there 2 more
#   about 14 for exp, 16 for a log, 30 for one of any number (zero, negative, subnormal), 20 for
#     expm1, 10 for log(1 + e)
#   noise: words 28 (see `test_gaussian_instructions`); u, order, store and fetching ahead 12
# "far": for tiles with a sigma that is far out, whose ratios to the prior are of logarithms. These
# are made once for all samples of the tile, and read here.
# AVX2 has no exponent instructions, no xor of three and half of the registers: constants and
# words are loaded again.
BOUNDS = {
    ("noise", "UniformBits"): (42, 50.5),
    ("noise", "Normal"): (60, 78.5),  # Box-Muller 20 in place of u
    ("noise", "Symmetric"): (44, 53),  # 1 - 2 v, sign
    ("noise", "Exponential"): (66.5, 76.5),  # log of either end, 24
    ("noise", "Laplace"): (65, 74.5),  # log, sign
    ("noise", "Logistic"): (65.5, 74.5),  # quotient, log, sign
    ("noise", "Gumbel"): (86.5, 98.5),  # log of either end, log
    ("noise", "Cauchy"): (60, 65.5),  # two series 15, quotient, sign
    # Given both numbers, noise and its derivative: log, expm1, exp, series 7, root, quotients
    ("noise", "StudentT"): (49.5, 69.5),
    ("transform", "student_t"): (7.2, 7.2),  # also linear's: two loads, multiply-add, store, index
    ("transform", "log_prob"): (5.5, 5.5),  # three results; densities 6
    ("transform", "log_prob_prior"): (6.2, 6.5),  # the same with a quotient
    ("transform", "log_prob far"): (6.8, 7.2),  # ratio and distance read, choice
    ("transform", "log_prob_prior far"): (7.2, 7.9),
    ("transform", "mixture"): (25.5, 29.5),  # two results; densities 12, exp, log(1 + e)
    # Of noise that is the caller's: a product and a sum.
    ("transform", "linear given"): (5.7, 5.7),
    ("transform", "log_prob given"): (5.5, 5.5),
    ("transform", "mixture given"): (25.5, 29.5),
    ("transform", "tanh_normal"): (28, 33),  # two results; density 4, exp, tanh, log(1 + e)
    ("transform", "tanh_normal_between"): (49, 53.5),  # the same, a log of any number
    ("transform", "exponent"): (23, 31),  # exp
    ("transform", "relaxed_bernoulli"): (26, 34),  # exp, quotient
    ("transform", "hard_bernoulli"): (8.8, 8.8),  # sum, choices 3
    ("transform", "kumaraswamy"): (97.5, 112),  # two quotients, exp; log(1 - e^-t): exp, expm1, log
    ("transform", "exponential"): (5, 5),  # a quotient
    ("transform", "weibull"): (59, 68),  # log of any number, quotient, exp
    ("transform", "pareto"): (27, 35.5),  # quotient, exp
    ("transform", "generalized_pareto"): (53, 81.5),  # expm1, exp, two quotients
    ("transform", "folded"): (5, 5),  # a sign
    ("transform", "continuous_bernoulli"): (129, 146.5),  # two exp with expm1, two logs, a quotient
    # Two or three results.
    ("transform_backward", "tanh_normal_score"): (6.8, 6.8),  # a quotient, in place of tanh and exp
    ("transform_backward", "linear"): (3.9, 3.9),
    ("transform_backward", "student_t"): (7.9, 7.4),  # products that stay 0
    ("transform_backward", "log_prob"): (6.8, 6.8),
    ("transform_backward", "log_prob_prior"): (5.8, 5.8),  # five results
    ("transform_backward", "log_prob far"): (10, 10.3),  # to the ratio 3 more, choices
    ("transform_backward", "log_prob_prior far"): (9.2, 9.4),
    ("transform_backward", "mixture"): (17.5, 20.5),  # exp, shares 8
    ("transform_backward", "tanh_normal"): (17.3, 20),  # exp, tanh and slope 14
    # Four results: a quotient; two quotients more, choices.
    ("transform_backward", "tanh_normal_between"): (15, 16.5),
    ("transform_backward", "tanh_normal_score_between"): (17, 18.7),
    ("transform_backward", "exponent"): (16.5, 20.5),  # exp
    ("transform_backward", "relaxed_bernoulli"): (31, 39.5),  # one; exp, quotient
    ("transform_backward", "kumaraswamy"): (56, 67),  # the same, a quotient; two results
    ("transform_backward", "exponential"): (15.5, 14),  # two quotients
    ("transform_backward", "weibull"): (43, 50.5),  # the same, a quotient; two results
    ("transform_backward", "pareto"): (26.5, 33),  # the same, a quotient; two results
    ("transform_backward", "generalized_pareto"): (41, 51.5),  # the same, a series; three results
    ("transform_backward", "folded"): (6, 6),  # a sign
    ("transform_backward", "continuous_bernoulli"): (168, 190),  # the same, a root, series 10
    ("term", "gaussian"): (13.4, 13.4),  # two squares, sums, bound
    ("term", "gaussian_prior"): (15.4, 15.4),  # the same with a quotient
    ("term", "gaussian far"): (11.3, 11.3),  # ratio and distance read
    ("term", "gaussian_prior far"): (12.3, 12.3),
    ("term", "gaussian_density"): (34, 43),  # quotient, exp of what is far out, choices
    ("term", "tanh_normal_density"): (103, 114),  # the same, two logs of positive numbers
    ("term", "mixture_density"): (171, 171),  # quotients 3, logs of any number 3, exp, choices 10
    ("term", "tanh_normal_density_between"): (135, 150.5),  # a log more
    ("term", "categorical_kl"): (110, 138),  # two exps, two logs, or a choice
    ("term", "bernoulli"): (78.5, 94),  # two exps, two log(1 + e), quotient, choices
    ("term", "relaxed_bernoulli_density"): (123.5, 140),  # two logs, a log of any number, exp
    ("term", "bernoulli_density"): (35, 49.5),  # exp, log(1 + e), choices
    ("term", "continuous_bernoulli_density"): (80, 93.5),  # exp with expm1, log, quotient, a series
    # Three logs and two that are near 1, four quotients, a root, series 18.
    ("term", "negative_binomial_density"): (182, 200),
    # Two exp and two log(1 + e) more, choices.
    ("term", "zero_inflated_negative_binomial_density"): (246, 285),
    ("term", "laplace_density"): (43, 44),  # quotient, log of any number
    # Logs of any number 3 and of positive ones, quotients 5, a root, products 8, a series.
    ("term", "student_t_density"): (215, 206),
    # Two exp and two log(1 + e), log(1 - e^-t), quotients 4, choices.
    ("term", "discretized_logistic_density"): (141, 184),
    ("term", "laplace"): (63, 75),  # exp, log of any number, quotient, bounds
    ("term", "uniform"): (42.5, 43.5),  # log of any number, choice
    ("term", "cauchy"): (82.5, 80.5),  # two logs of any number, a root
    ("term", "exponential"): (41.5, 42.5),  # quotient, log of any number
    ("term", "weibull"): (221.5, 224),  # logs of any number 4, expm1, two series
    ("term", "pareto"): (87, 81.5),  # two logs of any number
    ("term", "half_normal"): (41.5, 42.5),  # quotient, log of any number
    ("term", "half_cauchy"): (83.5, 75.5),  # two logs of any number
    ("term", "continuous_bernoulli"): (101, 110.5),  # exp with expm1, log, quotients, two series
    # To a prior of parameters: their logarithms, 35 each of any number, more.
    ("term", "exponential_prior"): (79.5, 76.5),
    ("term", "weibull_prior"): (300, 293.5),
    ("term", "pareto_prior"): (174, 150.5),
    ("term", "half_normal_prior"): (79.5, 76.5),
    ("term", "half_cauchy_prior"): (111.5, 109.5),
    ("term", "continuous_bernoulli_prior"): (187.5, 202),  # exp with expm1, log, a series
    ("term_backward", "gaussian"): (6.8, 6.8),
    ("term_backward", "gaussian_prior"): (5.8, 5.8),
    ("term_backward", "gaussian far"): (9.5, 10),
    ("term_backward", "gaussian_prior far"): (10.8, 10.8),
    ("term_backward", "gaussian_density"): (11.8, 14.6),  # the same, two products
    ("term_backward", "tanh_normal_density"): (31.5, 34.7),  # the same, two quotients
    ("term_backward", "mixture_density"): (53.5, 55),  # four results; logs 2, exp, quotients 8
    ("term_backward", "tanh_normal_density_between"): (25, 28.5),
    ("term_backward", "categorical_kl"): (66, 80),  # the same, a quotient
    ("term_backward", "bernoulli"): (36.3, 44),  # two exps, two quotients, choices
    ("term_backward", "relaxed_bernoulli_density"): (34.7, 39.5),  # two logs, exp, quotients 4
    ("term_backward", "bernoulli_density"): (18, 25.5),  # two results; exp, quotient, choices
    # Two results; exp with expm1, two quotients, a series, choices.
    ("term_backward", "continuous_bernoulli_density"): (32, 38),
    # Three results, of which one is not made where it is not wanted; logs, quotients 9, series 14.
    ("term_backward", "negative_binomial_density"): (60, 68),
    # Four results; two exp, two quotients and choices more.
    ("term_backward", "zero_inflated_negative_binomial_density"): (61.5, 70.5),
    ("term_backward", "laplace_density"): (9.7, 10.4),  # three results; quotient, signs
    # Four results; logs of any number 3, quotients 13, a root, a series.
    ("term_backward", "student_t_density"): (61.5, 61),
    # Three results; three exp, quotients 7, choices.
    ("term_backward", "discretized_logistic_density"): (39, 55),
    ("term_backward", "laplace"): (21, 26),  # two results; exp, quotient, sign
    ("term_backward", "uniform"): (10, 10.5),
    ("term_backward", "cauchy"): (14, 15),
    ("term_backward", "exponential"): (13.5, 12),  # two quotients
    ("term_backward", "weibull"): (100.5, 108.5),  # two results; logs 3, expm1, two series
    ("term_backward", "pareto"): (11.5, 12),  # two results; three quotients
    ("term_backward", "half_normal"): (15.5, 14),  # three quotients
    ("term_backward", "half_cauchy"): (15.5, 14),  # two quotients
    ("term_backward", "continuous_bernoulli"): (48.5, 58),  # exp with expm1, quotients, a series
    # Two or four results.
    ("term_backward", "exponential_prior"): (11.5, 11.6),
    ("term_backward", "weibull_prior"): (72.5, 71.6),
    ("term_backward", "pareto_prior"): (31, 28.5),
    ("term_backward", "half_normal_prior"): (11.5, 13.4),
    ("term_backward", "half_cauchy_prior"): (9.8, 9.1),
    ("term_backward", "continuous_bernoulli_prior"): (62, 78),
    # Every result that may be wanted: sigma, its logarithm, both derivatives.
    ("scale", "logvar"): (9.1, 11.7),
    ("scale", "log_std"): (8.8, 11.2),
    ("scale", "std"): (27.5, 29),
    ("scale", "var"): (29, 30.5),
    ("scale", "rho"): (38.5, 48.5),
}
CASES = [(isa, *key) for isa in disassembly.ISAS for key in BOUNDS]


@cache
def found() -> tuple[dict[tuple[str, str, str], list[list[str]]], float]:
    """The loops, and what bounds are multiplied by for the compiler of the library."""
    try:
        loops = disassembly.draw_loops()
    except disassembly.CannotRead as why:
        pytest.skip(f"machine code can't be read: {why}")
    return loops, 1.0 if COMPILER in disassembly.library().read_bytes() else OTHER_MARGIN


def loops_of(case: tuple[str, str, str]) -> tuple[list[list[str]], float]:
    loops, margin = found()
    bodies = loops.get(case, [])
    if not bodies and margin != 1.0:
        pytest.skip("the compiler of this library has put the loop elsewhere")
    assert bodies, "the loop was not found"
    return bodies, margin


def test_loops_work_on_whole_registers():
    for case in CASES:
        with where(case):
            for body in loops_of(case)[0]:
                assert disassembly.scalar(body) == []
                assert disassembly.narrow(body, case[0]) == []
                assert not [text for text in body if text.startswith("call") or "gather" in text]


def test_instructions_per_register():
    for case in CASES:
        with where(case):
            isa, *key = case
            bodies, margin = loops_of(case)
            bound = BOUNDS[tuple(key)][disassembly.ISAS.index(isa)]
            assert disassembly.per_register(key[0], bodies) <= bound * margin


def test_a_machine_without_objdump_is_no_failure(monkeypatch):
    monkeypatch.setattr(disassembly.shutil, "which", lambda name: None)
    monkeypatch.setattr(disassembly.platform, "machine", lambda: "x86_64")
    with pytest.raises(disassembly.CannotRead, match="objdump"):
        disassembly.library()


def test_the_reader_sees_what_it_is_for():
    body = ["vmulss %xmm0,%xmm1,%xmm2", "vaddps %ymm0,%ymm1,%ymm2", "vmovups %zmm2,(%rax,%rdx,4)",
            "vmovaps %zmm2,0x40(%rsp)", "vmovups (%rax),%zmm2"]  # fmt: skip
    assert disassembly.scalar(body) == body[:1]
    assert disassembly.narrow(body, "avx512") == body[1:2]
    assert disassembly.narrow(body, "avx2") == []
    assert disassembly.stores(body) == 1
    back = "jne    1 <f+0x1>"
    assert disassembly.loops([*enumerate(body), (len(body), back)]) == [[*body[1:], back]]
