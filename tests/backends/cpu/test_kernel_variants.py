"""The native backend's kernels for the usual call compute what those for any call compute."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from fused_reparam import noise
from fused_reparam.backends import cpu
from fused_reparam.core.scales import SCALE_KINDS
from tests.helpers import gaussian_calls as gaussian
from tests.helpers.loops import where

CPU = torch.device("cpu")
INF = math.inf
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Within a tile, over several, and large enough to be fetched ahead; none a multiple of a step.
SIZES = (5, 4099, 300_007)

pytestmark = [
    pytest.mark.usefixtures("isa"),
    pytest.mark.skipif(
        cpu.unavailable_reason(CPU) is not None, reason=str(cpu.unavailable_reason(CPU))
    ),
]


def operands(n: int, dtype: torch.dtype):
    mu, x, grad = (torch.randn(n).to(dtype) for _ in range(3))
    return mu, x.abs() + 0.25, grad


def both_ways(mu, x, grad, grad_kl, kind, bounds):
    """z, KL and gradients; bounds that bind nothing keep a call from being the usual one."""
    compute = torch.float64 if mu.dtype == torch.float64 else torch.float32
    key = noise.key(3, 5)
    z, to_mu, to_x = (torch.full_like(mu, math.nan) for _ in range(3))
    kl = torch.full((), math.nan, dtype=compute)
    factor = 1 / mu.numel()
    gaussian.forward(cpu, mu, x, key, None, kind, *bounds, factor, True, z, kl)
    gaussian.backward(
        cpu,
        grad,
        grad_kl.to(compute),
        mu,
        x,
        key,
        None,
        kind,
        *bounds,
        factor,
        True,
        to_mu,
        to_x,
    )
    return z, kl, to_mu, to_x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_usual_call_gives_the_bits_of_the_general_one(dtype):
    for kind, n in product(range(len(SCALE_KINDS)), SIZES):
        with where(kind, n):
            arguments = (*operands(n, dtype), torch.tensor(2.0), kind)
            usual = both_ways(*arguments, (-INF, INF))
            general = both_ways(*arguments, (-1e30, 1e30))
            for a, b in zip(usual, general, strict=True):
                assert not a.isnan().any()
                assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_nan_keeps_being_one_when_it_is_rounded(dtype):
    # All bits of this NaN are set: carried into the upper half, they would become a zero.
    grad_kl = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    mu, x, grad = operands(40, dtype)
    _, _, to_mu, to_x = both_ways(mu, x, grad, grad_kl, 0, (-INF, INF))
    assert to_mu.isnan().all()
    assert to_x.isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("keyword", ["logvar", "log_std"])
def test_coarse_exponential_is_as_near_as_16_bits_can_show(dtype, keyword):
    """z with noise 1 is sigma rounded; the KL, in float32, is nearer than 16 bits could be."""
    x = torch.linspace(-40, 20 if dtype == torch.float16 else 80, 4001).to(dtype)
    kind = SCALE_KINDS.index(keyword)
    mu, eps = torch.zeros_like(x), torch.ones_like(x)
    z, kl = torch.full_like(x, math.nan), torch.full((x.numel(),), math.nan)
    gaussian.forward(cpu, mu, x, None, eps, kind, -INF, INF, 1.0, True, z, kl)
    sigma = torch.exp(x.double() * (0.5 if keyword == "logvar" else 1.0))
    spacing = torch.finfo(dtype).eps * sigma + torch.finfo(dtype).smallest_normal * 2**-9
    fits = sigma < torch.finfo(dtype).max
    assert ((z.double() - sigma).abs() <= 0.502 * spacing)[fits].all()
    want = 0.5 * (sigma**2 - 1 - 2 * sigma.log())
    tolerance = 2e-5 * (1 + sigma**2 + 2 * sigma.log().abs())
    assert ((kl.double() - want).abs() <= tolerance)[sigma < 1e18].all()
