"""Likelihoods of values around a location: Laplace, Student's t, the discretized logistic."""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import mpmath
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Laplace, StudentT

from fused_reparam import discretized_logistic_log_prob, laplace_log_prob, student_t_log_prob
from tests.helpers.formulas import within_twice_the_error
from tests.helpers.loops import where

DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
mp = mpmath.mp.clone()
mp.dps = 80
HALF = 1 / 255
"""Of a bin of 8-bit images in [-1, 1]."""


class Likelihood(NamedTuple):
    ours: Callable
    written: Callable
    """As users write it."""
    exactly: Callable
    """The log-likelihood and its derivatives, and the sizes of what these are sums of."""
    others: tuple
    """Beyond values, locations and scales: values of each further parameter."""


def laplace(x, loc, scale):
    d = x - loc
    to_x = -mp.sign(d) / scale
    parts = abs(d) / scale, -1
    found = -parts[0] - mp.log(2 * scale), to_x, -to_x, sum(parts) / scale
    return found, (1, 1, 1, (parts[0] + 1) / scale)


def student_t(x, loc, scale, df):
    d, a = x - loc, df / 2
    y = (d / scale) ** 2 / df
    size, share = mp.log(1 + y), y / (1 + y)
    value = mp.loggamma(a + 0.5) - mp.loggamma(a) - mp.log(mp.pi * df) / 2 - mp.log(scale)
    of_gamma = mp.digamma(a + 0.5) - mp.digamma(a) - 1 / df
    to_loc = (df + 1) * d / (df * scale**2 * (1 + y))
    to_df = (of_gamma - size + share + share / df) / 2
    found = value - (df + 1) / 2 * size, -to_loc, to_loc, (df * share - 1 + share) / scale, to_df
    sizes = (df + 1) * size + abs(value), 1, 1, (df + 1) * share / scale + 1 / scale
    return found, (*sizes, size + share / df + 1 / df)


def sigmoid(x):
    return 1 / (1 + mp.exp(-x)) if x > 0 else mp.exp(x) / (1 + mp.exp(x))


def softplus(x):
    return mp.log1p(mp.exp(-abs(x))) + max(x, 0)


def discretized_logistic(x, loc, scale):
    half, d = mp.mpf(HALF), x - loc
    above, below = (d + half) / scale, (d - half) / scale
    first, last = x < -1 + half, x > 1 - half
    t = 2 * half / scale
    parts = (
        0 if first or last else mp.log(-mp.expm1(-t)),
        0 if last else -softplus(-above), 0 if first else -softplus(below),
    )  # fmt: skip
    a, b = 0 if last else sigmoid(-above), 0 if first else sigmoid(below)
    inner = 0 if first or last else t / mp.expm1(t)
    to_loc, of_scale = (b - a) / scale, (below * b, -above * a, -inner)
    found = sum(parts), -to_loc, to_loc, sum(of_scale) / scale
    sizes = sum(map(abs, parts)), (a + b) / scale, (a + b) / scale
    # x + h and x - h are rounded, and so are the quotients, by parts of the location's size.
    moved = (abs(x) + abs(loc) + half) / scale
    sizes = sizes[0] + moved * (a + b), *[s * (1 + moved) for s in sizes[1:]]
    return found, (*sizes, (sum(map(abs, of_scale)) + moved * (1 + moved) * (a + b)) / scale)


def written_bins(x, loc, scale):
    upper, lower = torch.sigmoid((x + HALF - loc) / scale), torch.sigmoid((x - HALF - loc) / scale)
    inner = (x > -0.999) & (x < 0.999)
    of_edges = torch.where(x < 0.0, upper, 1.0 - lower)
    return torch.log(torch.where(inner, upper - lower, of_edges))


