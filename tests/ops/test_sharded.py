"""DTensors: every rank computes what one device would have computed of its shard."""

import json

import pytest
import torch

from tests.helpers import fresh
from tests.helpers.paths import environment
from tests.helpers.ranks import outputs

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch without torch.distributed"
)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["2", "2x2"])
def test_on_ranks(sizes, tmp_path):
    """The ranks are processes that meet by a file and talk over loopback."""
    world = torch.Size([int(n) for n in sizes.split("x")]).numel()
    code = "from tests.helpers import sharded_cases; sharded_cases.main({!r}, {}, {!r})"
    env = environment(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    ranks = [fresh.start(code.format(str(tmp_path), rank, sizes), env) for rank in range(world)]
    said = ["".join(printed) for printed in outputs(ranks)]
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(said)
    failures = {
        f"rank {rank}: {name}": error
        for rank in range(world)
        for name, error in json.loads((tmp_path / f"failures{rank}.json").read_text()).items()
    }
    assert not failures, "\n\n".join(f"{name}\n{error}" for name, error in failures.items())
