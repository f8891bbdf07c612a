"""What the Triton kernels promise to the compiler is true, for every program and element.

A compiler believes a hint and makes accesses of it; the interpreter believes none, so that an
untrue one passes all other tests that it runs.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime import interpreter

from fused_reparam.backends.triton import launch, rng_torch
from tests.ptx.case import DTYPES
from tests.ptx.kernel_cases import cases

np = pytest.importorskip("numpy")

pytestmark = [
    pytest.mark.skipif(not launch.INTERPRETED, reason="not in Triton's interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
BACKEND = Path(launch.__file__).parent
HINTS = ("multiple_of", "max_contiguous", "max_constancy", "assume")
CASES = (
    "latent halves", "latent odd halves", "latent long halves", "latent transposed", "moments",
    "latent samples", "log_prob samples", "log_prob halves", "rsample samples", "weight mixture",
    "gumbel_softmax (33, 20)", "gumbel_softmax (8, 128)", "categorical half (12, 24)",
    "categorical dim 1 (2, 6, 4)",
)  # fmt: skip


def places() -> set[tuple[str, int]]:
    """(file, line) of each hint in the source."""
    return {
        (path.name, call.lineno)
        for path in BACKEND.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in HINTS
    }


def runs(data, size):
    """Each dim in turn cut into runs of `size[dim]` neighbours, the last axis."""
    for axis, length in enumerate(size):
        if length > 1:
            moved = np.moveaxis(data, axis, -1)
            yield moved.reshape(*moved.shape[:-1], moved.shape[-1] // length, length)


def holds(name, data, values) -> bool:
    if name == "tt.divisibility":
        return bool((data % max(values) == 0).all())
    if name == "tt.contiguity":
        return all((np.diff(run) == 1).all() for run in runs(data, values))
    assert name == "tt.constancy", name
    return all((np.diff(run) == 0).all() for run in runs(data, values))


@pytest.fixture(scope="module")
def seen():
    """The places of the hints that were met in a test, with whether they held."""
    found: dict[tuple[str, int], bool] = {}

    def set_attr(handle, name, values):
        frame = sys._getframe()
        while BACKEND not in Path(frame.f_code.co_filename).parents:
            frame = frame.f_back
        place = Path(frame.f_code.co_filename).name, frame.f_lineno
        found[place] = found.get(place, True) and holds(name, handle.data, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.TensorHandle, "set_attr", set_attr)
        yield found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])  # by 4, 8 and 2 elements
@pytest.mark.parametrize("name", CASES)
def test_hints_hold(seen, name, dtype):
    case = cases()[name]
    case.computed(DTYPES[dtype], case.inputs(DTYPES[dtype]))
    assert all(seen.values()), f"untrue hints: {[p for p, held in seen.items() if not held]}"


def test_hints_hold_for_pytorchs_numbers(seen):
    for n, blocks in ((77, 8), (768, 3), (2 * 768 + 5, 1), (2560, 2)):
        threads, _ = rng_torch.threads_and_offsets(n, blocks)
        rng_torch.normal(rng_torch.Draw(3, 8, threads), torch.empty(n))
    assert all(seen.values()), f"untrue hints: {[p for p, held in seen.items() if not held]}"


def test_every_hint_was_met(seen):
    for name in CASES:  # in whatever order and process the tests ran
        case = cases()[name]
        case.computed(torch.float32, case.inputs(torch.float32))
    test_hints_hold_for_pytorchs_numbers(seen)
    assert set(seen) == places(), "add a case to CASES that meets the hint"


def test_untrue_hints_are_noticed():
    at = np.arange(12).reshape(3, 4) * 4
    assert holds("tt.divisibility", at, (1, 4))
    assert not holds("tt.divisibility", at + 2, (1, 4))
    assert holds("tt.contiguity", np.arange(12).reshape(3, 4), (1, 4))
    assert not holds("tt.contiguity", np.arange(16).reshape(4, 4), (2, 4))  # as was promised once
    assert holds("tt.constancy", np.zeros((4, 4)), (2, 4))
    assert not holds("tt.constancy", np.arange(4), (2,))
