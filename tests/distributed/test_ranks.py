"""What holds of several processes; each test runs many cases and names those that fail."""

from tests.helpers import ranks


def test_layers_under_fsdp2_and_ddp():
    ranks.run("sharded_layers", 2)
