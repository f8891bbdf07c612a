"""Parameters as the extension sees them at a glance: what Python makes of them, or nothing."""

import pytest
import torch

from fused_reparam.backends import cpu
from fused_reparam.backends.cpu import extension
from fused_reparam.functional import arguments

cpu.info()  # loads it
pytestmark = pytest.mark.skipif(
    extension.module is None,
    reason=f"the extension is not at hand: {extension.reason}",
)


class Subclass(torch.Tensor):
    pass


T = torch.linspace(-1.0, 1.0, 12).view(3, 4)
NESTED = torch.nested.nested_tensor([T, T[:2]])
SEEN = {
    "one": (T,),
    "two": (T, T.exp()),
    "a parameter": (T, torch.nn.Parameter(T.clone())),
    "a row": (T, T[0], T[:, :1]),
    "0-d": (T, torch.tensor(2.0)),
    "a transposed one": (T, T.t().contiguous().t()),
    "a number behind": (T, 0.1, float("inf")),
    "a number in front": (0.1, T),
    "16 bits": (T.bfloat16(), 0.1),
    "64 bits": (T.double(), 0.1),
    "empty": (T[:0], T[:1]),
    "meta": (T.to("meta"), T[0].to("meta")),
}
LEFT = {
    "another dtype": (T, T.double()),
    "integers": (T.int(), T.int()),
    "another device": (T, T.to("meta")),
    "a wider one": (T[0], T),
    "shapes that do not broadcast": (T, T[:2]),
    "sparse": (T, T.to_sparse()),
    "nested": (NESTED, NESTED),
    "a subclass": (T, T.as_subclass(Subclass)),
    "an integer": (T, 2),
    "text": (T, "2"),
    "numbers alone": (0.5, 0.5),
    "no tensor": ([1.0], T),
}


def named(values):
    return tuple((f"p{i}", value) for i, value in enumerate(values))


@pytest.mark.parametrize("case", SEEN)
def test_seen_as_python_sees_them(case):
    found = extension.parameters(named(SEEN[case]))
    wanted = arguments._usual(named(SEEN[case]))
    assert len(found) == len(wanted) == len(SEEN[case])
    for got, want, given in zip(found, wanted, SEEN[case], strict=True):
        if isinstance(given, torch.Tensor):
            assert got is want is given
        else:
            assert (got.dtype, got.device, got.shape) == (want.dtype, want.device, ())
            assert got.tolist() == want.tolist()


@pytest.mark.parametrize("case", LEFT)
def test_the_rest_is_left_to_python(case):
    assert extension.parameters(named(LEFT[case])) is None


def test_not_names_and_values():
    for wrong in ([("p", T)], (T,), (("p", T, T),)):
        with pytest.raises(TypeError, match="names and values"):
            extension.parameters(wrong)
