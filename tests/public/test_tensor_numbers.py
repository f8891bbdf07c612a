"""Temperatures, shares, bounds, degrees of freedom and numbers of priors that are tensors."""

import functools
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import softplus

import fused_reparam as fr
from tests.helpers.number_tensors import BOUNDS, KEY, SHAPE, positive, together, values

np = pytest.importorskip("numpy")


def gumbel(like):
    """The noise of a call with the same key."""
    return fr.loc_scale_rsample(torch.zeros_like(like), 1.0, "gumbel", key=KEY)


# ---- categories ----------------------------------------------------------------------------------


def relaxed(noise, x, tau, hard=False, dim=-1):
    """The formula in PyTorch's operators."""
    score = (x + noise.to(x.dtype)) / tau
    soft = torch.softmax(score, dim)
    if not hard:
        return soft
    chosen = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return chosen + (soft - soft.detach())


@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (3, 1, 1), (3, 5, 1), (4,)], ids=str)
@pytest.mark.parametrize("hard", [False, True])
def test_temperatures_of_categories(target, shape, hard):
    _, device = target
    x, tau = values(1, device=device), positive(2, shape, device=device)
    call, noise = functools.partial(fr.gumbel_softmax, hard=hard, key=KEY), gumbel(x)
    want = together(lambda x, t: relaxed(noise, x.double(), t.double(), hard), (x, tau))
    for got, w in zip(together(call, (x, tau)), want, strict=True):
        torch.testing.assert_close(got, w.to(got.dtype), rtol=2e-5, atol=2e-5)
    _, kl = fr.categorical_latent(x, tau, hard, reduction="sample", key=KEY)
    _, wanted = fr.categorical_latent(x, 1.0, hard, reduction="sample", key=KEY)
    torch.testing.assert_close(kl, wanted)


@pytest.mark.parametrize("dim", [0, 1])
def test_temperatures_along_other_dims(target, dim):
    """Columns, and rows of many classes, which kernels walk in chunks; in channels-last memory."""
    _, device = target
    for shape in ((40, 3, 5, 2), (3, 7, 2, 5)):
        x = values(1, shape, device=device).to(memory_format=torch.channels_last)
        each = [1 if d == dim else n for d, n in enumerate(shape)]
        tau = positive(2, each, device=device)
        got = together(lambda x, t: fr.gumbel_softmax(x, t, dim=dim, key=KEY), (x, tau))
        noise = gumbel(x)
        want = together(lambda x, t, g=noise: relaxed(g, x.double(), t.double(), dim=dim), (x, tau))
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w.to(g.dtype), rtol=2e-5, atol=2e-5)


def test_temperatures_of_many_classes(backend):
    x, tau = values(1, (2, 20000)), positive(2, (2, 1))
    noise = gumbel(x)
    got = together(lambda x, t: fr.gumbel_softmax(x, t, key=KEY), (x, tau))
    want = together(lambda x, t: relaxed(noise, x.double(), t.double()), (x, tau))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w.to(g.dtype), rtol=1e-4, atol=1e-6)


def test_temperatures_of_classes_far_out():
    """A class that is never drawn has a temperature too, and any temperature a quotient."""
    for logits in ([-torch.inf, 0.0, 1.0], [1e30, -1e30, 0.0], [0.0, 0.0, 0.0]):
        for tau in (1e-40, 1e-3, 1.0, 1e38):
            x = torch.tensor([logits], requires_grad=True)
            temperatures = torch.full((3,), tau, requires_grad=True)
            y = fr.gumbel_softmax(x, temperatures, key=KEY)
            torch.testing.assert_close(y, fr.gumbel_softmax(x, tau, key=KEY))
            grads = torch.autograd.grad(y[0, 1] - y[0, 2], (x, temperatures))
            assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("shape", [(), (5, 1), (3, 5, 1)], ids=str)
def test_shares_of_equal_chances(target, shape):
    _, device = target
    x = values(1, device=device)
    unimix = 0.3 * torch.rand(shape, generator=torch.Generator().manual_seed(2)).to(device)

    def formula(x, u):
        mixed = (1 - u.double()) * torch.softmax(x.double(), -1) + u.double() / x.shape[-1]
        score = torch.log(mixed) + gumbel(x.detach()).double()
        chosen = torch.zeros_like(score).scatter_(-1, score.argmax(-1, keepdim=True), 1.0)
        return chosen + (mixed - mixed.detach())

    got = together(lambda x, u: fr.one_hot_categorical(x, u, key=KEY), (x, unimix))
    for g, w in zip(got, together(formula, (x, unimix)), strict=True):
        torch.testing.assert_close(g, w.to(g.dtype), rtol=1e-5, atol=1e-5)


