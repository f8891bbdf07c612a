"""DTensors: every rank computes what one device would have computed of its shard."""

import json
import subprocess
import sys

import pytest
import torch

from tests.helpers.paths import ROOT, environment

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch without torch.distributed"
)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["2", "2x2"])
def test_on_ranks(sizes, tmp_path):
    """The ranks are processes that meet by a file and talk over loopback."""
    world = torch.Size([int(n) for n in sizes.split("x")]).numel()
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.sharded_cases", str(tmp_path)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), sizes], cwd=ROOT, env=environment(OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(said)
    failures = {
        f"rank {rank}: {name}": error
        for rank in range(world)
        for name, error in json.loads((tmp_path / f"failures{rank}.json").read_text()).items()
    }
    assert not failures, "\n\n".join(f"{name}\n{error}" for name, error in failures.items())
