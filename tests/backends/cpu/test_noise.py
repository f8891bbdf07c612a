"""The native backend's noise stream, in every form that this machine runs."""

import math
from pathlib import Path

import pytest
import torch

from fused_reparam.backends import cpu
from tests.helpers import golden
from tests.helpers.cpu_truth import DTYPES, ROUNDING, make_key, nans, needs_native, np, stream
from tests.helpers.loops import where

pytestmark = needs_native


@pytest.mark.usefixtures("isa")
def test_golden_noise():
    for case in golden.CASES:
        with where(case["seed"]):
            key = make_key(case["seed"], case["offset"])
            for name, dtype, tolerance in (
                ("normal_float32", torch.float32, 4e-6),
                ("normal_float64", torch.float64, 1e-12),
            ):
                out = nans(len(case[name]), dtype=dtype)
                cpu.normal(key, out)
                assert np.abs(out.double().numpy() - np.array(case[name])).max() <= tolerance


@pytest.mark.parametrize(
    ("seed", "offset"), [(0, 0), (2**64 - 1, 5), (9, 2**32 - 70), (77, 2**64 - 300)]
)
@pytest.mark.usefixtures("isa")
def test_noise_of_all_lengths(seed, offset):
    for n in [1, 3, 17, 127, 2047, 2048, 4097, 30_011]:
        with where(n):
            key = make_key(seed, offset)
            for dtype in DTYPES:
                memory = nans(n + 2, dtype=dtype)
                cpu.normal(key, memory[1:-1])
                assert memory[0].isnan()
                assert memory[-1].isnan()
                expected = stream(seed, offset, n, dtype == torch.float64)
                tolerance = 1e-12 if dtype == torch.float64 else 4e-6
                error = np.abs(memory[1:-1].double().numpy() - expected)
                assert (
                    error <= tolerance + ROUNDING[dtype] * np.abs(expected) * 1.01 + 2**-25
                ).all() or (dtype == torch.float64 and error.max() <= tolerance)


@pytest.mark.usefixtures("isa")
def test_noise_error_and_tail():
    n = 1 << 22
    out = nans(n, dtype=torch.float32)
    cpu.normal(make_key(3), out)
    expected = stream(3, 0, n)
    assert np.abs(out.numpy() - expected).max() < 2e-6
    assert np.abs(expected).max() > 5


@pytest.mark.usefixtures("isa")
def test_forms_agree_and_round_once():
    n = 65_536
    exact = nans(n, dtype=torch.float32)
    cpu.normal(make_key(11), exact)
    for dtype in (torch.bfloat16, torch.float16):
        out = nans(n, dtype=dtype)
        cpu.normal(make_key(11), out)
        assert torch.equal(out, exact.to(dtype))
    before = cpu.isa()
    cpu.set_isa("portable")
    plain = nans(n, dtype=torch.float32)
    cpu.normal(make_key(11), plain)
    cpu.set_isa(before)
    assert (plain - exact).abs().max() < 4e-6


@pytest.mark.slow
def test_more_than_two_to_the_31_elements():
    """Only the noise, in 16 bits: 4 GB. The last elements must be those of their own index."""
    if not _has_memory(6 << 30):
        pytest.skip("needs 6 GB of memory")
    n = 2**31 + 4097
    out = torch.empty(n, dtype=torch.bfloat16)
    out[-5000:] = math.nan
    cpu.normal(make_key(21, 2**32 - 2**29), out)
    first = (n - 4096) // 4
    expected = stream(21, 2**32 - 2**29 + first, n - 4 * first)
    error = np.abs(out[4 * first :].double().numpy() - expected)
    assert (error <= 4e-6 + 2**-8 * np.abs(expected)).all()


def _has_memory(amount):
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 > amount
    except OSError:
        pass
    return False
