"""Every public function in eager mode: repetition, threads, layouts."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import autograd
from torch.utils.checkpoint import checkpoint

from fused_reparam import noise, tanh_normal_sample
from fused_reparam.backends import dispatch
from tests.helpers.elementwise_cases import cotangents, gradients
from tests.helpers.loops import where
from tests.helpers.public_cases import EVERY, SHAPE, assert_same, loss, run

pytestmark = pytest.mark.usefixtures("backend")


@EVERY
def test_activation_checkpointing(case):
    """The recomputed forward draws the noise of the first one."""
    for use_reentrant in [False, True]:
        with where(use_reentrant):
            params = case.params()

            def block(*params):
                return loss(case(*(0.9 * p for p in params)))

            torch.manual_seed(3)
            want = torch.autograd.grad(block(*params), params)
            torch.manual_seed(3)
            result = checkpoint(block, *params, use_reentrant=use_reentrant)
            torch.randn(100)  # moves the generator on
            result.backward()
            assert_same([p.grad for p in params], want)


@EVERY
def test_every_backward_uses_the_noise_that_was_drawn(case):
    """That of the key which the seed decides, the first time and the second."""
    params = case.params()
    torch.manual_seed(3)
    key = noise.draw_key()
    torch.manual_seed(3)
    outputs = case(*params)
    torch.randn(100)  # moves the generator on
    want = run(case, params, key=key)
    grads = cotangents(outputs)
    for keep in (True, False):
        found = torch.autograd.grad(outputs, params, grads, retain_graph=keep)
        assert_same((*outputs, *found), want)


@EVERY
def test_gradients_share_no_memory(case):
    """Of two calls whose results are added, so that one gradient arrives at both."""
    params, others = case.params(), case.params()
    for outputs in (
        zip(case(*params, key=noise.key(4)), case(*others, key=noise.key(5)), strict=True)
        if case.noisy
        else zip(case(*params), case(*others), strict=True)
    ):
        torch.add(*outputs).backward(torch.ones_like(outputs[0]), retain_graph=True)
    grads = [p.grad for p in (*params, *others)]
    assert len({g.untyped_storage().data_ptr() for g in grads}) == len(grads)


@EVERY
def test_second_derivatives_are_those_of_the_first(case):
    """The first are the backend's, the second plain PyTorch's, whichever the backend."""
    if case.function is tanh_normal_sample:
        pytest.skip("its gradient is of a fixed action, which moves with the parameters here")
    params = case.params((2, 2, 2), torch.float64)
    assert autograd.gradgradcheck(lambda *p: case(*p, key=noise.key(4)), params, fast_mode=True)


@EVERY
def test_threads_get_what_one_thread_gets(case, backend):
    """A call and its gradient in several threads at once, each with a key of its own."""
    keys = [noise.key(seed) for seed in range(8)]
    shape = (4, 12, 41)

    def one(key):
        with dispatch.backend(backend):  # a thread does not inherit it
            return run(case, case.params(shape), key=key)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, keys))
    for key, got in zip(keys, found, strict=True):
        assert_same(got, one(key))


# A view of the same numbers in the same order in memory, so of the same noise.
VIEWS = {
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "rows apart": lambda t: torch.cat((t, t + 1.0), 1)[:, : t.shape[1]],
    "an offset": lambda t: torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape),
    "a negated one": lambda t: torch.complex(torch.zeros_like(t), -t).conj().imag,
}


@EVERY
def test_views_give_what_contiguous_tensors_give(case):
    params, found = case.params(dtype=torch.float64), []
    for change in (torch.clone, *VIEWS.values()):
        outputs = case(*map(change, params), key=noise.key(4))
        found.append((*outputs, *gradients(outputs, params, cotangents(outputs))))
    for name, results in zip(VIEWS, found[1:], strict=True):
        for got, want in zip(results, found[0], strict=True):
            torch.testing.assert_close(
                got, want, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
            )


@EVERY
def test_transposed_tensors(case):
    """The noise follows the order in memory, so z is that of the tensors that are not turned."""
    params, key = case.params(dtype=torch.float64), noise.key(4)
    found = []
    for turned in (False, True):
        outputs = case(*(p.mT if turned else p for p in params), key=key)
        z = outputs[0].mT if turned and outputs[0].dim() >= len(SHAPE) else outputs[0]
        total = z.sin().sum() + sum(value.sum() for value in outputs[1:])
        found.append((z, *torch.autograd.grad(total, params), *(v.sum() for v in outputs[1:])))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@EVERY
def test_expanded_tensors(case):
    """One part for all is that part repeated, and its gradient the sum."""
    key = noise.key(4)
    for part in ((slice(1), slice(1)), (..., slice(1)), (slice(None), slice(1)), (slice(1),) * 3):
        found = []
        for change in (lambda t: t.expand(SHAPE), lambda t: t.expand(SHAPE).contiguous()):
            leaves = [p[part].detach().requires_grad_() for p in case.params(dtype=torch.float64)]
            found.append(run(lambda *p, c=change: case(*map(c, p), key=key), leaves))
        for got, want in zip(*found, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@EVERY
def test_a_batch_of_gradients(case):
    """As ``jacobian(vectorize=True)`` and ``gradcheck`` ask for it, by a vmap of its own."""
    params = case.params()
    outputs = case(*params, key=noise.key(1))
    batches = [
        torch.stack([g, 2.0 * g.flip(0)]) if g.dim() else torch.stack([g, 2.0 * g])
        for g in cotangents(outputs)
    ]
    found = autograd.grad(outputs, params, batches, is_grads_batched=True, retain_graph=True)
    for i in range(2):
        alone = [b[i] for b in batches]
        want = autograd.grad(outputs, params, alone, retain_graph=True)
        for got, expected in zip(found, want, strict=True):
            torch.testing.assert_close(got[i], expected)
