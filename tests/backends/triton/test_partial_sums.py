"""The kernel that adds up partial sums: many, and of segments that begin inside a tile."""

import pytest
import torch

from tests.helpers.machine_code import run

triton = pytest.importorskip("triton")

from fused_reparam.backends.triton.kernels import finish  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def finished(sums, tiles, length, segments, samples, slots, tile, block):
    kl = torch.full((samples, segments), torch.nan, device=DEVICE)
    finish.finish_kernel[(samples * segments,)](
        sums.to(DEVICE), kl, tiles, length, segments, 0.5,
        SLOTS=slots, WHOLE=segments == 1, TILE=tile, BLOCK=block,
    )  # fmt: skip
    return kl.double().cpu()


@pytest.mark.parametrize("tiles", [1, 16384, 40001])
def test_one_segment(tiles):
    sums = torch.randn(2, tiles, generator=torch.Generator().manual_seed(1))
    got = finished(sums, tiles, 8 * tiles, 1, 2, 1, 8, 16384)
    torch.testing.assert_close(got, 0.5 * sums.double().sum(1, keepdim=True), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("block", [2, 4, 64])
@pytest.mark.parametrize("length", [8, 13, 20, 21, 64])
def test_segments_that_begin_inside_a_tile(length, block):
    """A tile of 8 leaves what comes before the boundary inside it, and what comes after."""
    tile, segments, samples = 8, 11, 2
    n = length * segments
    tiles = -(-n // tile)
    x = torch.randn(samples, n, generator=torch.Generator().manual_seed(2))
    sums = torch.zeros(samples, tiles, 2)
    for i in range(n):
        begins_inside = (i // length) * length > (i // tile) * tile
        sums[:, i // tile, int(begins_inside)] += x[:, i]
    got = finished(sums, tiles, length, segments, samples, 2, tile, block)
    want = 0.5 * x.double().view(samples, segments, length).sum(2)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_every_block_stays_in_registers(dtype):
    code = (
        "from tests.helpers import aot\n"
        "from fused_reparam.backends.triton.kernels import finish\n"
        f"types = dict(sums='*{dtype}', kl='*{dtype}', tiles='i64', length='i64', segments='i64',\n"
        "             factor='fp64')\n"
        "for slots in (1, 2):\n"
        "    for block, warps in ((256, 4), (4096, 8), (16384, 32)):\n"
        "        constants = dict(SLOTS=slots, WHOLE=slots == 1, TILE=2048, BLOCK=block)\n"
        "        kernel = finish.finish_kernel\n"
        "        made = aot.compile_kernel(kernel, 'sm_90', types, constants, warps)\n"
        "        print(aot.resources(made.asm['cubin']))\n"
    )
    assert run("-c", code).count("STACK:0") == 6
