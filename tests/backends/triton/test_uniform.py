"""Triton's uniform numbers of the stream: their words, and logarithms in both tails."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.triton_truth import DEVICE, needs_backend, np, philox_words

pytest.importorskip("triton")
import triton
import triton.language as tl

from fused_reparam.backends.triton import launch
from fused_reparam.backends.triton.kernels import keys, uniform

pytestmark = [
    needs_backend,
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]
SEED, OFFSET = 2**62 + 5, 2**32 - 2
HALF, END = 2**31, 2**32
WORDS = [0, 1, 2, 7, 2**16, HALF - 64, HALF - 1, HALF, HALF + 1, HALF + 2**30, END - 2**30,
         END - 2**28, END - 2**12, END - 3, END - 2, END - 1]  # fmt: skip


@triton.jit
def logs_kernel(words, lows, logs, gumbels, N: tl.constexpr, MATH: tl.constexpr):
    at = tl.arange(0, N)
    word = tl.load(words + at).to(tl.uint32)
    if lows is None:
        v, upper = uniform.uniform32(word)
    else:
        v, upper = uniform.uniform64(word, tl.load(lows + at).to(tl.uint32))
    tl.store(logs + at, uniform.log_uniform(v, upper, MATH))
    tl.store(gumbels + at, uniform.gumbel(v, upper, MATH))


@triton.jit
def words_kernel(out, seed: i64, offset: i64, WORDS: tl.constexpr, MATH: tl.constexpr):  # noqa: F821
    seed, offset = keys.read_key(out, seed, offset, 0)
    counter = offset + (tl.arange(0, 4) * (WORDS // 4)).to(tl.uint64)
    even, odd = uniform.even_odd_words(counter, seed, WORDS, MATH)
    word = tl.reshape(tl.join(even, odd), (4 * WORDS,))
    tl.store(out + tl.arange(0, 4 * WORDS), word.to(tl.int64))


@triton.jit
def numbers_kernel(same, seed: i64, offset: i64, VEC: tl.constexpr, MATH: tl.constexpr):  # noqa: F821
    seed, offset = keys.read_key(same, seed, offset, 0)
    start = tl.full((), 40, tl.int64)
    group = tl.arange(0, 4)
    at = (group * VEC)[:, None] + tl.arange(0, VEC)[None, :]
    v, upper = uniform.uniform_tile(seed, offset, start, group, 4, VEC, MATH)
    one, above = uniform.uniform_at(seed, offset, start + at, VEC == 2, MATH)
    tl.store(same + at, ((v == one) & (upper == above)).to(tl.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_words(dtype):
    """ln u and Gumbel noise of the words at both ends and beside the middle."""
    words = torch.tensor(WORDS, device=DEVICE)
    low = words.flip(0) if dtype == torch.float64 else None
    n = words.numel()
    logs, gumbels = (torch.full((n,), math.nan, dtype=dtype, device=DEVICE) for _ in range(2))
    form = launch.math_form(DEVICE, 16 // dtype.itemsize)
    logs_kernel[(1,)](words, low, logs, gumbels, n, form)
    for i in range(n):
        word = words[i].item() if low is None else words[i].item() << 32 | low[i].item()
        top = END if low is None else END * END
        u, rest = (word + 0.5) / top, (top - word - 0.5) / top
        if low is not None:  # exact before it is rounded
            u, rest = (2 * word + 1) / (2 * top), (2 * (top - word) - 1) / (2 * top)
        want = math.log(u) if u < 0.5 else math.log1p(-rest)
        relative = 3e-7 if low is None else 1e-15
        # The hardware's logarithm errs by 2^-22 near 1.
        absolute = 2e-6 if low is None and DEVICE.type != "cpu" else relative
        assert logs[i].item() == pytest.approx(want, rel=relative)
        assert gumbels[i].item() == pytest.approx(-math.log(-want), rel=relative, abs=absolute)


@pytest.mark.parametrize("count", [4, 8, 16])
def test_words_keep_their_order(count):
    out = torch.full((4 * count,), -1, device=DEVICE)
    words_kernel[(1,)](out, SEED, OFFSET, count, launch.math_form(DEVICE, 4))
    want = np.stack(philox_words(SEED, OFFSET, 16), axis=1).reshape(-1)[: 4 * count]
    assert out.tolist() == want.astype(np.int64).tolist()


@pytest.mark.parametrize("vector", [2, 4, 8])
def test_single_elements_are_those_of_the_tile(vector):
    same = torch.zeros(4 * vector, dtype=torch.int64, device=DEVICE)
    numbers_kernel[(1,)](same, SEED, OFFSET, vector, launch.math_form(DEVICE, vector))
    assert same.all()