ALL = {
    "laplace": Likelihood(
        laplace_log_prob, lambda x, m, s: Laplace(m, s, validate_args=False).log_prob(x), laplace,
        (),
    ),
    "student_t": Likelihood(
        lambda x, m, s, df, **options: student_t_log_prob(x, df, m, s, **options),
        lambda x, m, s, df: StudentT(df, m, s, validate_args=False).log_prob(x), student_t,
        (0.01, 1.0, 7.0, 1e4, 1e10),
    ),
    "discretized_logistic": Likelihood(
        discretized_logistic_log_prob, written_bins, discretized_logistic, ()
    ),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", ALL)


def leaves(name, dtype, device="cpu", shape=(6, 5, 7)):
    """Values of which some are their loc; of a grid some are its ends."""
    x, loc = torch.randn(2, *shape)
    if name == "discretized_logistic":  # with a scale at which the difference keeps digits
        x, loc = (x * 64 + 127).clamp(0, 255).round() / 127.5 - 1, 0.3 * loc
        x[0, 0], x[0, 1] = -1.0, 1.0
    else:
        loc[0] = x[0]
    made = (
        x,
        loc,
        (0.3 * torch.randn(shape)).exp(),
        *[torch.rand(shape) + 1 for _ in ALL[name].others[:1]],
    )
    return [t.to(device, dtype).requires_grad_() for t in made]


def with_gradients(call, inputs):
    found = call(*inputs)
    incoming = torch.linspace(-1.0, 2.0, found.numel(), device=found.device).view(found.shape)
    return found, *torch.autograd.grad(found, inputs, incoming.to(found.dtype))


def as_written(name, inputs):
    """In the dtype of the inputs; but the difference of two sigmoids in 16 bits is mostly 0."""
    if name == "discretized_logistic":
        wide = torch.promote_types(inputs[0].dtype, torch.float32)
        inputs = [t.detach().to(wide).requires_grad_() for t in inputs]
    return with_gradients(ALL[name].written, inputs)


@EACH
def test_it_is_what_users_write(name, device):
    ours = ALL[name].ours
    for dtype in DTYPES:
        with where(dtype):
            inputs = leaves(name, dtype, device, (3, 4, 5))
            got, plain = with_gradients(ours, inputs), as_written(name, inputs)
            assert got[0].dtype == torch.promote_types(dtype, torch.float32)
            rows = torch.stack([t.detach().double() for t in inputs], -1).view(-1, len(inputs))
            exact = [ALL[name].exactly(*map(mp.mpf, row))[0] for row in rows.tolist()]
            value, *grads = torch.tensor(exact, dtype=torch.float64).T.reshape(-1, 3, 4, 5)
            incoming = torch.linspace(-1.0, 2.0, 60, dtype=torch.float64).view(3, 4, 5)
            want = value, *[incoming * grad for grad in grads]
            for g, w, p in zip(got, want, plain, strict=True):
                assert within_twice_the_error(g, w, p, roundings=2)


@cache
def truth(name, dtype):
    """Inputs, and the log-likelihood and all derivatives, to 80 digits."""
    ends = (1e-37, 3e37) if dtype == torch.float32 else (1e-300, 1e300)
    points, scales = (-ends[1], -1.0, 0.0, ends[0], 2.5), (1e-3, 0.7, 30.0, *ends)
    if name == "discretized_logistic":
        points = tuple(k / 127.5 - 1 for k in (0, 1, 127, 200, 254, 255))
    others = [ALL[name].others] if ALL[name].others else []
    # 0 is an end of two bins, which rounding may move to either.
    locs = (0.01 if name == "discretized_logistic" else 0.0, 1.0)
    rows = torch.tensor([*product(points, locs, scales, *others)], dtype=dtype)
    return rows, [ALL[name].exactly(*map(mp.mpf, row)) for row in rows.tolist()]


@EACH
def test_far_out(name, device):
    """Relative to the number or what it is a sum of; infinite beyond the dtype, and never NaN."""
    for dtype in (torch.float32, torch.float64):
        rows, right = truth(name, dtype)
        inputs = [t.to(device).requires_grad_() for t in rows.unbind(-1)]
        found = ALL[name].ours(*inputs)
        each = torch.stack((found, *torch.autograd.grad(found.sum(), inputs)), -1).tolist()
        limits = torch.finfo(dtype)
        for got, (want, sizes), row in zip(each, right, rows.tolist(), strict=True):
            with where(dtype, *row):
                for at, (g, w, size) in enumerate(zip(got, want, sizes, strict=True)):
                    with where(at):
                        if abs(w) > limits.max:
                            assert g == (float("inf") if w > 0 else -float("inf"))
                        else:
                            bound = 16 * limits.eps * max(1, size, abs(w))
                            assert abs(mp.mpf(g) - w) <= bound


@EACH
def test_a_gradient_of_zero_stays_zero(name, device):
    rows, _ = truth(name, torch.float32)
    inputs = [t.to(device).requires_grad_() for t in rows.unbind(-1)]
    found = ALL[name].ours(*inputs)
    for grad in torch.autograd.grad(found, inputs, torch.zeros_like(found)):
        assert not grad.any()


@EACH
def test_not_a_number(name, device):
    for at in range(3 + bool(ALL[name].others)):
        inputs = [torch.full((3,), 0.5, device=device) for _ in range(3 + bool(ALL[name].others))]
        inputs[at][1] = float("nan")
        assert ALL[name].ours(*inputs).isnan().tolist() == [False, True, False]


@EACH
def test_reductions_and_shapes(name, backend):
    ours, written, *_ = ALL[name]
    x, loc, scale, *others = inputs = leaves(name, torch.float64)
    each = written(*inputs)
    for options, want in (
        ({}, each), ({"reduction": "sum"}, each.sum()), ({"reduction": "mean"}, each.mean()),
        ({"reduction": "sample"}, each.sum((1, 2))), ({"dims": (0, 2)}, each.sum((0, 2))),
        ({"reduction": "batchmean"}, each.sum() / 6),
    ):  # fmt: skip
        torch.testing.assert_close(ours(*inputs, **options), want)
    of_numbers = ours(x, 0.5, 2.0, *[3.0 for _ in others])
    same = [torch.full_like(x, value) for value in (0.5, 2.0, *[3.0 for _ in others])]
    torch.testing.assert_close(of_numbers, written(x, *same))
    for few in (scale[0, 0, 0], scale[:1, :, :1]):  # a learned number, and one of each row
        one = few.detach().clone().requires_grad_()
        given = x, loc, one, *[o[0, 0, 0].detach().clone().requires_grad_() for o in others]
        got = with_gradients(lambda *t: ours(*t, dims=-1), given)
        want = with_gradients(lambda *t: written(*t).sum(-1), given)
        torch.testing.assert_close(got, want)


@EACH
def test_derivatives(name, backend):
    inputs = leaves(name, torch.float64, shape=(2, 3))
    inputs[1].data += 0.5

    def call(*given):
        return ALL[name].ours(*given, dims=-1)

    if name == "discretized_logistic":  # whose values are on a grid
        inputs[0].requires_grad_(False)
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0)])
def test_bins_sum_to_one(low, high, device):
    values = torch.linspace(low, high, 256, dtype=torch.float64, device=device)
    for loc, scale in ((0.3, 0.1), (-5.0, 2.0), (100.0, 60.0)):
        found = discretized_logistic_log_prob(values, loc, scale, low=low, high=high)
        assert found.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    two = discretized_logistic_log_prob(values[[0, -1]], 0.0, 1.0, bins=2, low=low, high=high)
    assert two.exp().sum().item() == pytest.approx(1.0, abs=1e-12)


