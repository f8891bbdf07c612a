"""The accurate logarithm that CUDA's library has, as a kernel of its own."""

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
core = tl.core


@core.extern
def _library_log(x, _semantic=None):
    kinds = {(core.dtype("fp32"),): ("__nv_logf", core.dtype("fp32"))}
    return core.extern_elementwise("", "", [x], kinds, is_pure=True, _semantic=_semantic)


@triton.jit
def _log_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=1.0)
    tl.store(out_ptr + at, _library_log(x), mask=at < n)


def logarithm_on(machine):
    """A function of numpy arrays, computed by the machine."""

    def logarithm(values: np.ndarray) -> np.ndarray:
        x, out = torch.from_numpy(values.copy()), torch.empty(values.size)
        machine.tensors = x, out
        _log_kernel[(-(-values.size // 1024),)](x, out, values.size, 1024)
        machine.raise_pending()
        return out.numpy()

    return logarithm
