"""Divergences and densities to a prior whose or whose posterior's sigma is beyond the dtype.

A ratio of two sigmas is formed from their logarithms, so that it is right where a sigma itself, its
square or its reciprocal over- or underflows. The gradient of a sigma that is a number of the dtype
is right also where the divergence itself is infinite. The truth is computed with 60 digits.
"""

import math

import mpmath
import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise

mp = mpmath.mp.clone()
mp.dps = 60
BIG = {torch.float32: 3.4e38, torch.float64: 1.79e308, torch.bfloat16: 3.3e38}


def log_sigma(x, kind):
    """log sigma and its derivative in x, exactly."""
    x = mp.mpf(x)
    if kind == "logvar":
        return x / 2, mp.mpf(1) / 2
    if kind == "log_std":
        return x, mp.mpf(1)
    if kind == "std":
        return mp.log(x), 1 / x
    if kind == "var":
        return mp.log(x) / 2, 1 / (2 * x)
    softplus = mp.log1p(mp.exp(x))
    return mp.log(softplus), 1 / (1 + mp.exp(-x)) / softplus


def truth_of_kl(mu, x, kind, mean, prior_x, prior_kind):
    """KL and its gradients (of mu, x, the prior's mean and scale), each with its terms' size."""
    (a, da), (b, db) = log_sigma(x, kind), log_sigma(prior_x, prior_kind)
    d = (mp.mpf(mu) - mp.mpf(mean)) / mp.exp(b)
    square = mp.exp(2 * (a - b))
    to_mu = d / mp.exp(b)
    return [
        ((d * d + square - 1) / 2 - (a - b), d * d + square + 1 + abs(a) + abs(b)),
        (to_mu, abs(to_mu)),
        ((square - 1) * da, (square + 1) * da),
        (-to_mu, abs(to_mu)),
        ((1 - square - d * d) * db, (1 + square + d * d) * db),
    ]


def right(got, want, size, dtype, tolerance):
    got, big = got.item(), BIG[dtype]
    if abs(want) > big:
        return got == math.copysign(math.inf, want)
    # A square that overflows makes its sum infinite only where the sum is.
    allowed = tolerance * min(size, mp.mpf(big)) + mp.mpf(1e-37 if big < 1e39 else 1e-300)
    return abs(mp.mpf(got) - want) <= allowed


# mu, kind, x, prior mean, prior kind, prior x
SINGLE = [
    (0.0, "logvar", -178.0, 0.0, "logvar", -178.0),
    (0.0, "logvar", 178.0, 0.0, "logvar", 178.0),
    (0.5, "logvar", 180.0, 0.0, "std", 1e38),
    (0.0, "logvar", -250.0, 0.0, "logvar", -251.0),
    (1.0, "logvar", 300.0, 2.0, "logvar", 299.5),
    (0.0, "log_std", -89.0, 0.0, "log_std", -89.5),
    (3.0, "log_std", 89.0, 1.0, "log_std", 89.5),
    (0.0, "rho", -89.0, 0.0, "rho", -89.0),
    (0.0, "rho", -120.0, 0.0, "log_std", -120.5),
    (0.0, "rho", -178.0, 0.0, "rho", -178.0),
    (0.0, "rho", -60.0, 0.0, "log_std", -92.0),
    (0.0, "rho", -95.0, 1e-38, "rho", -94.0),
    (0.1, "logvar", 20.0, 0.2, "logvar", -60.0),
    (1e-38, "logvar", -176.0, 0.0, "logvar", -175.0),
    (0.0, "std", 1e-30, 0.0, "std", 2e-30),
    (0.0, "std", 1e-38, 0.0, "std", 1e10),
    (1e30, "std", 1e30, 0.0, "std", 2e30),
    (0.0, "var", 1e-37, 0.0, "var", 3e-37),
    (1.0, "var", 1e38, 2.0, "std", 1e19),
    (0.0, "std", 1e30, 0.0, "logvar", 140.0),
    (0.5, "rho", 1e30, 0.0, "rho", 2e30),
    (0.5, "logvar", 0.3, 0.1, "logvar", -0.4),
    (0.5, "std", 0.3, 0.1, "std", 0.4),
    (1.0, "logvar", 1000.0, 0.0, "logvar", 1000.5),
    (0.0, "logvar", -1000.0, 0.0, "logvar", -1000.5),
    (1.0, "logvar", -1000.0, 0.0, "logvar", -1000.5),
    (0.0, "std", 1e25, 0.0, "std", 2.0),
    (0.0, "std", 1e25, 0.0, "logvar", 2.0),
    (0.0, "rho", 1e25, 0.0, "std", 2.0),
    (0.0, "rho", 3e38, 0.0, "logvar", 138.0),
    (0.0, "var", 1e-40, 0.0, "std", 1.0),
    (0.5, "var", 1e-40, 0.0, "logvar", 0.5),
]
DOUBLE = [
    (0.0, "logvar", 1450.0, 0.0, "logvar", 1450.5),
    (0.0, "logvar", -1500.0, 0.0, "logvar", -1500.0),
    (0.0, "log_std", -760.0, 0.0, "log_std", -761.0),
    (0.0, "rho", -760.0, 0.0, "rho", -760.25),
    (0.0, "rho", -1500.0, 0.0, "rho", -1500.25),
    (1.0, "std", 1e200, 2.0, "std", 3e200),
    (0.0, "rho", 1e100, 0.0, "std", 1e-10),
    (0.0, "std", 2e160, 0.0, "std", 3.0),
    (0.0, "var", 1e-310, 0.0, "std", 1.0),
]
CASES = {torch.float32: SINGLE, torch.float64: SINGLE + DOUBLE}


