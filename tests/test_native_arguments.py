"""What is called below the public functions: the library's own op and the extension's functions."""

import pytest
import torch

import fused_reparam
from fused_reparam.backends import native, native_host

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
    native.info()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ops.fused_reparam_native.normal(key, out)


@pytest.mark.parametrize("name", ["draw", "latent", "rows", "serve", "spent", "start"])
def test_functions_of_the_extension_refuse_wrong_arguments(name):
    native.info()
    if native_host.module is None:
        pytest.skip(native_host.reason)
    function, t = getattr(native_host.module, name), torch.zeros(2, 3)
    for args in (
        *[(None,) * count for count in range(8)],
        ((t, t), None, b"", KEY, None),
        ((t, t), None, bytes(152), KEY, None),
        ((), None, bytes(152), KEY, None),
        (t, t, None, b"", KEY, None),
        (t, t, None, b"\xff" * 104, KEY, None),
        (t, None, None, b"\x7f" * 104, KEY, None),
        (t, (), KEY, None),
        (t, (7, 1.0, 0.0, 9, 0, 1.0), KEY, None),
        (t, (0, 1.0, 0.0, -(2**63), 0, 1.0), KEY, None),
        ({},), ({"draw": (1, 2)},), (5,), (t,),
    ):  # fmt: skip
        try:
            assert function(*args) is None
        except (TypeError, ValueError) as error:
            assert str(error)  # noqa: PT017
