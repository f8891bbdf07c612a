"""Gradients of the Gumbel-softmax: checks, double backward, checkpoints, what is saved."""

from itertools import product

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from fused_reparam import categorical_latent, gumbel_softmax, noise, one_hot_categorical
from fused_reparam.families.categorical import SOFT
from tests.helpers.elementwise_cases import cotangents
from tests.helpers.loops import where
from tests.helpers.softmax_cases import (
    CASES,
    composition,
    gradient,
    logits_of,
    noise_of,
    own_noise,
    run,
)

CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# What a user calls, each with a call of few letters.
CALLS = {
    "gumbel_softmax": lambda x, **k: (gumbel_softmax(x, 0.7, dim=1, **k),),
    "hard": lambda x, **k: (gumbel_softmax(x, 0.7, hard=True, dim=1, **k),),
    "categorical_latent": lambda x, **k: categorical_latent(x, 0.7, dim=1, **k),
    "hard latent": lambda x, **k: categorical_latent(x, 0.7, True, 1, "none", **k),
    "one_hot_categorical": lambda x, **k: (one_hot_categorical(x, 0.01, 1, **k),),
}
CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
# test_categories.py compares the interpreter's gradients.
pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def key():
    return noise.key(5)


@CASE
def test_gradients_against_finite_differences(key, case):
    """A one-hot y is flat: only its KL has differences, but its gradient's gradient has."""
    for shape, dim in [((2, 4), 1), ((2, 3, 2), 1), ((3,), 0), ((2, 1), 1)]:
        with where(shape, dim):
            logits = logits_of(shape, torch.float64)
            for want in ((True, True), (True, False), (False, True)):

                def call(x, want=want):
                    return run(case, x, key, dim=dim, want_y=want[0], want_kl=want[1])

                if case.mode == SOFT or not want[0]:
                    assert gradcheck(call, logits)
                assert gradgradcheck(call, logits)


def test_gradcheck_of_other_layouts_and_unused_outputs(key):
    logits = logits_of((3, 2, 4), torch.float64)

    def turned(x):
        return run(CASES["soft"], x.permute(2, 0, 1), key, dim=1)

    assert gradcheck(turned, logits)
    assert gradgradcheck(turned, logits)
    assert gradgradcheck(lambda x: run(CASES["hard"], x, key, dim=0)[0], logits)
    assert gradgradcheck(lambda x: run(CASES["unimix"], x.expand(2, 3, 2, 4), key)[1], logits)


@CASE
def test_derivatives_up_to_the_third(key, case):
    """Also of a one-hot y, where they are those of what its gradient is of."""
    logits = logits_of((3, 5), torch.float64)
    noise_used = own_noise(key, logits)
    outcomes = []
    for outputs in (run(case, logits, key), composition(case, logits, noise_used)[::2]):
        (total,) = torch.autograd.grad(outputs, logits, cotangents(outputs), create_graph=True)
        found = [total]
        for i in range(2):
            loss = (found[-1] * cotangents((logits,), seed=i)[0]).sin().sum()
            found += torch.autograd.grad(loss, logits, create_graph=True)
        outcomes.append(found)
    for got, want in zip(*outcomes, strict=True):
        assert want.abs().max() > 1e-3
        torch.testing.assert_close(got, want)


@CASE
def test_double_backward_of_each_part(key, case):
    """The gradient of the backward pass for y's gradient and for the KL's, alone and together."""
    logits = logits_of((3, 5), torch.float64)
    for which in ((0,), (1,), (0, 1)):
        outcomes = []
        want = composition(case, logits, own_noise(key, logits))[::2]
        for outputs in (run(case, logits, key), want):
            grads = [g.requires_grad_() for g in cotangents(outputs)]
            used = [[t[i] for i in which] for t in (outputs, grads)]
            (first,) = torch.autograd.grad(used[0], logits, used[1], create_graph=True)
            outcomes.append(torch.autograd.grad(first.square().sum(), (*used[1], logits)))
        for got, want in zip(*outcomes, strict=True):
            torch.testing.assert_close(got, want)


def test_double_backward_in_half_precision(key):
    """In float32 inside: the error is that of the soft values' rounding."""
    logits = logits_of((4, 9), torch.bfloat16)
    for name in ("soft", "unimix"):
        outcomes = []
        for x in (logits, logits.detach().double().requires_grad_()):
            outputs = run(CASES[name], x, key)
            if x.dtype == torch.float64:
                outputs = composition(CASES[name], x, own_noise(key, logits).double())[::2]
            (first,) = torch.autograd.grad(outputs, x, cotangents(outputs), create_graph=True)
            outcomes.append(torch.autograd.grad(first.sin().sum(), x)[0].double())
        torch.testing.assert_close(*outcomes, rtol=2e-2, atol=2e-2)


@CALL
def test_second_backward_is_the_first(call):
    logits = logits_of((31, 7, 3))
    outputs = call(logits)
    grads = cotangents(outputs)
    first = gradient(outputs, logits, grads)
    torch.randn(100)  # moves the generator on
    assert torch.equal(first, gradient(outputs, logits, grads))


