"""The families whose public functions follow from their rows: law, divergence, extremes, errors."""

import itertools
import math

import pytest
import torch

import fused_reparam as fr
from fused_reparam.families import FAMILIES

ROWS = {name: row for name, row in FAMILIES.items() if row.law is not None}
EVERY = pytest.mark.parametrize("family", ROWS)
VALUED = pytest.mark.parametrize("family", [name for name, row in ROWS.items() if row.terms])
KEY = fr.noise.key(123, 45)


def named(family, numbers):
    """Parameters by name."""
    words = ROWS[family].names.replace("+", "").split()
    return dict(zip(words, numbers, strict=True))


def sampled(family, params, **options):
    return getattr(fr, f"{family}_rsample")(**named(family, params), **options)


def latent(family, params, **options):
    options = ROWS[family].some_prior() | options
    return getattr(fr, f"{family}_latent")(**named(family, params), **options)


def some(family, which, dtype=torch.float64):
    """One of some usual members."""
    positive, real = [(0.7, 1.3), (2.1, 0.6), (1.2, 3.0)][which], (0.8, -1.7, 0.02)[which]
    numbers, words = iter(positive), ROWS[family].names.split()
    found = [next(numbers) if word.endswith("+") else real for word in words]
    return [torch.tensor(number, dtype=dtype) for number in found]


@pytest.fixture
def _in_float64():
    """Or the generalized Pareto's cdf refuses its own arguments."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@EVERY
@pytest.mark.parametrize("which", range(3))
@pytest.mark.usefixtures("_in_float64")
def test_the_law_is_that_of_torch_distributions(family, which):
    """Kolmogorov-Smirnov: 20,011 numbers stray from a right law by 0.0138 once in a thousand."""
    n = 20_011
    params = some(family, which, torch.float32)
    z = sampled(family, [p.expand(n).contiguous() for p in params], key=KEY).double()
    law = ROWS[family].law(**named(family, [p.double() for p in params]), validate_args=False)
    at = law.cdf(z).sort().values
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    assert max((at - steps[:-1]).max(), (steps[1:] - at).max()) < 0.0138


@VALUED
@pytest.mark.parametrize("which", range(3))
def test_the_divergence_is_that_of_the_laws(family, which):
    """The mean of log q - log p, by 200,000 equal shares of the distribution function."""
    row, n = ROWS[family], 200_000
    params = some(family, which)
    q = row.law(**named(family, params), validate_args=False)
    prior = {k.removeprefix("prior_"): torch.tensor(v) for k, v in row.some_prior().items()}
    p = row.law(**prior, validate_args=False)
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    z = q.icdf(u) if family != "weibull" else params[0] * (-u.log()) ** (1.0 / params[1])
    want = (q.log_prob(z) - p.log_prob(z)).mean()
    _, kl = latent(family, params, reduction="sum")
    torch.testing.assert_close(kl, want, rtol=2e-3, atol=1e-4)


def numbers_of(family):
    """Members from float32's smallest to its largest numbers, as columns of parameters."""
    choices = [
        (1e-37, 1e-20, 1e-3, 1.0, 1e3, 1e20, 1e37)
        if word.endswith("+")
        else (-1e30, -1e4, -0.5, -1e-8, -1e-30, 0.0, 1e-30, 1e-8, 0.5, 30.0, 1e4)
        for word in ROWS[family].names.split()
    ]
    return torch.tensor(list(itertools.product(*choices))).T.unbind()


def results(family, params, eps, priors):
    """Every result of the op with given noise, and the gradients of each, also those of zeros."""
    leaves = [p.requires_grad_() for p in params]
    options = [0], family, 0, 0, list(ROWS[family].prior_constants(*priors)), 0, True, "none", -1
    found = torch.ops.fused_reparam.elementwise(
        *leaves, *(None,) * (4 - len(leaves)), None, eps, *options
    )
    outputs = found[: 1 + ROWS[family].terms]
    grads, zeros = (
        [
            torch.autograd.grad(o, leaves, of(o), materialize_grads=True, retain_graph=True)
            for o in outputs
        ]
        for of in (torch.ones_like, torch.zeros_like)
    )
    assert not any(g.any() for grads in zeros for g in grads)
    return [o.detach() for o in outputs], grads


