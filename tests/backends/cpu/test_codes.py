"""The numbers that C++ and Python say to one another are the library's own."""

import re

import pytest

from fused_reparam.backends.cpu.codes import Codes
from fused_reparam.backends.cpu.library import loaded
from tests.helpers.cpu_truth import needs_native

pytestmark = needs_native


class Stranger:
    """A library whose names are others."""

    _name = "stranger.so"

    def __init__(self, was, becomes):
        def names():
            text = loaded().handle.fused_reparam_names().decode()
            assert was in text
            return text.replace(was, becomes).encode()

        self.fused_reparam_names = names


def test_names_may_stand_in_any_order_where_no_op_takes_their_numbers():
    first, *_ = loaded().codes.tables["transform"]
    moved = Codes(Stranger(f"transform {first}", f"transform other {first}"))
    assert moved.tables["transform"].index(first) == 1
    ours, theirs = loaded().codes.families, moved.families
    assert all(theirs[name].transform == row.transform + 1 for name, row in ours.items())


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        (" exponent ", " exp ", "of the table 'transform' this package has exponent, the library "),
        (" laplace", "", "of the table 'base' this package has laplace, the library normal, "),
        ("logvar log_std", "log_std logvar", "'scale' this package has logvar, log_std, std"),
        (
            "\nmode soft hard one_hot",
            "",
            "'mode' this package has soft, hard, one_hot, the .* none",
        ),
    ],
)
def test_a_library_of_other_sources_is_refused(was, becomes, said):
    with pytest.raises(RuntimeError, match=r"library stranger\.so is of other sources") as error:
        Codes(Stranger(was, becomes))
    assert re.search(said, str(error.value))
