"""A process that executes PTX, for the tests that ask it."""

import os

import pytest

from tests.ptx import fake_gpu
from tests.ptx.client import Client


@pytest.fixture(scope="session")
def ask(tmp_path_factory):
    """`ask(**request)`: see `server.Server.answer`. Workers have a process each, and share what is
    compiled.
    """
    reason = fake_gpu.missing()
    if reason is not None:
        pytest.skip(f"PTX can't be executed: {reason}")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    kept = os.environ.get("FUSED_REPARAM_PTX_FOLDER")  # for who runs these tests often
    client = Client(kept or str(base / "ptx"), tmp_path_factory.mktemp("ptx-server"))
    yield client.ask
    client.close()