@EACH
def test_what_is_wrong(name):
    ours, x = ALL[name].ours, torch.full((4, 3), 0.5)
    rest = [x for _ in ALL[name].others[:1]]
    with pytest.raises(TypeError, match="x must be a floating tensor, got 1 of type int"):
        ours(1, x, x, *rest)
    with pytest.raises(TypeError, match=r"x must be float32.*got torch\.uint8 of shape \(4, 3\)"):
        ours(x.byte(), x, x, *rest)
    with pytest.raises(ValueError, match=r"broadcast, got x \(4, 3\).*loc \(5,\)"):
        ours(x, torch.zeros(5), 1.0, *[1.0 for _ in rest])
    with pytest.raises(ValueError, match="reduction must be one of"):
        ours(x, x, x, *rest, reduction="avg")


def test_what_is_no_grid():
    x = torch.zeros(3)
    with pytest.raises(ValueError, match=r"at least 2 bins and low < high; got bins=1"):
        discretized_logistic_log_prob(x, x, 1.0, bins=1)
    with pytest.raises(ValueError, match=r"low < high; got bins=256, low=1\.0, high=1\.0"):
        discretized_logistic_log_prob(x, x, 1.0, low=1.0)
    with pytest.raises(TypeError, match="bins must be an integer"):
        discretized_logistic_log_prob(x, x, 1.0, bins=2.5)
