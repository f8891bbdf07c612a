"""What parameters may be: of several dtypes, integers, at their limits."""

import contextlib

import pytest
import torch
from torch import distributions as T
from torch.distributions import kl_divergence

from fused_reparam import distributions as D
from tests.helpers.distribution_cases import close

PAIRS = ("Normal", "LogNormal", "Laplace", "Gumbel", "Cauchy", "Weibull", "Pareto", "Kumaraswamy")


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor(2.0), torch.tensor([1, 2, 3])),
        (torch.tensor([2, 1, 3]), torch.tensor([[1.0], [2.0]], dtype=torch.bfloat16)),
        (torch.tensor([1.0, 2.0], dtype=torch.float16), torch.tensor(2.0)),
        (torch.tensor(2.0), torch.tensor(1.5, dtype=torch.float64)),
    ],
)
def test_dtypes_are_promoted(kind, one, other):
    """All that a distribution gives has one dtype, which is that of PyTorch's log-densities."""
    dtype = torch.promote_types(one.dtype, other.dtype)
    ours, theirs = getattr(D, kind)(one, other), getattr(T, kind)(one.to(dtype), other.to(dtype))
    value = torch.tensor(3.5 if kind == "Pareto" else 0.75, dtype=dtype)
    narrowest = min(t.dtype.itemsize for t in (one, other))
    log_prob = ours.log_prob(value)
    close(log_prob.double(), theirs.log_prob(value).double(), 0.05 if narrowest < 4 else 1e-5)
    z, with_log_prob = ours.rsample_and_log_prob((2,))
    found = [ours.sample(), z, log_prob, with_log_prob]
    if kind != "Kumaraswamy":
        with contextlib.suppress(NotImplementedError):
            found += [kl_divergence(ours, ours), ours.rsample_and_kl(ours)[1]]
    assert {t.dtype for t in found} == {dtype}


def test_probabilities_of_0_and_1_have_moments():
    """PyTorch holds them off the ends."""
    for probs in (0.0, 1.0, torch.tensor([0.0, 1.0, 0.3])):
        ours, theirs = D.ContinuousBernoulli(probs), T.ContinuousBernoulli(probs)
        for name in ("probs", "mean", "variance"):
            close(getattr(ours, name), getattr(theirs, name), 1e-6)
        close(ours.entropy(), theirs.entropy(), 1e-5)


def test_a_continuous_bernoulli_far_out():
    """-log_prob(0) of -l is that of 1 of l, log l: the two halves of l must not swallow it."""
    logits = torch.tensor([-1e38, -1e4, -2.0, -0.5, 0.0], requires_grad=True)
    zero, one = torch.zeros(5), torch.ones(5)
    wide = logits.detach().double()
    want = torch.log(wide / torch.expm1(wide)).nan_to_num()
    ours = D.ContinuousBernoulli(logits=logits)
    close(ours.log_prob(zero), want.float(), 1e-5)
    close(D.ContinuousBernoulli(logits=-logits).log_prob(one), want.float(), 1e-5)
    grad = torch.autograd.grad(ours.log_prob(zero).sum(), logits)[0]
    slope = 1.0 / wide - 1.0 / -torch.expm1(-wide)
    close(grad[:4], slope[:4].float(), 1e-4)
    close(grad[4], torch.tensor(-0.5))


def test_bounds_that_are_tensors_are_compared_where_something_is_validated():
    """Elsewhere a device would be waited for: meta tensors have nothing to compare."""
    loc, low = torch.zeros(3), torch.full((3,), -2.0)

    def made(validate_args, low, high=1.0):
        return D.TanhNormal(loc, 1.0, low, high, validate_args=validate_args)

    with pytest.raises(NotImplementedError, match="other bounds"):
        kl_divergence(made(True, low), made(False, 2.0 * low))
    assert kl_divergence(made(True, low), made(True, low.clone())).shape == (3,)
    assert kl_divergence(made(False, low), made(False, low.clone())).shape == (3,)
    with pytest.raises(NotImplementedError, match="other bounds"):
        kl_divergence(made(False, low), made(False, low, 2.0))
