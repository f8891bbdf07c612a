"""Which tile shape the Triton kernels get, by architecture and by environment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fused_reparam.backends.triton import shapes

VARIABLE = "FUSED_REPARAM_TRITON_SHAPE"
VECTORS = (2, 4, 8)
MANY = {vector: shapes.MANY_GROUPS * vector for vector in VECTORS}  # elements


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    shapes.architecture.cache_clear()
    yield
    shapes.architecture.cache_clear()


@pytest.mark.parametrize("vector", VECTORS)
def test_unknown_architectures_get_the_default(vector):
    for arch in ("", "sm_120", "gfx90a"):
        assert shapes.large_shape(vector, arch) == shapes.DEFAULT[vector]


def test_known_architectures_have_their_own():
    assert shapes.large_shape(4, "sm_90") == (512, 4)
    assert shapes.large_shape(2, "sm_90") == (256, 4)
    assert shapes.large_shape(4, "gfx942") == (1024, 4)
    for table in (*shapes.OVERRIDES.values(), shapes.DEFAULT):
        assert set(table) == set(VECTORS)
    assert shapes.DEFAULT not in shapes.OVERRIDES.values()  # or it is no override


def test_architecture_of_a_cuda_device(monkeypatch):
    asked = []

    def capability(device):
        asked.append(device)
        return {0: (9, 0), 1: (10, 0)}[device.index]

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    for _ in range(2):
        assert shapes.architecture(torch.device("cuda", 0)) == "sm_90"
        assert shapes.architecture(torch.device("cuda", 1)) == "sm_100"
    assert len(asked) == 2  # once for each device


def test_architecture_of_a_rocm_device(monkeypatch):
    properties = SimpleNamespace(gcnArchName="gfx942:sramecc+:xnack-")
    monkeypatch.setattr(torch.version, "hip", "6.2")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert shapes.architecture(torch.device("cuda", 0)) == "gfx942"
    assert shapes.flat_shape(MANY[4], 4, False, torch.device("cuda", 0)) == (1024, 4)


def test_devices_without_an_architecture():
    assert shapes.architecture(None) == ""
    assert shapes.architecture(torch.device("cpu")) == ""
    assert shapes.architecture(torch.device("xpu", 0)) == ""


@pytest.mark.parametrize("vector", VECTORS)
def test_only_large_tensors_get_large_shapes(vector):
    assert shapes.flat_shape(MANY[vector] - vector, vector, False) == shapes.SMALL
    assert shapes.flat_shape(MANY[vector], vector, False) == shapes.DEFAULT[vector]
    assert shapes.flat_shape(MANY[vector], vector, True) == shapes.DEFAULT[vector]


def test_one_program_finishes_a_small_sum():
    assert shapes.flat_shape(4 * 256, 4, True) == (256, 4)
    assert shapes.flat_shape(4 * 256 + 1, 4, True) == (1024, 8)
    assert shapes.flat_shape(4 * 4096, 4, True) == (4096, 16)
    assert shapes.flat_shape(4 * 4096 + 1, 4, True) == shapes.SMALL  # many programs


def test_the_environment_overrides_large_shapes(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1024, 8")
    assert shapes.large_shape(4, "sm_90") == (1024, 8)
    assert shapes.flat_shape(MANY[4], 4, False) == (1024, 8)
    assert shapes.flat_shape(4, 4, False) == shapes.SMALL


@pytest.mark.parametrize(
    "asked", ["512", "512,4,1", "512,", "512;4", "a,b", "-512,4", "500,4", "512,3", "64,4", "0,0",
              "2048,64"]
)  # fmt: skip
def test_a_malformed_override_is_an_error(monkeypatch, asked):
    monkeypatch.setenv(VARIABLE, asked)
    with pytest.raises(ValueError, match=VARIABLE) as error:
        shapes.large_shape(4, "sm_90")
    assert repr(asked) in str(error.value)
    assert "groups,warps" in str(error.value)


@pytest.mark.parametrize("vector", VECTORS)
def test_no_segment_lies_inside_a_tile(vector):
    """A tile that is split has room for two sums."""
    pytest.importorskip("triton")
    from fused_reparam.backends.triton import launch

    for only in (None, shapes.sparse_shape(vector, "sm_90")):
        most = (only or shapes.SEGMENT[-1]).groups * vector
        for length in range(most - 3 * vector, most + vector):
            config = launch.launch_configuration(4096 * length, 4096, vector, None, only)
            assert config.segment_groups or config.shape.groups * vector <= length
