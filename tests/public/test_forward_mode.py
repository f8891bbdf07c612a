"""Forward-mode derivatives of every public function, and those of gradients."""

import pytest
import torch
from torch.autograd import forward_ad

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.public_cases import CASES, EVERY

KEY = noise.key(3)
SHAPE = (4, 2, 3)


def prepared(case):
    """The call as a function of tensors, these, and a tangent of each."""
    sources = {"key": KEY} if case.noisy else {}
    params = [p.detach() for p in case.params(SHAPE, torch.float64)]
    generator = torch.Generator().manual_seed(1)
    tangents = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params]
    return lambda *p: case(*p, **sources), params, tangents


def differences(f, params, tangents, step=1e-6):
    """The directional derivative by two calls."""
    ahead, behind = (
        f(*(p + sign * step * t for p, t in zip(params, tangents, strict=True)))
        for sign in (1.0, -1.0)
    )
    return [(a - b) / (2.0 * step) for a, b in zip(ahead, behind, strict=True)]


def by_gradients(f, params, tangents):
    """The same of gradients: those of straight-through values are not of the values."""
    outputs, pull = torch.func.vjp(f, *params)
    again = torch.func.vjp(pull, tuple(torch.zeros_like(o) for o in outputs))[1]
    return again(tuple(tangents))[0]


def tangents_of(outputs):
    return [
        torch.zeros_like(o) if t is None else t
        for o, t in (forward_ad.unpack_dual(o) for o in outputs)
    ]


@EVERY
def test_tangents(case):
    f, params, tangents = prepared(case)
    outputs, got = torch.func.jvp(f, tuple(params), tuple(tangents))
    torch.testing.assert_close(outputs, f(*params))
    straight = case.options.get("hard") or case.function is fr.one_hot_categorical
    if straight or case.function is fr.tanh_normal_sample:  # of an action that is held
        want = by_gradients(f, params, tangents)
    else:
        want = differences(f, params, tangents)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(p, t) for p, t in zip(params, tangents, strict=True)]
        plain = tangents_of(f(*duals))
    for a, b, w in zip(got, plain, want, strict=True):
        torch.testing.assert_close(a, w, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(b, a)


@pytest.mark.parametrize(
    "name",
    [
        "gaussian_latent mu rho reduction=none",
        "gaussian_latent_from_moments moments dim=0",
        "loc_scale_rsample loc scale df base=student_t",
        "gumbel_softmax logits tau_of_each dim=0",
        "categorical_latent logits tau=0.7 dim=0 reduction=none hard=True",
    ],
)
def test_of_gradients(name):
    """Hessian-vector products, forward over reverse, and gradients of tangents."""
    f, params, tangents = prepared(CASES[name])
    at = tuple(range(len(params)))

    def loss(*p):
        return sum(o.sin().sum() for o in f(*p))

    def gradient(*p):
        return torch.func.grad(loss, at)(*p)

    want = torch.func.vjp(gradient, *params)[1](tuple(tangents))
    got = torch.func.jvp(gradient, tuple(params), tuple(tangents))[1]
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(p.clone().requires_grad_(), t)
            for p, t in zip(params, tangents, strict=True)
        ]
        plain = tangents_of(torch.autograd.grad(loss(*duals), duals))

    def along(*p):
        return torch.func.jvp(loss, p, tuple(tangents))[1]

    reverse = torch.func.grad(along, at)(*params)
    for each in (got, plain, reverse):
        for g, w in zip(each, want, strict=True):
            torch.testing.assert_close(g, w)
    rows = torch.func.jacfwd(f)(*params)  # as vmap of it
    for row, all_rows in zip(rows, torch.func.jacrev(f)(*params), strict=True):
        torch.testing.assert_close(row, all_rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_of_backends(device, dtype):
    """What they compute is the value; the tangent is of the noise they draw."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(4, 33, generator=generator).to(device, dtype) for _ in range(4)]
    mu, x, of_mu, of_x = made

    def call(mu, x):
        return *fr.gaussian_latent(mu, x, key=KEY, reduction="none"), fr.gumbel_softmax(mu, key=KEY)

    outputs, got = torch.func.jvp(call, (mu, x), (of_mu, of_x))
    for o, w in zip(outputs, call(mu, x), strict=True):
        torch.testing.assert_close(o, w)
    z, _, y = (t.double() for t in outputs)
    m, v, of_m, of_v = (t.double() for t in made)
    p = y * (of_m - (y * of_m).sum(-1, keepdim=True))
    want = of_m + 0.5 * (z - m) * of_v, m * of_m + 0.5 * (v.exp() - 1.0) * of_v, p
    for g, o, w in zip(got, outputs, want, strict=True):
        assert g.dtype == o.dtype
        rtol, atol = (1e-4, 1e-5) if o.dtype == torch.float32 else (2e-2, 2e-2)
        torch.testing.assert_close(g.double(), w, rtol=rtol, atol=atol)


def test_without_a_tangent_on_the_way():
    """What nothing depends on has none, and a key is no part of it."""
    x = torch.randn(3, 4, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        z, kl = fr.gaussian_latent(x, x, key=KEY)
        assert forward_ad.unpack_dual(z).tangent is None or not tangents_of((z,))[0].any()
        kl = fr.gaussian_kl(dual, x, reduction="sum")
        torch.testing.assert_close(tangents_of((kl,))[0], x.sum())


def test_of_numbers_that_are_tensors_on_the_cpu():
    """They are read as numbers in eager mode, but not where they have a tangent."""
    x, one = torch.randn(3, 4, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)

    def prior(mean):
        return fr.gaussian_kl(x, x, prior=torch.distributions.Normal(mean, one), reduction="sum")

    def weights(mean):
        return fr.sample_weight(x, x, mean, one, key=KEY)[1]

    for call in (prior, weights):
        with forward_ad.dual_level():
            (got,) = tangents_of((call(forward_ad.make_dual(one, torch.ones_like(one))),))
        (want,) = differences(lambda m, call=call: (call(m),), [one], [torch.ones_like(one)])
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        learned = one.clone().requires_grad_()
        (grad,) = torch.autograd.grad(call(learned), learned)
        torch.testing.assert_close(grad, want, rtol=1e-5, atol=1e-6)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(one, torch.ones_like(one))
        with pytest.raises(TypeError, match=r"min_std.*its gradient would be lost"):
            fr.gaussian_rsample(x, std=x.exp(), min_std=dual)
