"""A tensor whose storage was shrunk is refused at every entrance: nothing reads outside of it."""

import pytest

from tests.helpers import fresh
from tests.helpers.paths import environment

WAYS = {
    "host": {},
    "python": {"FUSED_REPARAM_NO_EXTENSION": "1"},
    "reference": {"FUSED_REPARAM_BACKEND": "reference"},
    "triton": {"FUSED_REPARAM_BACKEND": "triton", "TRITON_INTERPRET": "1"},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_call_says_that_memory_is_missing(way):
    if way == "triton":
        pytest.importorskip("triton")
    env = environment(OMP_NUM_THREADS="1", **WAYS[way])
    found = fresh.run_module("tests.helpers.shrunk_storage", env=env)
    lines = found.stdout.splitlines()
    assert found.returncode == 0, f"died at {lines[-1:]}: {found.stderr[-3000:]}"
    assert len(lines) > 600
    wrong = [line for line in lines if "Error: " not in line or "storage" not in line]
    assert not wrong, "\n".join(wrong)