def test_what_no_temperature_is(target):
    """Nobody reads a tensor to check it: rows whose number is not positive are NaN, no others."""
    _, device = target
    x = values(1, device=device)
    tau = torch.tensor([0.0, -1.0, float("nan"), 1e-40, 1e30], device=device)[:, None]
    y = fr.gumbel_softmax(x, tau, key=KEY)
    assert y[:, :3].isnan().all() and y[:, 3:].isfinite().all()  # noqa: PT018
    torch.testing.assert_close(y[:, 3], fr.gumbel_softmax(x, 1e-40, True, key=KEY)[:, 3])
    for shape in ((), (5, 1)):  # hard ones are of the same rows, also beside a gradient
        for learned in (False, True):
            given = torch.tensor(-1.0, device=device) if not shape else tau.clone()
            y = fr.gumbel_softmax(x, given.requires_grad_(learned), True, key=KEY)
            assert y[:, :3].isnan().all() and y[:, 3:].isnan().all() == (not shape)  # noqa: PT018
        z = fr.relaxed_bernoulli(x, given, True, key=KEY), fr.relaxed_bernoulli(x, given, key=KEY)
        assert all(torch.equal(each.isnan(), y.isnan()) for each in z)


# ---- other families ------------------------------------------------------------------------------


def logistic(x):
    return fr.loc_scale_rsample(torch.zeros_like(x), 1.0, "logistic", key=KEY)


@pytest.mark.parametrize("shape", [(), (5, 1), SHAPE], ids=str)
def test_temperatures_of_gates(target, shape):
    _, device = target
    x, tau = values(1, device=device), positive(2, shape, device=device)
    for hard in (False, True):

        def formula(x, t, hard=hard):
            total = x.double() + logistic(x.detach()).double()
            soft = torch.sigmoid(total / t.double())
            return (total > 0) + (soft - soft.detach()) if hard else soft

        got = together(lambda x, t, h=hard: fr.relaxed_bernoulli(x, t, h, key=KEY), (x, tau))
        for g, w in zip(got, together(formula, (x, tau)), strict=True):
            torch.testing.assert_close(g, w.to(g.dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (4,), SHAPE, (2, *SHAPE)], ids=str)
def test_degrees_of_freedom(target, shape):
    """The numbers that a df that is a number gives, element by element."""
    _, device = target
    loc, scale = values(1, device=device), positive(2, (4,), device=device)
    df = 10.0 ** values(3, shape, device=device)
    z = fr.loc_scale_rsample(loc, scale, "student_t", df=df, key=KEY)
    full = torch.broadcast_shapes(loc.shape, shape)
    assert z.shape == full and z.dtype == loc.dtype  # noqa: PT018
    for at in range(0, z.numel(), 7):
        d = df.expand(full).flatten()[at]
        whole = fr.loc_scale_rsample(
            loc.expand(full).contiguous(), scale, "student_t", df=float(d), key=KEY
        )
        torch.testing.assert_close(z.flatten()[at], whole.flatten()[at], rtol=1e-4, atol=1e-4)


def test_degrees_of_freedom_of_any_size(backend):
    df = torch.logspace(-3, 12, 4000, dtype=torch.float64).requires_grad_()
    loc = torch.zeros(4000, dtype=torch.float64)
    z = fr.loc_scale_rsample(loc, 1.0, "student_t", df=df, key=KEY)
    (grad,) = torch.autograd.grad(z.clamp(-1e30, 1e30).sum(), df)
    assert not z.isnan().any() and not grad.isnan().any()  # noqa: PT018
    assert abs(float(z.detach()[-1000:].square().mean()) - 1.0) < 0.2  # normal


def test_bounds_of_actions(target):
    _, device = target
    mean, log_std = values(1, device=device), values(2, device=device)
    low, high = (torch.tensor(b, device=device) for b in BOUNDS)

    def formula(mean, log_std, low, high):
        x = mean.double() + log_std.double().exp() * noise
        half = 0.5 * (high - low).double()
        density = torch.distributions.Normal(mean.double(), log_std.double().exp()).log_prob(x)
        slope = 2 * (math.log(2.0) - x - softplus(-2 * x)) + torch.log(half)
        return 0.5 * (high + low).double() + half * torch.tanh(x), (density - slope).sum(-1)

    noise = fr.gaussian_rsample(torch.zeros_like(mean), std=1.0, key=KEY).double()

    def call(mean, log_std, low, high):
        return fr.tanh_normal_rsample(mean, log_std=log_std, low=low, high=high, key=KEY)

    tensors = mean, log_std, low, high
    for g, w in zip(together(call, tensors), together(formula, tensors), strict=True):
        torch.testing.assert_close(g, w.to(g.dtype), rtol=1e-4, atol=1e-4)
    want = call(mean, log_std, low, high)
    for make in (list, tuple, lambda b: np.array(b, dtype=np.float32), torch.tensor):
        ends = [make(b) for b in BOUNDS]
        ends = [e.to(device) if isinstance(e, torch.Tensor) else e for e in ends]
        for g, w in zip(call(mean, log_std, *ends), want, strict=True):
            assert torch.equal(g, w)


