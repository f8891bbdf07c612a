"""The machine code of the kernels that draw PyTorch's numbers, for GPUs that need not be here."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")
from tests.helpers.machine_code import run

# Each kernel with most slices in both widths, and each with one slice in one of them.
COMPILED = [
    *(("float32", name, 4) for name in ("fill", "gaussian_forward", "gaussian_backward")),
    *(("bfloat16", name, 4) for name in ("gaussian_forward", "gaussian_backward")),
    *(("float16", name, 1) for name in ("fill", "gaussian_forward", "gaussian_backward")),
]


def test_kernels_compile_with_wide_accesses():
    """For a large tensor: 128-bit accesses in the path without masks, and no registers spilled."""
    code = (
        "from tests.helpers import aot\n"
        "from fused_reparam.backends.triton.kernels import torch_stream as s\n"
        "kernels = []\n"
        f"for dtype, name, slices in {COMPILED!r}:\n"
        "    kernel, q = getattr(s, name + '_kernel'), 2048 // aot.BYTES[dtype]\n"
        "    types = dict.fromkeys(kernel.arg_names, '*' + aot.TYPES[dtype])\n"
        "    types |= dict.fromkeys(('n', 'threads', 'seed', 'block'), 'i64')\n"
        "    types |= dict.fromkeys(('low', 'high', 'factor'), 'fp64')\n"
        "    types |= dict.fromkeys(('kl', 'grad_kl'), '*fp32')\n"
        "    constants = dict(SLICES=slices, Q=q, MATH=1)\n"
        "    if name != 'fill':\n"
        "        constants |= dict(KIND=0, CLAMP=False)\n"
        "    found = aot.compile_kernel(kernel, 'sm_90', types, constants, 4)\n"
        "    kernels.append(aot.Kernel(found, 'sm_90', dtype, name, slices * q // 128))\n"
        "for one in aot.listings(kernels):\n"
        "    print(one.spills, len([a for a in one.accesses if '.128' in a]))\n"
    )
    lines = [line.split() for line in run("-c", code).splitlines()]
    for (dtype, name, slices), (spills, wide) in zip(COMPILED, lines, strict=True):
        tensors = {"fill": 1, "gaussian_forward": 3, "gaussian_backward": 5}[name]
        if name != "fill":  # which serves rare ways only
            assert spills == "0", (dtype, name, slices)
        assert int(wide) >= tensors * slices, (dtype, name, slices, wide)
