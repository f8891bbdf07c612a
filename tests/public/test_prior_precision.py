"""Divergences and densities to a prior in the ordinary range, to the last bits.

Far out they must be finite where the exact ones are (`test_far_out`); that may not cost precision
where most numbers lie. The error against float64 is at most twice that of the formula in plain
PyTorch float32, for every way to give both sigmas.
"""

import itertools
import math

import pytest
import torch

import fused_reparam as fr
from tests.helpers.formulas import KINDS, within_twice_the_error

# Logarithms of both sigmas lie around these: alike, one far narrower than the other, both small or
# large.
PLACES = ((0.0, 0.0), (-4.0, 0.0), (0.0, -3.0), (-8.0, -8.0), (7.0, 6.0))
N = 1000
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
# A scale parameter whose square is beyond float32.
FAR = {"logvar": -180.0, "log_std": 90.0, "std": 1e-30, "var": 1e38, "rho": -90.0}
PAIRS = tuple(itertools.product(KINDS, KINDS))


def parameter(log_sigma, kind):
    """The float32 scale parameter of a kind that is nearest to this sigma."""
    sigma = log_sigma.exp()
    return {
        "logvar": lambda: 2.0 * log_sigma,
        "log_std": lambda: log_sigma,
        "std": lambda: sigma,
        "var": lambda: sigma * sigma,
        "rho": lambda: torch.where(sigma > 30.0, sigma, torch.log(torch.expm1(sigma))),
    }[kind]().float()


def sigma_of(x, kind):
    return {
        "logvar": lambda: torch.exp(0.5 * x),
        "log_std": lambda: torch.exp(x),
        "std": lambda: x,
        "var": lambda: torch.sqrt(x),
        "rho": lambda: torch.nn.functional.softplus(x, threshold=60.0),
    }[kind]()


def log_sigma_of(x, kind):
    return {
        "logvar": lambda: 0.5 * x,
        "log_std": lambda: x,
        "var": lambda: 0.5 * torch.log(x),
    }.get(kind, lambda: torch.log(sigma_of(x, kind)))()


def case(kind, prior_kind, places):
    """mu, x, the prior's mean and scale, noise and three gradients, in float32, place by place.

    All within some bounds, so that no single element of a place has the largest error by far.
    """
    made = (_at(kind, prior_kind, place, seed) for seed, place in enumerate(places))
    return [torch.cat(parts) for parts in zip(*made, strict=True)]


def _at(kind, prior_kind, place, seed):
    generator = torch.Generator().manual_seed(seed)

    def within(bound):
        return bound * (2.0 * torch.rand(N, generator=generator, dtype=torch.float64) - 1.0)

    log_sigma, log_prior = (center + within(0.5) for center in place)
    mean = log_prior.exp() * within(1.0)
    mu = mean + log_prior.exp() * within(2.0)
    tensors = (mu, parameter(log_sigma, kind), mean, parameter(log_prior, prior_kind))
    return [t.float() for t in (*tensors, within(2.0), within(1.0), within(1.0), within(1.0))]


def plain_kl(mu, x, kind, mean, prior_x, prior_kind):
    prior = sigma_of(prior_x, prior_kind)
    d, r = (mu - mean) / prior, sigma_of(x, kind) / prior
    logs = log_sigma_of(x, kind) - log_sigma_of(prior_x, prior_kind)
    return 0.5 * (d * d + r * r - 1.0) - logs


def plain_densities(mu, x, kind, mean, prior_x, prior_kind, eps):
    """z, log q and log p without their constants."""
    z = mu + sigma_of(x, kind) * eps
    d = (z - mean) / sigma_of(prior_x, prior_kind)
    log_q = -0.5 * eps * eps - log_sigma_of(x, kind)
    return z, log_q - HALF_LOG_2PI, -0.5 * d * d - log_sigma_of(prior_x, prior_kind) - HALF_LOG_2PI