@CALL
def test_activation_checkpointing(call):
    """The recomputed forward draws the noise of the first one; saved tensors are unpacked once."""
    for use_reentrant in [False, True]:
        with where(use_reentrant):
            logits = logits_of((31, 7, 3))
            weight = torch.randn(31, 7, 3)

            def block(x):
                y, *kl = call(2.0 * x)
                return (weight * y).sin().sum() + sum(k.sum() for k in kl)

            torch.manual_seed(3)
            (want,) = torch.autograd.grad(block(logits), logits)
            torch.manual_seed(3)
            checkpoint(block, logits, use_reentrant=use_reentrant).backward()
            assert torch.equal(logits.grad, want)


def test_what_is_saved(key):
    """Besides the logits at most one tensor of y's size: no key, no noise, no second y."""
    for (name, tensors), dtype in product(
        [
            ("gumbel_softmax", 1),
            ("hard", 1),
            ("one_hot_categorical", 0),
            ("categorical_latent", 1),
            ("hard latent", 1),
        ],
        [torch.float32, torch.bfloat16],
    ):
        with where(name, tensors, dtype):
            logits = logits_of((32, 5, 3), dtype)
            saved = {}

            def pack(t):
                if t.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr():
                    saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                return t

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                outputs = CALLS[name](logits, key=key)
            assert list(saved.values()) == [logits.numel() * dtype.itemsize] * tensors
            if name == "gumbel_softmax":
                assert list(saved) == [outputs[0].untyped_storage().data_ptr()], "y itself"


def test_the_logits_are_kept_only_where_they_are_read(key):
    for name, kept in (("gumbel_softmax", False), ("hard", False), ("one_hot_categorical", True),
                       ("categorical_latent", True)):  # fmt: skip
        logits = logits_of((4, 5, 2))
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=saved: s.append(t.untyped_storage().data_ptr()) or t, lambda t: t
        ):
            outputs = CALLS[name](logits, key=key)
        assert (logits.untyped_storage().data_ptr() in saved) == kept
        del outputs


@CALL
def test_no_graph_without_need(key, call):
    assert not any(t.requires_grad for t in call(logits_of((2, 3)).detach(), key=key))
    with torch.no_grad():
        assert not any(t.requires_grad for t in call(logits_of((2, 3)), key=key))
    assert all(t.requires_grad for t in call(logits_of((2, 3)), key=key))


@CASE
def test_bits_do_not_depend_on_the_number_of_threads(key, case):
    before = torch.get_num_threads()
    for shape in ((301, 257), (3, 257, 101), (2, 40_003)):
        logits, found = logits_of(shape), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                outputs = run(case, logits, key, dim=1)
                found.append((*outputs, gradient(outputs, logits, cotangents(outputs))))
        finally:
            torch.set_num_threads(before)
        for one, *others in zip(*found, strict=True):
            assert all(torch.equal(one, other) for other in others), shape


@CASE
def test_hooks_may_change_the_dtype(case):
    """What comes back in float16 is what it holds: the arithmetic is float32's all the same."""
    logits, given = logits_of((4, 3)), noise_of((4, 3))
    packs = (lambda t: t.half().float(), lambda t: t.half())
    found = []
    for pack in packs:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            outputs = run(case, logits, noise=given)
        found.append(gradient(outputs, logits, cotangents(outputs)))
    assert torch.equal(*found)


def test_a_strided_key_is_the_same_key(key):
    both = torch.stack([key.view(torch.int64)] * 2, 1).view(torch.uint64)[:, 0]
    assert not both.is_contiguous()
    logits = logits_of((5, 4))
    for a, b in zip(*(run(CASES["hard"], logits, k) for k in (both, key)), strict=True):
        assert torch.equal(a, b)


@CASE
def test_negative_bits_are_resolved(key, case):
    """Views that negate when read: of a conjugate's imaginary part, logits and gradient."""
    logits = torch.randn(4, 6, dtype=torch.complex64).conj().imag
    assert logits.is_neg()
    for got, want in zip(*(run(case, t, key) for t in (logits, logits.clone())), strict=True):
        assert torch.equal(got, want)
    leaf, grad = logits_of((4, 6)), torch.arange(24.0).view(4, 6)
    y, _ = run(case, leaf, key)
    zero = torch.zeros(4, 6)
    negated = (torch.complex(zero, y).conj() * torch.complex(zero, grad)).real.sum()
    (got,) = torch.autograd.grad(negated, leaf, retain_graph=True)
    assert torch.equal(got, gradient((y,), leaf, (grad,)))


def test_y_may_be_changed_in_place_where_it_is_not_saved(key):
    """A hard y is no part of what its gradient is made of; a soft one is, and PyTorch says so."""
    logits, grad = logits_of((4, 5)), torch.randn(4, 5)
    y, _ = run(CASES["hard"], logits, key)
    want = gradient((y,), logits, (3.0 * grad,))
    assert torch.equal(gradient((y.mul_(3.0),), logits, (grad,)), want)
    (y,) = run(CASES["soft"], logits, noise=noise_of((4, 5)), want_kl=False)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient((y.mul_(3.0),), logits, (grad,))
