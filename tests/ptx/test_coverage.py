"""That nothing is left out: of every kernel, which values of its constants the cases launch."""

import pytest

pytest.importorskip("triton")

from fused_reparam.families import FAMILIES
from fused_reparam.rng import bases as streams
from tests.ptx import stream_cases
from tests.ptx.case import DTYPES
from tests.ptx.coverage import ARITHMETIC, chosen, features, kernels

# These are executed by `stream_cases`, of which every size and dtype is.
STREAM = {
    f"torch_stream.{name}_kernel" for name in ("fill", "gaussian_forward", "gaussian_backward")
}
FLAGS = {False, True}
# Values that must be launched, by constant. A number that names a choice counts from 0; of what
# counts elements, the classes that differ in kind.
VALUES = {
    "KEY": {0, 1, 2},
    "KIND": set(range(5)),
    "PRIOR_KIND": set(range(5)),
    "BASE": set(range(len(streams.BASES))),
    # Functions of the family: `test_every_family_is_executed`. None: it has none.
    **{name: set() for name in ("SAMPLE", "GRADIENTS", "ZEROS")},
    **{name: {None} for name in ("PREPARE", "TERM_OF", "TERM_GRADIENTS", "FINISH")},
    "KL": set(range(5)),
    "GKL": set(range(5)),
    "TERM": set(range(5)),
    "GTERM": set(range(5)),
    "MODE": {0, 1, 2},
    "LAYOUT": {0, 1, 2},
    "TAIL": {0, 1, 2},
    "FORM": {0, 1, 2},
    "GRAD_FORM": {0, 1, 2},
    "SLOTS": {1, 2},
    "IN": {0, 2},
    "VEC": {2, 4, 8},
    **dict.fromkeys(
        (
            "CLAMP",
            "FLOOR",
            "SAMPLED",
            "ONE_SAMPLE",
            "ALIGNED",
            "LONG_ROWS",
            "WIDE_INDEX",
            "EACH",
            "MIXED",
            "RESIDENT",
        ),
        FLAGS,
    ),
    **dict.fromkeys(("DOUBLE", "WHOLE"), FLAGS),
    # Groups of a tile: one program for everything, segments, and small tiles.
    "Q": {256, 1024},
    "GROUPS": {0, 4, 8, 16},
    "A": {1, 2, 4},
    "B": {1, 2, 4, 16},
    "C": {2, 4, 8, 16},
    "TILE": {512, 1024, 2048},
    "BLOCK": {256, 4096},
    "UNIT": {0},
    "MATH": set(),  # which elementary functions: those of NVIDIA GPUs in all cases
}
# What these kernels do not have of that.
EXCEPTIONS = {
    ("gaussian_backward.gaussian_backward_kernel", "KEY"): {
        2
    },  # the forward pass wrote a graph's key down
    ("elementwise_backward.elementwise_backward_kernel", "KEY"): {2},
    ("fill.fill_kernel", "KEY"): {2},
    ("fill.fill_kernel", "Q"): {1024},  # it sums nothing
}


@pytest.mark.parametrize("kernel", kernels())
def test_every_constant_of_a_kernel_is_covered(kernel):
    missing = []
    found = set().union(*(features()[one] for one in chosen()))
    for constant in kernels()[kernel].constants if kernel not in STREAM else ():
        assert constant in VALUES, f"say in VALUES which values of {constant} must be executed"
        launched = {v for k, c, v in found if (k, c) == (kernel, constant)}
        wanted = VALUES[constant] - EXCEPTIONS.get((kernel, constant), set())
        missing += [f"{constant}={v}" for v in sorted(wanted - launched, key=str)]
    for pointer in kernels()[kernel].pointers if kernel not in STREAM else ():
        if (kernel, pointer, True) not in found:
            missing.append(f"{pointer} given")
    assert not missing, f"add cases to kernel_cases that launch {kernel} with {', '.join(missing)}"


def test_every_kernel_is_executed_in_every_dtype():
    launched = {
        (kernel, dtype) for name, dtype in chosen() for kernel, *_ in features()[name, dtype]
    }
    wanted = {(kernel, dtype) for kernel in kernels() if kernel not in STREAM for dtype in DTYPES}
    assert launched == wanted


@pytest.mark.parametrize(
    "direction",
    [f"{name}.{name}_kernel" for name in ("elementwise_forward", "elementwise_backward")],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_executed(family, direction):
    from fused_reparam.backends.triton import elementwise
    from fused_reparam.backends.triton.kernels import bases

    told = elementwise.functions(family, 0, direction.startswith("elementwise_backward"))
    feature = direction, "FORMULAS", (bases.base_index(FAMILIES[family]), *told)
    dtypes = {dtype for name, dtype in chosen() if feature in features()[name, dtype]}
    assert dtypes >= set(ARITHMETIC), f"add a case of {family} to kernel_cases"


def test_the_streams_cases_have_what_they_name():
    from fused_reparam.backends.triton import rng_torch

    grids = [
        rng_torch._torch_grid(n, rng_torch.threads_and_offsets(n, blocks)[0], dtype)
        for n, blocks in stream_cases.SIZES.values()
        for dtype in rng_torch.DTYPES
    ]
    assert {grid.slices for grid in grids} == {1, 2, 3, 4}
    assert {grid.programs > 1 for grid in grids} == FLAGS


@pytest.mark.parametrize("kernel", kernels())
def test_numbers_are_not_specialized(kernel):
    """A compiled kernel is launched again with other integers: none may be compiled in, nor what
    divides it.
    """
    about = kernels()[kernel]
    assert set(about.unspecialized) == {n for n, type_ in about.numbers.items() if type_ == "i64"}
    assert set(about.numbers.values()) <= {"i64", "fp64"}