# Kumaraswamy has its extremes in tests/ops/test_elementwise_extremes.py.
@pytest.mark.parametrize("family", [name for name in ROWS if name != "kumaraswamy"])
def test_far_out(family, device):
    """What float32 can hold is not lost on the way, nothing is NaN, and gradients of 0 stay 0."""
    params = numbers_of(family)
    for eps, prior in itertools.product((1e-4, 0.7, 15.0), (1e-30, 0.3, 1e30)):
        priors = list(ROWS[family].some_prior().values())
        if priors:  # the first one, of the scale
            priors[0] = math.log(prior) if family == "continuous_bernoulli" else prior
        noise = torch.full_like(params[0], eps)
        with fr.backend("reference"):
            exact = [p.double() for p in params]
            want, of_want = results(family, exact, noise.double(), priors)
        moved = [p.to(device, copy=True) for p in params]
        got, of_got = results(family, moved, noise.to(device), priors)
        about = family, eps, prior
        # A divergence is of logarithms up to 170.
        for name, g, w, atol in zip(("z", "value"), got, want, (0.0, 2e-4), strict=False):
            unit = 1e-7 if family == "continuous_bernoulli" else 0.0  # z may be 1 - y
            close(g, w, atol or unit, (*about, name), params)
        for name, g, w in zip(("z", "value"), of_got, of_want, strict=False):
            for i, (a, b) in enumerate(zip(g, w, strict=True)):
                close(a, b, 1e-6, (*about, f"d {name} / d {i}"), params)


def close(got, want, atol, about, params):
    got, want = got.double().cpu(), want.detach()
    tiny, most = 2e-38, 3.4e38
    off = (got - want).abs() > 2e-4 * want.abs() + atol + tiny
    off &= ~((want.abs() > most / 2) & (got.abs() > most / 4) & (got.sign() == want.sign()))
    off &= ~want.isnan()
    off |= got.isnan() & (want.abs() < most)
    if off.any():
        i = int(off.nonzero()[0])
        at = [p[i].item() for p in params]
        raise AssertionError(f"{about} at {at}: {got[i].item()}, right is {want[i].item()}")


@VALUED
def test_reductions_dtypes_and_default_priors(family):
    params = [torch.full((4, 3), float(p)) for p in some(family, 1)]
    z, kl = latent(family, params, reduction="none", key=KEY)
    assert kl.shape == (4, 3)
    assert torch.equal(z, sampled(family, params, key=KEY))
    for reduction, want in (("sum", kl.sum()), ("batchmean", kl.sum() / 4), ("mean", kl.mean())):
        torch.testing.assert_close(latent(family, params, reduction=reduction)[1], want)
    half, of_half = latent(family, [p.bfloat16() for p in params])
    assert half.dtype == torch.bfloat16
    assert of_half.dtype == torch.float32
    if family == "pareto":
        with pytest.raises(TypeError, match="prior_scale"):
            fr.pareto_latent(*params)
        return
    standard = {name: 0.0 if name == "prior_logits" else 1.0 for name in ROWS[family].some_prior()}
    function = getattr(fr, f"{family}_latent")
    got, want = function(*params)[1], function(*params, **standard)[1]
    assert torch.equal(got, want)


@VALUED
def test_a_prior_that_is_none(family):
    params = [torch.full((4, 3), float(p)) for p in some(family, 1)]
    for word in ROWS[family].prior.split():
        name = word.rstrip("+")
        wrong = [math.nan, math.inf] + ([0.0, -1.0, 1e-40] if word.endswith("+") else [])
        for value in wrong:
            with pytest.raises(ValueError, match=f"{name} must be"):
                latent(family, params, **{name: value})
        with pytest.raises(TypeError, match=f"{name} must be a number"):
            latent(family, params, **{name: "1"})
