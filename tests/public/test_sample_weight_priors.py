"""``sample_weight`` with priors of tensors, mixtures of one part, and noise that is given."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence
from torch.nn import functional as F

from fused_reparam import noise, sample_weight
from fused_reparam.core.reductions import REDUCTIONS
from tests.helpers.loops import where

KEY = noise.key(8)
SHAPE = (6, 5)
# Mean and std, of each column, each row, each weight, all; or more than there are weights.
SHAPES = [((5,), (6, 1)), (SHAPE, ()), ((), SHAPE), ((2, 6, 5), (5,))]


def leaf(shape, low=-1.0, high=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (low + (high - low) * t).to(dtype).requires_grad_()


def weights(dtype=torch.float64):
    return leaf(SHAPE, dtype=dtype), leaf(SHAPE, -3.0, 1.0, dtype=dtype, seed=1)


def log_mixture(w, mean, share, std1, std2):
    shape = torch.broadcast_shapes(w.shape, *(t.shape for t in (mean, share, std1, std2)))
    mean, share, *stds = (t.expand(shape) for t in (mean, share, std1, std2))
    parts = Normal(torch.stack((mean, mean), -1), torch.stack(stds, -1))
    shares = Categorical(probs=torch.stack((share, 1.0 - share), -1))
    return MixtureSameFamily(shares, parts, validate_args=False).log_prob(w)


def reduced(kl, reduction):
    return {
        "none": kl, "sum": kl.sum(), "mean": kl.mean(), "batchmean": kl.sum() / len(kl),
        "sample": kl.flatten(1).sum(1),
    }[reduction]  # fmt: skip


def assert_same(outputs, want, leaves, **tolerance):
    for got, right in zip(outputs, want, strict=True):
        torch.testing.assert_close(got, right, **tolerance)
    found, wanted = (
        torch.autograd.grad((w.sin() * 0.3).sum() + (kl * 0.1).sum(), leaves, retain_graph=True)
        for w, kl in (outputs, want)
    )
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, **tolerance)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_gaussian_of_tensors(reduction, backend):
    for mean_shape, std_shape in SHAPES:
        with where((mean_shape, std_shape)):
            mu, rho = weights()
            mean, std = leaf(mean_shape, seed=2), leaf(std_shape, 0.1, 2.0, seed=3)
            found = sample_weight(mu, rho, mean, std, reduction, key=KEY)
            sigma = F.softplus(rho)
            kl = kl_divergence(Normal(mu, sigma), Normal(mean, std))
            w = mu + sigma * noise.normal(KEY, kl.shape, dtype=torch.float64)
            assert_same(found, (w, reduced(kl, reduction)), (mu, rho, mean, std))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_mixture_of_tensors(reduction, backend):
    for mean_shape, std_shape in SHAPES:
        with where((mean_shape, std_shape)):
            mu, rho = weights()
            mean, share = leaf(mean_shape, seed=2), leaf((5,), 0.1, 0.9, seed=4)
            stds = leaf(std_shape, 0.5, 2.0, seed=3), leaf((), 0.02, 0.2, seed=5)
            found = sample_weight(
                mu, rho, mean, reduction=reduction, mixture=(share, *stds), key=KEY
            )
            sigma, shape = F.softplus(rho), found[0].shape
            w = mu + sigma * noise.normal(KEY, shape, dtype=torch.float64)
            kl = Normal(mu, sigma).log_prob(w) - log_mixture(w, mean, share, *stds)
            want = w, reduced(kl, reduction)
            assert_same(found, want, (mu, rho, mean, share, *stds))


def test_one_tensor_and_numbers_beside_it():
    mu, rho = weights()
    numbers = sample_weight(mu, rho, 0.2, mixture=(0.3, 1.5, 0.05), key=KEY)
    tensors = [torch.tensor(v, dtype=torch.float64).requires_grad_() for v in (0.2, 0.3, 1.5, 0.05)]
    for i, one in enumerate(tensors):
        given = [0.2, 0.3, 1.5, 0.05]
        given[i] = one
        found = sample_weight(mu, rho, given[0], mixture=tuple(given[1:]), key=KEY)
        assert_same(found, numbers, (mu, rho))
        assert torch.autograd.grad(found[1], one)[0].ne(0)
    gaussian = sample_weight(mu, rho, 0.2, 0.5, key=KEY)
    for mean, std in ((tensors[0], 0.5), (0.2, torch.full((5,), 0.5).double())):
        assert_same(sample_weight(mu, rho, mean, std, key=KEY), gaussian, (mu, rho))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_dtypes_are_as_near_as_the_formula(dtype):
    mu, rho = weights(dtype)
    mean, std = leaf((5,), dtype=dtype, seed=2), leaf((5,), 0.5, 2.0, dtype=dtype, seed=3)
    given = mu, rho, mean, std, leaf((), 0.1, 0.9, dtype=dtype, seed=4)
    eps = noise.normal(KEY, SHAPE)

    def formula(kind):
        m, r, p, s, share = (t.detach().to(kind).requires_grad_() for t in given)
        sigma = F.softplus(r)
        w = m + sigma * eps.to(kind)
        log_q = -0.5 * eps.to(kind) ** 2 - sigma.log() - 0.5 * math.log(2.0 * math.pi)
        kl = (log_q - log_mixture(w, p, share, s, torch.full_like(s, 0.25))).sum()
        return w, kl, *torch.autograd.grad(w.sum() + 0.1 * kl, (m, r, p, s, share))

    w, kl = sample_weight(mu, rho, mean, mixture=(given[4], std, 0.25), key=KEY)
    assert (w.dtype, kl.dtype) == (dtype, torch.float32)
    found = w, kl, *torch.autograd.grad(w.sum() + 0.1 * kl.to(dtype), given)
    for got, plain, right in zip(found, formula(dtype), formula(torch.float64), strict=True):
        ours, theirs = ((t.double() - right).abs().max() for t in (got, plain))
        assert ours <= max(2.0 * theirs, 2.0 * torch.finfo(dtype).eps * right.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixture_of_one_part(dtype, target):
    """A share of 1 or 0 is one Gaussian, whichever the other is; the KL is still an estimate."""
    device = target[1]
    mu, rho = (t.detach().to(device).requires_grad_() for t in weights(dtype))
    sigma = F.softplus(rho)
    eps = noise.normal(KEY, SHAPE, dtype=dtype).to(device)
    w = mu + sigma * eps
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 2e-5}
    for share, std1, std2 in ((1, 0.4, 3.0), (1.0, 0.4, 0.01), (0, 3.0, 0.4), (0.0, 0.01, 0.4)):
        prior = Normal(*torch.tensor([0.1, 0.4], dtype=dtype, device=device))
        want = w, Normal(mu, sigma).log_prob(w) - prior.log_prob(w)
        key = KEY.to(device)
        found = sample_weight(mu, rho, 0.1, reduction="none", mixture=(share, std1, std2), key=key)
        assert_same(found, want, (mu, rho), **tolerance)
        share = torch.full((), float(share), dtype=dtype, device=device, requires_grad=True)
        found = sample_weight(mu, rho, 0.1, reduction="none", mixture=(share, std1, std2), key=key)
        assert_same(found, want, (mu, rho), **tolerance)
        assert torch.autograd.grad(found[1].sum(), share)[0].isfinite()


def test_a_mixture_of_tensors_far_out():
    """No part that is far below the other, or infinitely so, makes a NaN; of both derivatives."""
    mu = torch.tensor([0.0, 1e3, 1e8, -1e15]).requires_grad_()
    share = torch.tensor(0.5, requires_grad=True)
    for stds in ((1.0, 1e-3), (1e-3, 1.0), (1.0, 1.0)):
        _, kl = sample_weight(mu, -3.0, mixture=(share, *stds), reduction="none", key=KEY)
        assert kl.isfinite().all()
        grads = torch.autograd.grad(kl.sum(), (mu, share), create_graph=True)
        assert all(g.isfinite().all() for g in grads)
        again = torch.autograd.grad(sum(g.sum() for g in grads), (mu, share))
        assert all(g.isfinite().all() for g in again)
    # Where its square exceeds float32, a KL is infinite, and its gradient is not.
    mu = torch.tensor([1e20, -1e30]).requires_grad_()
    found = []
    for one in (1.0, torch.ones(2)):
        _, kl = sample_weight(mu, 0.0, mixture=(0.5, one, 0.1), reduction="none", key=KEY)
        assert kl.eq(math.inf).all()
        found.append(torch.autograd.grad(kl.sum(), mu)[0])
    torch.testing.assert_close(*found)


def test_a_tensor_of_one_number_broadcasts_as_others_do():
    mu, rho = weights()
    for tensor in (torch.ones(1, 1, 1), torch.ones(1), torch.ones(())):
        for options in (
            {"prior_mean": tensor}, {"prior_std": tensor}, {"mixture": (0.5, tensor, 0.1)}
        ):  # fmt: skip
            assert sample_weight(mu, rho, **options)[0].shape == (mu + tensor).shape


@pytest.mark.parametrize("prior", [{}, {"prior_std": 0.5}, {"mixture": (0.3, 1.5, 0.05)}])
def test_noise_that_is_given(prior, target):
    mu, rho = (t.detach().to(target[1]).requires_grad_() for t in weights())
    eps = noise.normal(KEY, SHAPE, dtype=torch.float64).to(target[1]).requires_grad_()
    found = sample_weight(mu, rho, eps=eps, **prior)
    want = sample_weight(mu, rho, key=KEY.to(target[1]), **prior)
    assert_same(found, want, (mu, rho), rtol=1e-6, atol=1e-6)
    to_eps = torch.autograd.grad(found[0].sum(), eps)[0]
    torch.testing.assert_close(to_eps, F.softplus(rho))


def test_second_derivatives():
    mu, rho = weights()
    mean, share, std = leaf((5,), seed=2), leaf((), 0.1, 0.9, seed=4), leaf((6, 1), 0.5, 2.0)
    for call in (
        lambda m, r, p, s, share: sample_weight(m, r, p, s, key=KEY),
        lambda m, r, p, s, share: sample_weight(m, r, p, mixture=(share, s, 0.3), key=KEY),
    ):
        assert torch.autograd.gradgradcheck(
            lambda *t, call=call: call(*t), (mu[:2], rho[:2], mean, std[:2], share)
        )


WRONG = [
    ({"prior_mean": torch.zeros(4)}, ValueError, r"must have shapes that broadcast, got .*\(4,\)"),
    ({"prior_std": torch.ones(4)}, ValueError, r"must have shapes that broadcast, got .*\(4,\)"),
    ({"mixture": (torch.ones(4), 1.0, 1.0)}, ValueError, r"mixture share .* \(4,\)"),
    ({"prior_std": torch.ones(5), "mixture": (0.5, 1.0, 1.0)}, ValueError, "prior_std or mixture"),
    ({"mixture": (1.5, 1.0, 1.0)}, ValueError, "share must lie between 0 and 1, got 1.5"),
    (
        {"prior_mean": torch.zeros(5).int()},
        TypeError,
        "prior_mean must be float32, .* got torch.int32",
    ),
    ({"eps": torch.zeros(3)}, ValueError, r"eps must have the sample's shape \(6, 5\), got \(3,\)"),
    ({"eps": torch.zeros(SHAPE), "key": KEY}, ValueError, "at most one of key, generator and eps"),
]


@pytest.mark.parametrize(("options", "error", "said"), WRONG)
def test_what_is_wrong(options, error, said):
    with pytest.raises(error, match=said):
        sample_weight(*weights(), **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_several_samples_to_a_mixture_of_tensors(reduction):
    """Each has its own estimate, as to a mixture of numbers."""
    mu, rho = weights()
    mean, share = leaf((5,), seed=2), leaf((), 0.1, 0.9, seed=4)
    for shape in ((2,), (2, 3), (0,)):
        given = {"reduction": reduction, "sample_shape": shape, "key": KEY}
        like = sample_weight(mu, rho, mixture=(0.5, 1.0, 0.1), **given)
        w = mu + F.softplus(rho) * noise.normal(KEY, (*shape, *SHAPE), dtype=torch.float64)
        for mixture in ((0.4, 1.0, 0.1), (share, 1.0, 0.1)):
            found = sample_weight(mu, rho, mean, mixture=mixture, **given)
            assert [t.shape for t in found] == [t.shape for t in like]
            torch.testing.assert_close(found[0], w)
            parts = (torch.as_tensor(v, dtype=torch.float64) for v in mixture)
            kl = Normal(mu, F.softplus(rho)).log_prob(w) - log_mixture(w, mean, *parts)
            each = [reduced(one, reduction) for one in kl.flatten(0, -3)]
            want = torch.stack(each) if each else like[1].new_empty(like[1].shape)
            torch.testing.assert_close(found[1], want.reshape(found[1].shape))


def test_noise_from_elsewhere_to_a_mixture_around_a_tensor():
    """Weights and KL are of one noise."""
    mu, rho = weights()
    mean = leaf((5,), seed=2)
    for source in (
        lambda: {"generator": torch.Generator().manual_seed(3)},
        lambda: {"generator": [torch.Generator().manual_seed(i) for i in range(6)]},
        lambda: {"rng": "torch", "generator": torch.Generator().manual_seed(3)},
    ):
        found = sample_weight(mu, rho, mean, mixture=(0.4, 1.0, 0.1), reduction="none", **source())
        parts = (torch.tensor(v, dtype=torch.float64) for v in (0.4, 1.0, 0.1))
        w = found[0]
        want = Normal(mu, F.softplus(rho)).log_prob(w) - log_mixture(w, mean, *parts)
        torch.testing.assert_close(found[1], want)
        assert torch.equal(w, sample_weight(mu, rho, **source())[0])