def leaves(case, dtype, device="cpu"):
    """The case's numbers as tensors of many equal elements, and as they were rounded."""
    mu, kind, x, mean, prior_kind, prior_x = case
    tensors = [
        torch.full((15,), v, dtype=dtype, device=device).requires_grad_()
        for v in (mu, x, mean, prior_x)
    ]
    mu, x, mean, prior_x = (t[0].item() for t in tensors)
    return tensors, (mu, x, kind, mean, prior_x, prior_kind)


def check_all(found, truth, dtype, case):
    """One of the equal elements of each, against the exact number and its terms' size."""
    tolerance = 3e-5 if dtype == torch.float32 else 1e-12
    for i, (got, (want, size)) in enumerate(zip(found, truth, strict=True)):
        assert right(got[8], want, size, dtype, tolerance), (case, i, got[8].item(), float(want))


@pytest.mark.parametrize("dtype", list(CASES), ids=str)
@pytest.mark.parametrize("function", [fr.gaussian_kl, fr.gaussian_latent])
def test_kl_to_a_learned_prior(function, dtype, device):
    for case in CASES[dtype]:
        tensors, numbers = leaves(case, dtype, device)
        mu, x, mean, prior_x = tensors
        found = function(mu, **{case[1]: x}, prior=(mean, {case[4]: prior_x}), reduction="none")
        kl = found if isinstance(found, torch.Tensor) else found[1]
        grads = torch.autograd.grad(kl.sum(), tensors)
        check_all((kl, *grads), truth_of_kl(*numbers), dtype, case)


