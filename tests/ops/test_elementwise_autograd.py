"""Gradients of every family: gradcheck, double backward, what is saved, bits by threads.

What the op's autograd does with any family is in test_autograd.py, by the Gaussian.
"""

import math

import pytest
import torch
from torch import autograd

from fused_reparam import noise
from fused_reparam.ops.elementwise import elementwise
from tests.helpers.elementwise_cases import (
    FAMILIES,
    SCALED,
    cotangents,
    gradients,
    noise_for,
    params,
    results,
    spec,
)
from tests.helpers.loops import where

# test_triton_draws.py has the interpreter's gradients.
pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def key():
    return noise.key(5)


def right(call, inputs):
    """The first derivatives are the backend's, the second ones the formula's: they must agree."""
    assert autograd.gradcheck(call, inputs)
    assert autograd.gradgradcheck(call, inputs, fast_mode=True)


# The score is no derivative of the number that comes with it: the action is held fixed.
_DERIVED = [name for name in FAMILIES if not name.startswith("tanh_normal_score")]


@pytest.mark.parametrize("family", _DERIVED)
def test_gradcheck(key, family):
    p = params(family, (3,), torch.float64)
    for s in (spec(family, 0, "sum"), spec(family, 2, "mean")):
        right(lambda *p, s=s: results(p, s, key), p)


@pytest.mark.parametrize("family", [name for name in SCALED if name in _DERIVED])
def test_gradcheck_of_the_scale_kinds(key, family):
    for kind in range(5):
        with where(kind):
            p = params(family, (3,), torch.float64)
            p = [(t.detach().abs() + 0.3).requires_grad_() if i % 2 else t for i, t in enumerate(p)]
            s = spec(family, kind=kind)._replace(prior_kind=4 - kind)
            right(lambda *p: results(p, s, key), p)


def test_gradcheck_of_the_parts(key):
    for family, samples in (("tanh_normal", 2), ("gaussian", 0), ("relaxed_bernoulli", 1)):
        s = spec(family, samples)
        p = params(family, (2, 2), torch.float64)
        eps = noise_for(key, p, s).requires_grad_()
        right(lambda *t, s=s: results(t[:-1], s, eps=t[-1]), (*p, eps))
        frozen = [t.detach() for t in p]
        right(lambda e, s=s, p=frozen: results(p, s, eps=e), (eps,))
    shapes = ((2, 3), (3,), (), (2, 1))
    p = [params("log_prob_prior", s, torch.float64, seed=i)[i] for i, s in enumerate(shapes)]
    right(lambda *p: results(p, spec("log_prob_prior", 2), key), p)
    right(lambda *p: results(p, spec("gaussian_prior", sample=False)), p)
    some = [p[0], p[1].detach(), p[2].detach(), p[3]]
    right(lambda a, d: results((a, *some[1:3], d), spec("gaussian_prior"), key), (some[0], some[3]))
    turned = params("mixture", (2, 3), torch.float64)
    right(lambda a, b: results((a.t(), b.t()), spec("mixture", 2, order=[1, 0]), key), turned)


def test_gradcheck_of_moments(key):
    """Two parameters in one tensor, with the prior's in others."""
    moments, other = (t.detach() for t in params("gaussian_prior", (2, 4, 3), torch.float64)[:2])
    for family, rest in (("gaussian", ()), ("gaussian_prior", (other[:, :2], other[:, 2:]))):
        for samples in (0, 2):
            s = spec(family, samples)._replace(split=1)
            inputs = [t.clone().requires_grad_() for t in (moments, *rest)]
            right(lambda *p, s=s: results(p, s, key), inputs)


def test_third_derivative(key):
    (mu, x), inf = params("gaussian", (4,), torch.float64), math.inf
    s = spec("gaussian", reduction="sum")._replace(constants=[-inf, inf, 0.0, 1.0, -inf])
    (grad,) = elementwise((mu, x), key, None, s)[1]
    for _ in range(3):
        (grad,) = torch.autograd.grad(grad.sum(), x, create_graph=True)
    torch.testing.assert_close(grad, 4 * torch.exp(2 * x))


def test_straight_through_has_the_soft_gradient(key):
    (logits,) = params("relaxed_bernoulli", (6,), torch.float64)
    grads = []
    for kind in (0, 1):
        z, _ = elementwise((logits,), key, None, spec("relaxed_bernoulli", kind=kind))
        grads.append(torch.autograd.grad(z.sum(), logits)[0])
    assert set(z.tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_key_is_saved(family):
    p = params(family, (32, 5))
    seen = {t.untyped_storage().data_ptr() for t in p}
    extra = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in seen:
            extra[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    for s in (spec(family, 3), spec(family, 3, "last")):
        extra.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            outputs = results(p, s, noise.draw_key())
        assert sum(extra.values()) == 16
        del outputs


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(key, threads):
    p = params("tanh_normal", (3, 20_001))
    found = []
    before = torch.get_num_threads()
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            outputs = results(p, spec("tanh_normal", 2), key)
            found.append((*outputs, *gradients(outputs, p, cotangents(outputs))))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
