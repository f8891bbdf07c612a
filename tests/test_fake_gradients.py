"""A backward op refuses wrong gradients when it is traced just as when it runs."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses import FakeTensorMode

from fused_reparam import noise

SHAPE = (4, 6)


def ones(*shape, dtype=torch.float32, device="cpu"):
    return torch.ones(shape, dtype=dtype, device=device)


def given(t):
    """A tensor for a shape."""
    return ones(*t) if isinstance(t, tuple) else t


LATENT = [SHAPE, SHAPE, noise.key(1), None, [], 0, -1.0, 1.0]
MOMENTS = [(4, 12), None, noise.key(1), None, [], 0, -1.0, 1.0]
DRAW = [SHAPE, SHAPE, None, None, noise.key(1), None, []]
ROWS = [[], 0, 0.7, 0.0, 1, True, False, True]
BOTH, TWO = [True, True, False], [True, True, False, False, False]
# Of each backward op: its name, how many gradients come first, and its arguments.
CALLS = {
    "latent": ("gaussian_latent", 2, [SHAPE, (), *LATENT, "sum", True, -1, BOTH]),
    "latent of elements": ("gaussian_latent", 2, [SHAPE, SHAPE, *LATENT, "none", True, -1, BOTH]),
    "latent of samples": ("gaussian_latent", 2, [SHAPE, (4,), *LATENT, "sample", True, -1, BOTH]),
    "moments": ("gaussian_latent", 2, [SHAPE, (), *MOMENTS, "sum", True, 1, [True, False, False]]),
    "draw": ("draw", 2, [SHAPE, (4, 6), None, *DRAW, "laplace", 0, 0, [], 0, True, 2, 1.0, TWO]),
    "draws": (
        "draw", 3, [(3, *SHAPE), (3, 4), (3, 4), *DRAW, "log_prob", 0, 0, [-1.0, 1.0, 0.0, 1.0], 3,
                    True, 1, 1.0, TWO],
    ),
    "categories": ("relaxed_categories", 4, [SHAPE, (4,), SHAPE, SHAPE, *ROWS]),
}  # fmt: skip
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


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("call", CALLS)
def test_wrong_gradients_are_refused_both_ways(call, wrong):
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


@pytest.mark.parametrize("call", ["latent", "draw"])
def test_a_gradient_of_a_value_that_there_is_not(call):
    """A KL that was not asked for; a second value of a family that has one."""
    name, _, args = CALLS[call]
    args = [given(a) for a in args]
    if name == "draw":
        args[2] = ones(*SHAPE)
    else:
        args[2 + 8] = None  # no reduction
    want = outcome(name, args)
    assert want is ValueError
    assert traced(name, args) is want


@pytest.mark.parametrize(("base", "number"), [("student", 1.0), ("student_t", 0.0)])
def test_base_noise_of_another_name(base, number):
    args = [noise.key(1), [3, 4], [], torch.float32, base, number]
    for mode in (nullcontext(), FakeTensorMode(allow_non_fake_inputs=True)):
        with mode, pytest.raises(ValueError, match="student_t"):
            torch.ops.fused_reparam.base_noise(*args)