@pytest.mark.parametrize("dtype", list(CASES), ids=str)
def test_kl_to_a_prior_of_numbers(dtype, device):
    for case in (c for c in CASES[dtype] if c[4] == "std"):
        (mu, x, _, _), numbers = leaves(case, dtype, device)
        kl = fr.gaussian_kl(mu, **{case[1]: x}, prior=(case[3], case[5]), reduction="none")
        grads = torch.autograd.grad(kl.sum(), (mu, x))
        truth = truth_of_kl(*numbers[:3], case[3], case[5], "std")
        check_all((kl, *grads), truth[:3], dtype, case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_inputs(dtype, device):
    """float16 holds a log-variance of -178 as well as any other dtype."""
    logvar = torch.full((4,), -178.0, dtype=dtype, device=device).requires_grad_()
    mu = torch.zeros(4, dtype=dtype, device=device)
    kl = fr.gaussian_kl(mu, logvar, prior=(mu, {"logvar": logvar.detach()}), reduction="none")
    (grad,) = torch.autograd.grad(kl.sum(), logvar)
    assert kl.tolist() == [0.0] * 4
    assert grad.tolist() == [0.0] * 4


def truth_of_log_p(mu, x, kind, mean, prior_x, prior_kind, eps):
    (a, da), (b, db) = log_sigma(x, kind), log_sigma(prior_x, prior_kind)
    ratio = mp.exp(a - b)
    d = (mp.mpf(mu) - mp.mpf(mean)) / mp.exp(b) + ratio * mp.mpf(eps)
    terms = abs(mp.mpf(mu) - mp.mpf(mean)) / mp.exp(b) + abs(ratio * mp.mpf(eps))
    # A rounding of d's terms is one of d times as much in its square.
    square, to_mu = terms * terms, -d / mp.exp(b)
    return [
        (-d * d / 2 - b - mp.log(2 * mp.pi) / 2, square + abs(b) + 1),
        (to_mu, terms / mp.exp(b)),
        (-d * ratio * mp.mpf(eps) * da, terms * abs(ratio * mp.mpf(eps)) * da),
        (-to_mu, terms / mp.exp(b)),
        ((d * d - 1) * db, (square + 1) * db),
    ]


# The density itself is beyond the dtype: -inf, and each gradient is infinite, of the exact one's
# sign.
INFINITE = [
    (1.0, "logvar", -300.0, 0.0, "logvar", -300.5),
    (0.0, "logvar", 1000.0, 0.0, "logvar", 0.0),
    (0.5, "log_std", 1000.0, 0.0, "std", 2.0),
    (0.0, "logvar", 0.0, 0.0, "logvar", -1000.0),
    (0.0, "logvar", 1000.0, 0.0, "logvar", -1000.0),
    (1.0, "rho", -500.0, 0.0, "rho", -500.5),
    (1e30, "std", 1e-3, 0.0, "std", 1e-30),
]


@pytest.mark.parametrize("dtype", list(CASES), ids=str)
def test_log_densities(dtype, device):
    key = noise.key(5).to(device)
    eps = noise.normal(key, 15, dtype=dtype)[8].item()
    for case in CASES[dtype] + (INFINITE if dtype == torch.float32 else []):
        tensors, numbers = leaves(case, dtype, device)
        mu, x, mean, prior_x = tensors
        prior = (mean, {case[4]: prior_x})
        _, log_q, log_p = fr.gaussian_rsample_log_prob(mu, **{case[1]: x}, prior=prior, key=key)
        # Where z is infinite its own gradient may be anything: only the density's is asked for.
        grads = torch.autograd.grad(log_p.sum(), tensors)
        exact = -(mp.mpf(eps) ** 2) / 2 - log_sigma(numbers[1], case[1])[0] - mp.log(2 * mp.pi) / 2
        truth = [*truth_of_log_p(*numbers, eps), (exact, abs(exact) + 1)]
        check_all((log_p, *grads, log_q), truth, dtype, case)


@pytest.mark.parametrize("value", [3e38, 1e38, 1e20])
def test_log_density_of_an_enormous_rho(value, device):
    rho = torch.full((5,), value, device=device).requires_grad_()
    _, log_q, _ = fr.gaussian_rsample_log_prob(torch.ones(5, device=device), rho=rho)
    (grad,) = torch.autograd.grad(log_q.sum(), rho)
    torch.testing.assert_close(
        grad.double(), torch.full_like(grad.double(), -1 / value), rtol=1e-5, atol=2e-38
    )
    assert log_q.isfinite().all()


def test_each_instruction_set(isa):
    for case in SINGLE:
        tensors, numbers = leaves(case, torch.float32)
        mu, x, mean, prior_x = tensors
        kl = fr.gaussian_kl(mu, **{case[1]: x}, prior=(mean, {case[4]: prior_x}), reduction="none")
        grads = torch.autograd.grad(kl.sum(), tensors)
        check_all((kl, *grads), truth_of_kl(*numbers), torch.float32, case)


def test_second_derivatives_stay_finite():
    """The double backward is made of the same formula."""
    for value in (-178.0, 178.0):
        x = torch.full((4,), value).requires_grad_()
        kl = fr.gaussian_kl(
            torch.zeros(4), x, prior=(0.0, {"logvar": torch.full((4,), value)}), reduction="sum"
        )
        (first,) = torch.autograd.grad(kl, x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        torch.testing.assert_close(second, torch.full((4,), 0.5))


@pytest.mark.parametrize("name", ["reference", "native"])
def test_a_prior_whose_number_the_dtype_does_not_hold(name):
    with fr.backend(name):
        kl = fr.gaussian_kl(torch.zeros(1), torch.zeros(1), prior=(0.0, 1e300), reduction="none")
    assert kl.item() == pytest.approx(300 * math.log(10) - 0.5, rel=1e-6)