def results(function, tensors, grads):
    """The outputs and the gradients of all tensors, by one gradient for each output."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    outputs = function(*tensors)
    came = [(o, g.to(o.dtype)) for o, g in zip(outputs, grads, strict=True) if g is not None]
    found = torch.autograd.grad(
        [o for o, _ in came], tensors, [g for _, g in came], materialize_grads=True
    )
    return [o.detach() for o in outputs] + list(found)


def compare(names, places, found, exact, rough):
    """Each place by itself, of a gradient that is summed over all the sum."""
    for name, *results in zip(names, found, exact, rough, strict=True):
        for place, got, want, plain in zip(places, *(r.split(N) for r in results), strict=False):
            assert within_twice_the_error(got, want, plain), (
                name,
                place,
                (got.double() - want).abs().max().item(),
                (plain.double() - want).abs().max().item(),
            )


def calls(kind, prior_kind, prior, exact_prior, eps, grads):
    """Pairs of our functions and the plain ones, the gradients to give and the outputs' names.

    ``prior`` makes the prior that ours take, and ``exact_prior`` its mean and scale, from what
    follows mu and x.
    """
    gz, gq, gp = grads

    def kl(mu, x, *rest):
        return (fr.gaussian_kl(mu, **{kind: x}, prior=prior(*rest), reduction="none"),)

    def latent(mu, x, *rest):
        return fr.gaussian_latent(mu, **{kind: x}, prior=prior(*rest), reduction="none", eps=eps)

    def densities(mu, x, *rest):
        return fr.gaussian_rsample_log_prob(mu, **{kind: x}, prior=prior(*rest), eps=eps)

    def exact_kl(mu, x, *rest):
        return (plain_kl(mu, x, kind, *exact_prior(mu, *rest), prior_kind),)

    def exact_latent(mu, x, *rest):
        return mu + sigma_of(x, kind) * eps.to(mu.dtype), *exact_kl(mu, x, *rest)

    def exact_densities(mu, x, *rest):
        numbers = exact_prior(mu, *rest)
        return plain_densities(mu, x, kind, *numbers, prior_kind, eps.to(mu.dtype))

    log_probs = ("z", "log q", "log p")
    return (
        (kl, exact_kl, (gp,), ("kl",)),
        (latent, exact_latent, (gz, gp), ("z", "kl")),
        (densities, exact_densities, (None, None, gp), log_probs),
        (densities, exact_densities, (gz, gq, gp), log_probs),
    )


INPUTS = ("to mu", "to x", "to the prior's mean", "to the prior's scale")


def check_learned_prior(kind, prior_kind, device, far=False):
    """far: every 50th element is far out, which may change nothing for the others."""
    places = PLACES[:2] if far else PLACES
    *tensors, eps, gz, gq, gp = (t.to(device) for t in case(kind, prior_kind, places))
    lost = torch.arange(len(eps), device=device) % 50 == 7 if far else torch.tensor(False)
    spoiled = [tensors[0], torch.where(lost, FAR[kind], tensors[1]), *tensors[2:]]
    grads = [torch.where(lost, 0.0, g) for g in (gz, gq, gp)]
    for ours, plain, each, outputs in calls(
        kind,
        prior_kind,
        lambda mean, x: (mean, {prior_kind: x}),
        lambda mu, mean, x: (mean, x),
        eps,
        grads,
    ):
        found = results(ours, spoiled, each)
        exact = results(plain, [t.double() for t in tensors], each)
        rough = results(plain, tensors, each)
        names = [(kind, prior_kind, ours.__name__, n) for n in (*outputs, *INPUTS)]
        of_others = ([torch.where(lost, 0.0, t) for t in r] for r in (found, exact, rough))
        compare(names, places, *of_others)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_learned_prior(kinds, device):
    check_learned_prior(*kinds, device)


@pytest.mark.parametrize("kind", KINDS)
def test_each_instruction_set(isa, kind):
    with fr.backend("native"):
        for prior_kind in KINDS:
            check_learned_prior(kind, prior_kind, torch.device("cpu"))
            check_learned_prior(kind, prior_kind, torch.device("cpu"), far=True)


@pytest.mark.parametrize("kind", KINDS)
def test_beside_elements_that_are_far_out(backend, kind):
    for prior_kind in KINDS:
        check_learned_prior(kind, prior_kind, torch.device("cpu"), far=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", [(0.3, 1.7), (-0.001, 0.02), (100.0, 700.0)], ids=str)
def test_a_prior_of_numbers(kind, prior, device):
    mean, std = prior
    places = [(math.log(std) + center, math.log(std)) for center in (0.0, -3.0)]
    mu, x, shift, _, eps, *grads = (t.to(device) for t in case(kind, "std", places))
    tensors = mean + (mu - shift), x
    for ours, plain, each, outputs in calls(
        kind,
        "std",
        lambda: prior,
        lambda mu: (torch.full_like(mu, number) for number in prior),
        eps,
        grads,
    ):
        exact = results(plain, [t.double() for t in tensors], each)
        names = [(kind, prior, ours.__name__, n) for n in (*outputs, *INPUTS[:2])]
        compare(names, places, results(ours, tensors, each), exact, results(plain, tensors, each))
