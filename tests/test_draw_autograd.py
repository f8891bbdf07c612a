"""Gradients of the draws: gradcheck, double backward, repetition, checkpoints, what is saved."""

import math

import pytest
import torch
from draw_cases import FAMILIES, SCALED, cotangents, gradients, noise_for, params, results, spec
from torch import autograd
from torch.utils.checkpoint import checkpoint

from fused_reparam import noise
from fused_reparam.ops import draw_short
from fused_reparam.ops.draw import draw

# test_triton_draws.py has the interpreter's gradients.
pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def key():
    return noise.key(5)


def right(call, inputs):
    """The first derivatives are the backend's, the second ones the formula's: they must agree."""
    assert autograd.gradcheck(call, inputs)
    assert autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradcheck(key, family):
    p = params(family, (3,), torch.float64)
    for s in (spec(family, 0, 0), spec(family, 2, 1)):
        right(lambda *p, s=s: results(p, s, key), p)


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("family", SCALED)
def test_gradcheck_of_the_scale_kinds(key, family, kind):
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


def test_gradcheck_of_the_short_way(key):
    p = params("tanh_normal", (2, 2), torch.float64)
    s = spec("tanh_normal")

    def call(*p):
        args = ("tanh_normal", s.kind, 0, tuple(s.numbers), "last", 2, key, None)
        return draw_short.draw(p, *args)

    right(call, p)


def test_third_derivative(key):
    (mu, x), inf = params("gaussian", (4,), torch.float64), math.inf
    s = spec("gaussian", keep=0, weight=1.0)._replace(numbers=[-inf, inf, 0.0, 1.0, -inf])
    (grad,) = draw((mu, x), key, None, s)[1]
    for _ in range(3):
        (grad,) = torch.autograd.grad(grad.sum(), x, create_graph=True)
    torch.testing.assert_close(grad, 4 * torch.exp(2 * x))


def test_straight_through_has_the_soft_gradient(key):
    (logits,) = params("relaxed_bernoulli", (6,), torch.float64)
    grads = []
    for kind in (0, 1):
        z, _ = draw((logits,), key, None, spec("relaxed_bernoulli", kind=kind))
        grads.append(torch.autograd.grad(z.sum(), logits)[0])
    assert set(z.tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("short", [False, True])
def test_second_backward_uses_the_same_noise(short):
    p = params("tanh_normal", (31, 7))
    s = spec("tanh_normal")
    if short:
        outputs = draw_short.draw(
            p, "tanh_normal", s.kind, 0, tuple(s.numbers), "last", 2, None, None
        )
    else:
        outputs = results(p, s, noise.draw_key())
    first = torch.autograd.grad(outputs, p, cotangents(outputs), retain_graph=True)
    torch.randn(100)  # moves the generator on
    for a, b in zip(first, gradients(outputs, p, cotangents(outputs)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant):
    """The recomputed forward draws the noise of the first one; saved tensors are unpacked once."""
    p = params("log_prob", (31, 7))
    s = spec("log_prob", 2)

    def general(*p):
        return sum(t.square().sum() for t in results(p, s, noise.draw_key()))

    def short(*p):
        found = draw_short.draw(p, "log_prob", 1, 0, tuple(s.numbers), "sample", 2, None, None)
        return sum(t.square().sum() for t in found)

    def strange(*p):  # an expanded gradient, which the short way hands on
        return draw_short.draw(p, "log_prob", 1, 0, tuple(s.numbers), None, 2, None, None)[0].sum()

    for block in (general, short, strange):
        torch.manual_seed(3)
        want = torch.autograd.grad(block(*p), p)
        for t in p:
            t.grad = None
        torch.manual_seed(3)
        checkpoint(block, *p, use_reentrant=use_reentrant).backward()
        for t, w in zip(p, want, strict=True):
            assert torch.equal(t.grad, w)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_key_is_saved(key, family):
    p = params(family, (32, 5))
    seen = {t.untyped_storage().data_ptr() for t in p}
    extra = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in seen:
            extra[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    s = spec(family)
    calls = (
        lambda: results(p, spec(family, 3), key),
        lambda: draw_short.draw(p, family, s.kind, 1, tuple(s.numbers), "last", 3, None, None),
    )
    for call in calls:
        extra.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            outputs = call()
        assert sum(extra.values()) == 16
        del outputs


def test_no_graph_without_need(key):
    p = [t.detach() for t in params("laplace")]
    assert not results(p, spec("laplace"), key)[0].requires_grad
    p[1].requires_grad_()
    with torch.no_grad():
        assert not results(p, spec("laplace"), key)[0].requires_grad
    args = ("laplace", 0, 0, (), "sum", 0, key, None)
    with torch.no_grad():
        assert not draw_short.draw(p, *args)[0].requires_grad
    grads = torch.autograd.grad(draw_short.draw(p, *args)[0].sum(), p[1])
    assert torch.equal(
        grads[0], torch.autograd.grad(draw(p, key, None, spec("laplace"))[0].sum(), p[1])[0]
    )


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


def test_a_strided_key_is_the_same_key(key):
    p, s = params("gumbel"), spec("gumbel")
    # Read as if it were contiguous, this column would be the first word twice.
    both = torch.stack([key.view(torch.int64)] * 2, 1).view(torch.uint64)[:, 0]
    assert not both.is_contiguous()
    for a, b in zip(results(p, s, both), results(p, s, key), strict=True):
        assert torch.equal(a, b)
    grads = [torch.autograd.grad(results(p, s, k)[0].sum(), p) for k in (both, key)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_negative_bits_are_resolved(key):
    loc = torch.randn(6, dtype=torch.complex64).conj().imag
    assert loc.is_neg()
    scale = torch.ones(6)
    got, want = (draw((t, scale), key, None, spec("laplace")) for t in (loc, loc.clone()))
    assert torch.equal(got[0], want[0])
    p = params("tanh_normal", (6,))
    zero, grad = torch.zeros(6), torch.arange(6.0)
    call = ("tanh_normal", 1, 0, tuple(spec("tanh_normal").numbers), "sum", 0, key, None)
    for z in (draw_short.draw(p, *call)[0], results(p, spec("tanh_normal"), key)[0]):
        negated = (torch.complex(zero, z).conj() * torch.complex(zero, grad)).real.sum()
        for a, b in zip(
            torch.autograd.grad(negated, p, retain_graph=True),
            torch.autograd.grad(z, p, grad),
            strict=True,
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("short", [False, True])
def test_hooks_may_change_the_dtype(key, short):
    p = params("tanh_normal", (4, 3))
    with torch.no_grad():  # values that float16 holds
        for t in p:
            t.copy_(t.half())
    s = spec("tanh_normal")
    found = []
    for pack in (lambda t: t, lambda t: t.half() if t.is_floating_point() else t):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            if short:
                args = ("tanh_normal", s.kind, 0, tuple(s.numbers), "last", 0, key, None)
                outputs = draw_short.draw(p, *args)
            else:
                outputs = results(p, s, key)
        found.append(gradients(outputs, p, cotangents(outputs)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_forward_mode_is_refused(key):
    loc, scale = (t.detach() for t in params("laplace"))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(loc, torch.ones_like(loc))
        assert draw_short.draw((dual, scale), "laplace", 0, 0, (), "sum", 0, key, None) is None
        with pytest.raises(NotImplementedError, match="jvp"):
            draw((dual, scale), key, None, spec("laplace"))
