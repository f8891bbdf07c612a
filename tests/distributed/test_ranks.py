"""What holds of several processes; each test runs many cases and names those that fail."""

import pytest

from tests.helpers import ranks


def test_layers_under_fsdp2_and_ddp():
    ranks.run("sharded_layers", 2)


def test_dtensors_in_compilers_and_transforms():
    ranks.run("dtensors", 2)


@pytest.mark.parametrize("processes", [2, 4])
def test_what_is_sent(processes):
    ranks.run("traffic", processes)
