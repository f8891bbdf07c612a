"""A backward op refuses wrong gradients when it is traced just as when it runs."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses import FakeTensorMode

from fused_reparam import noise
from tests.helpers import op_calls
from tests.helpers.loops import where

SHAPE = (4, 6)


def ones(*shape, dtype=torch.float32, device="cpu"):
    return torch.ones(shape, dtype=dtype, device=device)


def given(t):
    """A tensor for a shape."""
    return ones(*t) if isinstance(t, tuple) else t


def calls():
    """By name: a backward op, how many gradients come first, and its arguments."""
    key, two = noise.key(1), [SHAPE, SHAPE]
    samples = {"samples": 3, "reduction": "sample", "constants": [-1.0, 1.0, 0.0, 1.0]}
    of = {
        "of a sum": ([SHAPE, (), None], "gaussian", two, {"reduction": "sum"}),
        "of elements": ([SHAPE, SHAPE, None], "gaussian", two, {"reduction": "none"}),
        "of rows": ([SHAPE, (4,), None], "laplace", two, {"reduction": "last"}),
        "of samples": ([(3, *SHAPE), (3, 4), (3, 4)], "log_prob", two, samples),
        "of moments": ([SHAPE, (), None], "gaussian", [(4, 12), None],
                       {"reduction": "sum", "split": 1}),
    }  # fmt: skip
    for name, (grads, family, params, spec) in of.items():
        args = op_calls.elementwise(family, params, key, **spec)
        yield (
            name,
            "elementwise",
            3,
            [*grads, *args, op_calls.needs(0, *([1] if params[1] else []))],
        )
    softmax_needs = [True, False]
    rows = op_calls.softmax(mode=1, want_soft=True, reduction="none")
    yield (
        "of categories",
        "gumbel_softmax",
        5,
        [SHAPE, SHAPE, (4,), SHAPE, SHAPE, None, *rows, softmax_needs],
    )
    rows = op_calls.softmax(mode=2, reduction="mean")
    yield (
        "of one-hot ones",
        "gumbel_softmax",
        4,
        [SHAPE, None, (), SHAPE, None, None, *rows, softmax_needs],
    )


CALLS = {name: tuple(rest) for name, *rest in calls()}
WRONG = {
    "no dim": lambda t: ones(),
    "one element": lambda t: ones(1),
    "flat": lambda t: ones(t.numel() + 1),
    "a dim more": lambda t: t.unsqueeze(0),
    "a wider dim": lambda t: ones(*t.shape[:-1], (t.shape[-1] if t.dim() else 1) + 1),
    "a narrower dim": lambda t: ones(*t.shape[:-1], 2),
    "empty": lambda t: ones(0),
    "bfloat16": lambda t: t.bfloat16(),
    "float64": lambda t: t.double(),
    "int64": lambda t: t.long(),
    "on meta": lambda t: t.to("meta"),
}


def outcome(name, args):
    """The error of a call, or the shapes that it gives."""
    try:
        found = getattr(torch.ops.fused_reparam, f"{name}_backward")(*args)
    except (TypeError, ValueError, RuntimeError) as error:
        return type(error)
    found = found if isinstance(found, (tuple, list)) else (found,)
    return [(t.shape, t.dtype, t.stride()) for t in found]


def traced(name, args):
    """The same of the fake kernel: below autograd, which has checks of its own."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch._C._AutoDispatchBelowAutograd():
        return outcome(
            name, [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        )


@pytest.mark.parametrize("call", CALLS)
def test_right_gradients_pass(call):
    name, _, args = CALLS[call]
    args = [given(a) for a in args]
    want = outcome(name, args)
    assert isinstance(want, list)
    assert traced(name, args) == want


@pytest.mark.parametrize("call", CALLS)
def test_wrong_gradients_are_refused_both_ways(call):
    for wrong in WRONG:
        with where(wrong):
            name, grads, args = CALLS[call]
            right = [given(a) for a in args]
            for at in range(grads):
                if right[at] is None:
                    continue
                args = list(right)
                args[at] = WRONG[wrong](right[at])
                if (args[at].shape, args[at].dtype, args[at].device) == (
                    right[at].shape, right[at].dtype, right[at].device,
                ):  # fmt: skip
                    continue  # the same thing after all
                want = outcome(name, args)
                assert want in (TypeError, ValueError)
                assert traced(name, args) is want, (at, wrong)


@pytest.mark.parametrize(("call", "at", "value"), [
    ("of a sum", 2, ones()),  # a second value of a family that has one
    ("of a sum", -3, None),  # a value where no reduction asks for one
    ("of categories", -2, None),
    ("of samples", -1, [True] * 5),  # eps was not given
    ("of categories", -1, [True, True]),
])  # fmt: skip
def test_what_a_call_does_not_have(call, at, value):
    name, _, args = CALLS[call]
    args = [given(a) for a in args]
    args[at] = value
    want = outcome(name, args)
    assert want is ValueError
    assert traced(name, args) is want


@pytest.mark.parametrize(("base", "number"), [("student", 1.0), ("student_t", 0.0)])
def test_base_noise_of_another_name(base, number):
    args = [noise.key(1), [3, 4], [], torch.float32, base, number]
    for mode in (nullcontext(), FakeTensorMode(allow_non_fake_inputs=True)):
        with mode, pytest.raises(ValueError, match="student_t"):
            torch.ops.fused_reparam.base_noise(*args)