def test_actions_stay_within_their_bounds(backend):
    mean = 40.0 * values(1, (1000, 4))
    low, high = (torch.tensor(b) for b in BOUNDS)
    action, log_prob = fr.tanh_normal_rsample(mean, std=1.0, low=low, high=high)
    assert ((action >= low) & (action <= high)).all()
    assert log_prob.isfinite().all()
    assert (action == high).any()


PRIORS = {
    "exponential": ("rate",), "weibull": ("scale", "concentration"), "pareto": ("scale", "alpha"),
    "half_normal": ("scale",), "half_cauchy": ("scale",), "continuous_bernoulli": ("logits",),
}  # fmt: skip


@pytest.mark.parametrize("name", PRIORS)
def test_numbers_of_priors(backend, name):
    """Of each element the KL that a prior of these numbers gives."""
    function, names = getattr(fr, f"{name}_latent"), PRIORS[name]
    given = [2.0 + positive(i) for i in range(len(names))]
    prior = {f"prior_{n}": positive(5 + i, (5, 1)) for i, n in enumerate(names)}
    z, kl = function(*given, **prior, reduction="none", key=KEY)
    for row in range(5):
        numbers = {n: float(p[row]) for n, p in prior.items()}
        same, want = function(*given, **numbers, reduction="none", key=KEY)
        assert torch.equal(z, same)
        torch.testing.assert_close(kl[:, row], want[:, row], rtol=1e-5, atol=1e-5)
    for reduction in ("sum", "sample", "mean", "batchmean"):
        got = function(*given, **prior, reduction=reduction, key=KEY)[1]
        want = {"sum": kl.sum(), "mean": kl.mean(), "sample": kl.sum((1, 2))}
        torch.testing.assert_close(got, want.get(reduction, kl.sum() / 3))


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_of_tensors_is_an_operand(backend, name):
    """One op makes the sample and its KL; beside 16-bit parameters a prior keeps its precision."""
    function, names = getattr(fr, f"{name}_latent"), PRIORS[name]
    given = [2.0 + positive(i) for i in range(len(names))]
    prior = {f"prior_{n}": positive(5 + i, ()).requires_grad_() for i, n in enumerate(names)}
    z, kl = function(*given, **prior, key=KEY)
    assert type(kl.grad_fn) is type(z.grad_fn)
    halves = [t.bfloat16() for t in given]
    z, kl = function(*halves, **prior, key=KEY)
    assert torch.equal(z, function(*halves, **prior_of_ones(prior), key=KEY)[0])
    assert torch.equal(kl, function(*[t.float() for t in halves], **prior, key=KEY)[1])


def prior_of_ones(prior):
    return dict.fromkeys(prior, 1.0)


def test_a_gaussian_prior_by_its_deviation(target):
    _, device = target
    mu, mean = values(1, device=device), values(2, (4,), device=device)
    std = positive(3, (5, 1), device=device)
    want = together(lambda *t: fr.gaussian_kl(t[0], std=0.7, prior=(t[1], {"std": t[2]})),
                    (mu, mean, std))  # fmt: skip
    got = together(lambda *t: fr.gaussian_kl(t[0], std=0.7, prior=t[1:]), (mu, mean, std))
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
    got = fr.gaussian_kl(mu, std=0.7, prior=(0.3, torch.tensor(1.5)))
    torch.testing.assert_close(got, fr.gaussian_kl(mu, std=0.7, prior=(0.3, 1.5)))


