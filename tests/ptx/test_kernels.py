"""Every kernel, compiled for an NVIDIA GPU and executed, against float64: see `tests/ptx`."""

import pytest

from tests.ptx.stream_cases import SIZES

pytest.importorskip("triton")

from fused_reparam.families import FAMILIES
from tests.ptx.coverage import chosen


@pytest.mark.parametrize(("name", "dtype"), chosen(), ids=lambda word: word)
def test_forward_and_backward(ask, name, dtype):
    answer = ask(case=name, dtype=dtype)
    assert answer["problem"] is None, answer["problem"]


# One of each kernel and family, for instructions whose results the GPU decides.
SPOILT = (
    "latent rho", "latent sample", "latent learned prior", "log_prob", "weight mixture",
    "tanh_normal", "log_normal latent", "loc_scale laplace", "loc_scale student_t",
    "loc_scale latent cauchy", "relaxed_bernoulli", "gumbel_softmax (33, 20)",
    "gumbel_softmax (3, 5001)", "categorical dim 1 (2, 6, 4)", "one_hot unimix dim 1 (4, 10, 6, 8)",
    *(name for name, row in FAMILIES.items() if row.law),
)  # fmt: skip


@pytest.mark.parametrize("salt", [0, 1])
@pytest.mark.parametrize("name", SPOILT)
def test_approximate_instructions_at_their_bounds(ask, name, salt):
    """With instructions as wrong as they may be, results stay within five times the tolerance."""
    answer = ask(case=name, dtype="float32", spoil=1.0, salt=salt)
    assert answer["problem"] is None, answer["problem"]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(size, dtype) for size in SIZES for dtype in ("float32", "bfloat16")]
    + [("one element", "float16"), ("slices", "float16")],  # as bfloat16, but for the rounding
)
def test_numbers_of_pytorchs_generator(ask, size, dtype):
    """rng="torch" draws the bits of torch.randn, and the latent's kernels use them."""
    answer = ask(stream=size, dtype=dtype)
    assert answer["problem"] is None, answer["problem"]


# What is changed in a kernel's PTX, in which case it must be noticed, a pattern, what replaces it,
# and how often (0: wherever it occurs).
MUTATIONS = {
    "a constant of Philox": ("latent of 127", r"3449720151;", "3449720153;", 0),
    "another scale of the words": ("latent of 127", "0f2F800000", "0f2F7FF000", 0),
    "cosine for sine": ("latent of 127", r"sin\.approx", "cos.approx", 1),
    "stores without their mask": ("latent of 127", r"@%p\d+ st\.global", "st.global", 0),
    "loads without their mask": ("latent of 127", r"@%p\d+ ld\.global", "ld.global", 0),
    "no barriers": ("latent sum", r"bar\.sync\s+0;", "", 0),
    "a barrier less": ("latent sum", r"bar\.sync\s+0;", "", 1),
    "a shuffle by 8 for 16": (
        "latent sum", r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+), 16,", r"\1, 8,", 1
    ),
    "a row's maximum of half a warp": (
        "gumbel_softmax (17, 127)", r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+), 16,", r"\1, 0,", 1
    ),
    "words of two lanes exchanged": (
        "latent of many tiles",
        r"v4\.b32 \[ (%rd\d+) \+ 0 \], \{ (%r\d+), (%r\d+),", r"v4.b32 [ \1 + 0 ], { \3, \2,", 0,
    ),
    "stores one element further": (
        "latent halves", r"(st\.global\.v4\.b32 \[ %rd\d+) \+ 0", r"\1 + 4", 1
    ),
    "subnormal numbers taken for zeros": (
        "kl of subnormal std", r"rcp\.approx\.f32", "rcp.approx.ftz.f32", 0
    ),
    "a sum that is contracted": (
        "categorical dim 1 (2, 6, 4)", r"add(\.f32\s+%r\d+, %r\d+), (%r\d+);",
        r"fma.rn\1, 0f3F800000, \2;", 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MUTATIONS)
def test_mutations_are_noticed(ask, what):
    """A check that can't fail is none."""
    case, *mutation = MUTATIONS[what]
    answer = ask(case=case, dtype="float32", mutation=mutation)
    assert answer["changed"] > 0, "no kernel has what the mutation changes"
    assert answer["problem"], "nothing was noticed"
    for wrong in ("AssertionError", "KeyError", "TypeError", "IndexError"):
        assert not answer["problem"].startswith(wrong), answer["problem"]


def test_a_direct_launch_of_another_grid_is_noticed(ask):
    answer = ask(case="latent of 7", dtype="float32", other_grid=True)
    assert "Triton launches Launch(" in answer["problem"]
    assert ask(case="latent of 7", dtype="float32")["problem"] is None


def test_without_a_mutation_there_is_nothing_to_notice(ask):
    for case in dict.fromkeys(case for case, *_ in MUTATIONS.values()):
        answer = ask(case=case, dtype="float32", mutation=["nothing has this", "", 0])
        assert answer["problem"] is None, answer["problem"]
