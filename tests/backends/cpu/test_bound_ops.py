"""Eager calls of the ops: not by the schema matching of ``torch.ops``, and with nothing lost."""

import sys

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fused_reparam as fr
from fused_reparam import noise
from fused_reparam.backends import cpu
from fused_reparam.backends.cpu import extension

cpu.info()  # loads it
pytestmark = pytest.mark.skipif(
    extension.module is None,
    reason=f"the extension is not at hand: {extension.reason}",
)
OPS = torch.ops.fused_reparam
CALLS = {
    "latent": lambda a, b: fr.gaussian_latent(a, b),
    "no noise": lambda a, b: fr.gaussian_kl(a, b, prior=(0.5, 2.0), reduction="none"),
    "many samples": lambda a, b: fr.gaussian_rsample(a, b, num_samples=3),
    "given noise": lambda a, b: fr.gaussian_rsample(a, b, eps=torch.ones_like(a)),
    "categories": lambda a, _: fr.gumbel_softmax(a, 0.5, hard=True),
    "laplace": lambda a, b: fr.loc_scale_rsample(a, b.exp(), "laplace"),
    "weights": lambda a, b: fr.sample_weight(a, b),
}
EACH = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def tensors():
    return [torch.linspace(-1, 1, 12).view(3, 4).requires_grad_() for _ in range(2)]


def ops_seen(functions):
    return {f for f in functions if getattr(f, "namespace", "") == "fused_reparam"}


class Overriding(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


class Dispatching(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    seen: list = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.seen.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


@EACH
def test_the_schema_is_not_matched(call):
    call(*tensors())
    through = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.endswith("torch/_ops.py"):
            through.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        call(*tensors())
    finally:
        sys.setprofile(None)
    assert not through


@EACH
@pytest.mark.parametrize("mode", [Overriding, Dispatching])
def test_a_mode_sees_the_op(call, mode):
    torch.manual_seed(3)
    expected = call(*tensors())
    torch.manual_seed(3)
    with mode() as looking:
        got = call(*tensors())
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert ops_seen(looking.seen) & {OPS.elementwise.default, OPS.gumbel_softmax.default}


@EACH
def test_a_subclass_sees_the_op(call):
    a, b = tensors()
    Subclass.seen.clear()
    call(a.detach().as_subclass(Subclass), b)
    assert ops_seen(Subclass.seen) & {OPS.elementwise.default, OPS.gumbel_softmax.default}


@pytest.mark.parametrize(
    ("at", "wrong"),
    [(6, ["0"]), (7, 3), (8, 1.5), (10, [None]), (11, 2**64), (13, 1), (0, None), (4, "key")],
)
def test_what_does_not_fit_is_said_as_torch_ops_says_it(at, wrong):
    a, b = tensors()
    args = [a, b, None, None, noise.key(1), None]
    args += [
        None,
        "gaussian",
        0,
        0,
        (-torch.inf, torch.inf, 0.0, 1.0, -torch.inf),
        0,
        True,
        None,
        -1,
    ]
    call = extension.module.bound("fused_reparam::elementwise", OPS.elementwise.default)
    args[at] = wrong
    with pytest.raises(Exception) as expected:
        OPS.elementwise.default(*args)
    with pytest.raises(type(expected.value)) as got:
        call(*args)
    assert str(got.value) == str(expected.value)