def test_free_bits_that_are_tensors(target):
    _, device = target
    mu, logvar = values(1, device=device), values(2, device=device)
    each = fr.gaussian_kl(mu, logvar, reduction="none")
    for per, of, shapes in (("element", each, ((), (4,), SHAPE)),
                            ("sample", each.sum((1, 2)), ((), (3,)))):  # fmt: skip
        for shape in shapes:
            bits = (of.mean() * positive(3, shape, device=device)).requires_grad_()
            floored = torch.where(of < bits, bits, of)
            for reduction in ("none", "sample", "sum", "mean", "batchmean"):
                if per == "sample" and reduction == "none":
                    continue
                whole = floored.reshape(3, -1)
                want = {
                    "none": floored,
                    "sum": floored.sum(),
                    "batchmean": floored.sum() / 3,
                    "mean": floored.sum() / each.numel(),
                    "sample": whole.sum(1),
                }[reduction]
                options = {"free_bits": bits, "free_bits_per": per, "reduction": reduction}
                got = fr.gaussian_latent(mu, logvar, **options)[1]
                torch.testing.assert_close(got, want)
            (grad,) = torch.autograd.grad(fr.gaussian_kl(mu, logvar, **options).sum(), bits)
            (want,) = torch.autograd.grad(want, bits)
            torch.testing.assert_close(grad, want)


# ---- all of them ---------------------------------------------------------------------------------

D = functools.partial(values, dtype=torch.float64)
P = functools.partial(positive, dtype=torch.float64)
S = (2, 3)
DIFFERENTIABLE = {
    "tau": (lambda x, t: fr.gumbel_softmax(x, t, key=KEY), D(1, S), P(2, (2, 1))),
    "tau, one": (lambda x, t: fr.categorical_latent(x, t, key=KEY), D(1, S), P(2, ())),
    "tau of classes": (lambda x, t: fr.gumbel_softmax(x, t, key=KEY), D(1, S), P(2, (3,))),
    "gates": (lambda x, t: fr.relaxed_bernoulli(x, t, key=KEY), D(1, S), P(2, (3,))),
    "df": (
        lambda x, s, df: fr.loc_scale_rsample(x, s, "student_t", df=df, key=KEY),
        D(1, S), P(2, (3,)), P(3, (2, 1)),
    ),
    "bounds": (
        lambda m, s, a, h: fr.tanh_normal_rsample(m, std=s, low=a, high=a + h, key=KEY),
        D(1, S), P(2, S), D(3, (3,)), P(4, ()),
    ),
    "prior": (
        lambda m, *p: fr.gaussian_latent(m, std=0.5, prior=p, key=KEY),
        D(1, S), D(2, (3,)), P(3, ()),
    ),
    "free bits": (
        lambda m, b: fr.gaussian_kl(m, std=0.5, free_bits=b, free_bits_per="element"),
        D(1, S), P(2, (3,)),
    ),
    "continuous_bernoulli": (
        lambda x, p: fr.continuous_bernoulli_latent(x, prior_logits=p, key=KEY),
        D(1, S), 3 * D(2, (3,)),
    ),
    "weibull": (
        lambda s, c, a, b: fr.weibull_latent(s, c, prior_scale=a, prior_concentration=b, key=KEY),
        1.0 + P(1, S), 1.0 + P(2, S), P(3, ()), P(4, (3,)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_every_order(backend, name):
    call, *tensors = DIFFERENTIABLE[name]
    tensors = [t.clone().requires_grad_() for t in tensors]
    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(backend, dtype):
    """Errors at most twice those of the formula in the same dtype in PyTorch's operators."""
    x = (2.0 * values(1, (40, 60))).to(dtype)
    tau = positive(2, (40, 1)).to(dtype)
    calls = {
        "tau": (
            lambda x, t: fr.gumbel_softmax(x, t, key=KEY),
            functools.partial(relaxed, gumbel(x.float())), (x, tau),
        ),
        "gates": (
            lambda x, t: fr.relaxed_bernoulli(x, t, key=KEY),
            lambda x, t: torch.sigmoid((x + g.to(x.dtype)) / t), (x, tau),
        ),
        "bounds": (
            lambda m, a, h: fr.tanh_normal_rsample(m, std=1.0, low=a, high=a + h, key=KEY)[0],
            lambda m, a, h: 0.5 * (a + a + h) + 0.5 * h * torch.tanh(m + n.to(m.dtype)),
            (x, x[0], tau[:1]),
        ),
    }  # fmt: skip
    g, n = logistic(x.float()), fr.gaussian_rsample(torch.zeros(x.shape), std=1.0, key=KEY)
    for name, (call, formula, tensors) in calls.items():
        exact = together(formula, [t.double() for t in tensors])
        plain, got = together(formula, tensors), together(call, tensors)
        for o, p, e in zip(got, plain, exact, strict=True):
            error, allowed = ((t.double() - e).square().mean().sqrt() for t in (o, p))
            assert error <= 2.0 * allowed + 1e-7, (name, float(error), float(allowed))
