"""What is called below the public functions: the library's own op and the extension's functions."""

import contextvars

import pytest
import torch

import fused_reparam
from fused_reparam.backends import cpu
from fused_reparam.backends.cpu import extension

KEY = fused_reparam.noise.key(1)


def emptied(n):
    t = torch.zeros(n)
    t.untyped_storage().resize_(0)
    return t


@pytest.mark.parametrize(
    ("key", "out"),
    [
        (KEY, torch.zeros(1).expand(5000)),
        (KEY, torch.zeros(64)[::2]),
        (KEY, emptied(64)),
        (KEY, torch.zeros(3, dtype=torch.int64)),
        (KEY[:0], torch.zeros(3)),
        (KEY[:1], torch.zeros(3)),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(4, dtype=torch.int64)[::2], torch.zeros(3)),
        (KEY.to("meta"), torch.zeros(3)),
        (KEY, torch.zeros(3, device="meta")),
    ],
)
def test_the_op_refuses_what_it_cannot_fill_or_read(key, out):
    cpu.info()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ops.fused_reparam_native.normal(key, out)


@pytest.mark.parametrize("name", ["spent", "start"])
def test_functions_of_the_extension_refuse_wrong_arguments(name):
    cpu.info()
    if extension.module is None:
        pytest.skip(extension.reason)
    function, variable = getattr(extension.module, name), contextvars.ContextVar("name")
    for args in (
        *[(None,) * count for count in range(11)],
        (variable, print, {}, {}, {}, *[0] * 5),
        (variable, print, {}, {}, {}, *[1] * 5),  # it is started already
        (variable, print, {}, {}, {}, *[2**64] * 5),
        (variable, print, {}, {}, {}, *["1"] * 5),
        ({},), (5,), (KEY, KEY),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)) as error:
            function(*args)
        assert str(error.value)
    if name == "spent":
        assert function(KEY) is None
