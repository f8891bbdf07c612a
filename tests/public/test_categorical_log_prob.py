"""The log-likelihood of classes, against its formula in float64 and PyTorch's distribution."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Categorical

from fused_reparam import categorical_log_prob
from tests.helpers.loops import where

DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
INTEGERS = (
    torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8,
)  # fmt: skip


def exactly(index, logits):
    """The log-likelihood of classes along the last dim, and the logits' gradient of its sum."""
    x = logits.detach().double()
    of_class = torch.nn.functional.one_hot(index, x.shape[-1]).double()
    far = x - x.amax(-1, keepdim=True)
    log_sum = far.exp().sum(-1, keepdim=True).log()
    value = (torch.where(of_class == 1, far, 0.0).sum(-1, keepdim=True) - log_sum).squeeze(-1)
    return value, of_class - (far - log_sum).exp()


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_values_and_gradients(scale):
    torch.manual_seed(0)
    for dtype in DTYPES:
        with where(dtype):
            logits = (scale * torch.randn(50, 7)).clamp(-1e4, 1e4).to(dtype)
            logits[0, :2] = torch.tensor([1e4, -1e4])
            index = torch.arange(50) % 7
            index[0] = 1
            logits.requires_grad_()
            got = categorical_log_prob(index, logits)
            want, of_logits = exactly(index, logits)
            wide = torch.float64 if dtype is torch.float64 else torch.float32
            unit = torch.finfo(wide).eps
            assert got.dtype == wide
            torch.testing.assert_close(got.double(), want, rtol=4 * unit, atol=4 * unit)
            (grad,) = torch.autograd.grad(got.sum(), logits)
            unit = torch.finfo(dtype).eps
            torch.testing.assert_close(grad.double(), of_logits, rtol=unit, atol=8 * unit)


def test_masked_classes():
    """As torch.distributions.Categorical has them, and no NaN."""
    logits = torch.tensor(
        [[0.5, -math.inf, 1.0, -math.inf], [-math.inf, 1e4, -math.inf, -1e4]],
        dtype=torch.float64, requires_grad=True,
    )  # fmt: skip
    for classes in ([0, 1], [2, 3], [1, 0], [3, 2]):
        index = torch.tensor(classes)
        got = categorical_log_prob(index, logits)
        want = Categorical(logits=logits, validate_args=False).log_prob(index)
        assert torch.equal(got.isinf(), want.isinf())
        torch.testing.assert_close(got, want)
        (grad,), (other,) = (torch.autograd.grad(t.sum(), logits) for t in (got, want))
        assert not grad.isnan().any()
        torch.testing.assert_close(grad, other)


def test_any_integers():
    logits = torch.randn(6, 5)
    want = categorical_log_prob(torch.arange(6) % 5, logits)
    for dtype in INTEGERS:
        with where(dtype):
            index = (torch.arange(6) % 5).to(dtype)
            assert torch.equal(categorical_log_prob(index, logits), want)


@pytest.mark.parametrize("dim", [1, -3, -1, 0, 3])
def test_the_dim_of_the_classes(dim):
    torch.manual_seed(1)
    logits = torch.randn(4, 5, 3, 6, dtype=torch.float64, requires_grad=True)
    last = logits.movedim(dim, -1)
    index = torch.randint(last.shape[-1], last.shape[:-1])
    want, of_last = exactly(index, last)
    got = categorical_log_prob(index, logits, dim)
    torch.testing.assert_close(got, want)
    (grad,) = torch.autograd.grad(got.sum(), logits)
    torch.testing.assert_close(grad.movedim(dim, -1), of_last)


@pytest.mark.parametrize(
    ("of_index", "of_logits", "dim"),
    [
        ((4,), (3, 4, 5), -1),  # labels against samples of logits
        ((3, 4), (4, 5), -1),  # several labels for each
        ((3, 4, 2), (4, 5, 1), 1),
        ((3, 4, 2), (4, 5, 1), -2),
        ((), (5,), 0),
        ((), (4, 5), 1),
        ((1, 6), (2, 1, 5), 2),
        ((6,), (5,), 0),
    ],
    ids=str,
)
def test_shapes_that_broadcast(of_index, of_logits, dim):
    torch.manual_seed(2)
    index = torch.randint(5, of_index)
    logits = torch.randn(of_logits, dtype=torch.float64, requires_grad=True)
    law = Categorical(logits=logits.movedim(dim, -1))
    got, want = categorical_log_prob(index, logits, dim), law.log_prob(index)
    torch.testing.assert_close(got, want)
    incoming = torch.randn_like(want)
    (grad,), (other,) = (torch.autograd.grad(t, logits, incoming) for t in (got, want))
    torch.testing.assert_close(grad, other)


def test_reductions():
    torch.manual_seed(3)
    logits, index = torch.randn(3, 7, 4, 5), torch.randint(7, (3, 4, 5))
    each = Categorical(logits=logits.movedim(1, -1)).log_prob(index)
    for option, want in {
        "none": each,
        "sum": each.sum(),
        "mean": each.mean(),
        "batchmean": each.sum() / 3,
        "sample": each.flatten(1).sum(1),
        -1: each.sum(-1),
        (0, 2): each.sum((0, 2)),
        (1, 2): each.sum((1, 2)),
        (): each,
    }.items():
        how = {"reduction" if isinstance(option, str) else "dims": option}
        with where(how):
            torch.testing.assert_close(categorical_log_prob(index, logits, 1, **how), want)


def test_derivatives_of_second_order():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 3, 3])
    assert gradcheck(lambda x: categorical_log_prob(index, x), logits)
    assert gradgradcheck(lambda x: categorical_log_prob(index, x), logits)


def test_what_is_wrong():
    logits, index = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    for wrong, says in (
        (index.float(), r"tensor of integers.*a tensor of shape \(4,\), torch.float32"),
        (index.bool(), "torch.bool"),
        (1, "index must be a tensor of integers, got 1 of type int"),
        ([1, 2], "torch.as_tensor"),
    ):
        with pytest.raises(TypeError, match=says):
            categorical_log_prob(wrong, logits)
    with pytest.raises(TypeError, match=r"logits must be .*torch.int64"):
        categorical_log_prob(index, index)
    with pytest.raises(ValueError, match=r"logits \(4, 3\), which are \(4,\), got \(5,\)"):
        categorical_log_prob(torch.zeros(5, dtype=torch.int64), logits)
    with pytest.raises(ValueError, match="have no dim 2"):
        categorical_log_prob(index, logits, 2)
    with pytest.raises(ValueError, match="index on cpu and logits on meta"):
        categorical_log_prob(index, logits.to("meta"))
    with pytest.raises(ValueError, match="reduction or dims"):
        categorical_log_prob(index, logits, reduction="sum", dims=0)
    for outside in (3, -1):
        with pytest.raises(RuntimeError, match="out of bounds"):
            categorical_log_prob(index + outside, logits)
