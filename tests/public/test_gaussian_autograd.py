"""Gradients: gradcheck, double backward, repeated backward, checkpointing, what is saved."""

import threading

import pytest
import torch
from torch import autograd
from torch.utils.checkpoint import checkpoint

from fused_reparam import (
    gaussian_kl,
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample,
    log_normal_latent,
    noise,
)
from tests.helpers.allocations import allocated
from tests.helpers.formulas import KINDS, REDUCTIONS, parameters


@pytest.fixture
def key(device):
    return noise.key(5, device=device)


@pytest.fixture
def gradients_are_right(target):
    """gradcheck of each element, and gradgradcheck along one random direction: second derivatives
    are of plain PyTorch's operators. Where kernels are interpreted, gradcheck along one as well.
    """
    interpreted = target == ("triton", torch.device("cpu"))

    def check(call, inputs):
        assert autograd.gradcheck(call, inputs, fast_mode=interpreted)
        assert interpreted or autograd.gradgradcheck(call, inputs, fast_mode=True)

    return check


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(target, key, kind, gradients_are_right):
    name, device = target
    mu, x = parameters(kind, (3, 5), torch.float64, device)
    # One is enough for the interpreter, which takes seconds; test_triton.py has the others.
    for reduction in ("sample",) if name == "triton" else ("none", "sample", "batchmean"):

        def call(mu, x, reduction=reduction):
            return gaussian_latent(mu, **{kind: x}, key=key, reduction=reduction)

        gradients_are_right(call, (mu, x))


def test_gradcheck_with_a_clamp(target, key, gradients_are_right):
    mu, x = parameters("logvar", (3, 5), torch.float64, target[1])
    interpreted = target == ("triton", torch.device("cpu"))
    for reduction in ("sample",) if interpreted else REDUCTIONS:

        def call(mu, x, reduction=reduction):
            return gaussian_latent(mu, x, key=key, reduction=reduction, clamp=(-0.6, 0.7))

        gradients_are_right(call, (mu, x))


def test_gradcheck_of_the_parts(device, key, gradients_are_right):
    mu, x = parameters("logvar", (2, 3), torch.float64, device)
    eps = torch.randn(2, 3, device=device, dtype=torch.float64, requires_grad=True)
    row = torch.randn(3, device=device, dtype=torch.float64, requires_grad=True)
    moments = torch.randn(2, 6, 2, device=device, dtype=torch.float64, requires_grad=True)
    for call, inputs in (
        (lambda m, s: gaussian_rsample(m, s, key=key), (mu, x)),
        (lambda m, s: gaussian_kl(m, s), (mu, x)),
        (lambda m, s: gaussian_latent(m, s.detach(), key=key), (mu, x.detach())),
        (lambda m, s: gaussian_latent(m.detach(), rho=s, key=key), (mu.detach(), x)),
        (lambda m, s, e: gaussian_latent(m, log_std=s, eps=e), (mu, x, eps)),
        (lambda m, s, e: gaussian_latent(m, s, eps=e, clamp=(-0.5, 0.5)), (mu, row, eps)),
        (lambda m, s: gaussian_latent(m, rho=s, key=key, reduction="sample"), (mu, row)),
        (lambda t: gaussian_latent_from_moments(t, key=key), (moments,)),
        (lambda t: gaussian_latent_from_moments(t, key=key, clamp=(-0.5, 0.5)), (moments,)),
    ):
        gradients_are_right(call, inputs)


def test_third_derivative(device, key):
    mu, x = parameters("log_std", (4,), torch.float64, device)
    _, kl = gaussian_latent(mu, log_std=x, key=key, reduction="sum")
    grad = kl
    for _ in range(3):
        (grad,) = torch.autograd.grad(grad.sum(), x, create_graph=True)
    torch.testing.assert_close(grad, 4 * torch.exp(2 * x))


def test_rho_has_finite_second_derivatives_far_out(device):
    rho = torch.tensor([-1000.0, -110.0, -50.0, 50.0, 110.0], device=device, requires_grad=True)
    kl = gaussian_kl(torch.zeros_like(rho), rho=rho, reduction="sum")
    (first,) = torch.autograd.grad(kl, rho, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), rho)
    want = torch.tensor([0.0, 0.0, 0.0, 1 + 1 / 50**2, 1 + 1 / 110**2], device=device)
    torch.testing.assert_close(second, want, atol=1e-6, rtol=1e-5)


def test_second_backward_uses_the_same_noise(device):
    mu, x = parameters("logvar", (31, 7), torch.float32, device)
    z, kl = gaussian_latent(mu, x)
    loss = z.square().sum() + kl
    first = torch.autograd.grad(loss, (mu, x), retain_graph=True)
    torch.randn(100, device=device)  # moves the generator on
    for a, b in zip(first, torch.autograd.grad(loss, (mu, x)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(device, use_reentrant):
    """The recomputed forward draws the noise of the first one."""
    mu, x = parameters("logvar", (31, 7), torch.float32, device)

    def block(mu, x):
        z, kl = gaussian_latent(mu, x)
        return (z * z).sum() + kl

    torch.manual_seed(3)
    want = torch.autograd.grad(block(mu, x), (mu, x))
    for t in (mu, x):
        t.grad = None
    torch.manual_seed(3)
    checkpoint(block, mu, x, use_reentrant=use_reentrant).backward()
    assert torch.equal(mu.grad, want[0])
    assert torch.equal(x.grad, want[1])


def saved_beyond(inputs, call):
    """Bytes that autograd keeps for the backward pass and that are not the inputs'."""
    seen = {t.untyped_storage().data_ptr() for t in inputs}
    extra = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in seen:
            extra[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        outputs = call()
    del outputs
    return sum(extra.values())


def test_only_the_key_is_saved(device):
    mu, x = parameters("logvar", (128, 20), torch.float32, device)
    moments = torch.randn(8, 40, device=device, requires_grad=True)
    assert saved_beyond((mu, x), lambda: gaussian_latent(mu, x)) == 16
    assert saved_beyond((mu, x), lambda: gaussian_rsample(mu, x)) == 16
    assert saved_beyond((mu, x), lambda: gaussian_kl(mu, x)) == 0
    assert saved_beyond((moments,), lambda: gaussian_latent_from_moments(moments)) == 16
    textbook = saved_beyond((mu, x), lambda: mu + torch.exp(0.5 * x) * torch.randn_like(x))
    assert textbook >= 2 * 128 * 20 * 4


@pytest.mark.parametrize("latent", [gaussian_latent, log_normal_latent])
def test_only_what_is_asked_for_is_written(target, latent):
    """A gradient that nobody needs is neither allocated nor computed."""
    name, device = target
    mu, x = parameters("logvar", (64, 50), torch.float32, device)
    size, used = 64 * 50 * 4, {}
    for needs in ((True, True), (True, False), (False, True)):
        inputs = [t if n else t.detach() for t, n in zip((mu, x), needs, strict=True)]
        z, kl = latent(inputs[0], logvar=inputs[1])
        wanted = [t for t in inputs if t.requires_grad]
        grads = torch.randn_like(z), torch.ones_like(kl)
        used[needs] = allocated(device, lambda: torch.autograd.grad((z, kl), wanted, grads))
    for needs in ((True, False), (False, True)):
        assert used[needs] <= used[True, True] - size
        if name == "native":
            assert size <= used[needs] < 1.1 * size


def test_the_gradient_of_mu_is_the_samples(device):
    """Where no KL has one, nothing is to be computed of it: it is the very tensor."""
    mu, x = parameters("logvar", (6, 5), torch.float32, device)
    for call in (
        lambda: gaussian_rsample(mu, x),
        lambda: gaussian_latent(mu, x)[0],
        lambda: gaussian_latent(mu, x[:1])[0],
    ):
        z = call()
        grad = torch.randn_like(z)
        to_mu, _ = torch.autograd.grad(z, (mu, x), grad)
        assert to_mu.data_ptr() == grad.data_ptr()
    z = gaussian_latent(mu[:1], x)[0]
    (to_mu,) = torch.autograd.grad(z, mu, grad)
    torch.testing.assert_close(to_mu[:1], grad.sum(0, keepdim=True))


def test_no_graph_without_need(device):
    mu, x = (t.detach() for t in parameters("logvar", (4, 5), torch.float32, device))
    assert not gaussian_latent(mu, x)[0].requires_grad
    mu.requires_grad_()
    with torch.no_grad():
        assert not gaussian_latent(mu, x)[0].requires_grad


def test_threads_draw_and_differentiate_on_their_own(device):
    mu, x = (t.detach() for t in parameters("logvar", (67, 31), torch.float32, device))
    want, got = {}, {}

    def run(seed, results):
        m, s = mu.clone().requires_grad_(), x.clone().requires_grad_()
        z, kl = gaussian_latent(m, s, key=noise.key(seed, device=device))
        results[seed] = torch.autograd.grad(z.square().sum() + kl, (m, s))

    for seed in range(8):
        run(seed, want)
    threads = [threading.Thread(target=run, args=(seed, got)) for seed in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed in range(8):
        # Another thread does not inherit the backend asked for here: compare within the stream.
        for a, b in zip(want[seed], got[seed], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.usefixtures("backend")
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    mu, x = parameters("logvar", (3, 40_001))
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            z, kl = gaussian_latent(mu, x, key=noise.key(1), reduction="sample")
            loss = (z * z).sum(1) + kl
            results.append((z, kl, *torch.autograd.grad(loss.sum(), (mu, x))))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


LOSSES = {
    "sum": lambda z, kl: z.sum(),
    "kl": lambda z, kl: kl,
    "both": lambda z, kl: z.sum() + kl,
    "dense": lambda z, kl: (z * z).sum() + kl,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("frozen", [False, True])
def test_saved_tensors_are_unpacked_once(device, loss, frozen):
    """A non-reentrant checkpoint allows no more, and offloading hooks copy each time."""
    mu, x = parameters("logvar", (4, 3), torch.float32, device)
    x.requires_grad_(not frozen)
    key = noise.key(2, device=device)
    wanted = [t for t in (mu, x) if t.requires_grad]
    want = torch.autograd.grad(LOSSES[loss](*gaussian_latent(mu, x, key=key)), wanted)
    unpacked = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: unpacked.append(1) or t):
        z, kl = gaussian_latent(mu, x, key=key)
    torch.autograd.grad(LOSSES[loss](z, kl), wanted)
    assert len(unpacked) == 3, "loc, scale and key"
    z, kl = checkpoint(lambda m, s: gaussian_latent(m, s, key=key), mu, x, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(LOSSES[loss](z, kl), wanted), want, strict=True):
        assert torch.equal(a, b)


def test_a_strided_key_is_the_same_key(device):
    mu, x = parameters("logvar", (4, 3), torch.float32, device)
    key = noise.key(5, 7, device=device)
    other = noise.key(11, 13, device=device)
    both = torch.stack([key.view(torch.int64), other.view(torch.int64)], 1).view(torch.uint64)
    for reduction in ("sum", "none"):
        want = gaussian_latent(mu, x, key=key, reduction=reduction)
        got = gaussian_latent(mu, x, key=both[:, 0], reduction=reduction)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)
        for a, b in zip(
            torch.autograd.grad(got[0].square().sum(), (mu, x)),
            torch.autograd.grad(want[0].square().sum(), (mu, x)),
            strict=True,
        ):
            assert torch.equal(a, b)
    assert torch.equal(noise.normal(both[:, 0], 6), noise.normal(key, 6))
    drawn = torch.vmap(lambda k: noise.normal(k, 6), in_dims=1)(both)
    assert torch.equal(drawn, torch.stack([noise.normal(key, 6), noise.normal(other, 6)]))


def test_negative_bits_are_resolved(device):
    """``.conj().imag`` is a view with a sign that is still to be applied."""
    key = noise.key(1, device=device)
    mu = torch.randn(6, dtype=torch.complex64, device=device).conj().imag
    assert mu.is_neg()
    zero = torch.zeros(6, device=device)
    for reduction in ("sum", "none"):
        for got, want in zip(
            gaussian_latent(mu, zero, key=key, reduction=reduction),
            gaussian_latent(mu.clone(), zero, key=key, reduction=reduction),
            strict=True,
        ):
            assert torch.equal(got, want)
        leaf = torch.randn(6, device=device, requires_grad=True)
        z, _ = gaussian_latent(leaf, zero.clone().requires_grad_(), key=key, reduction=reduction)
        weight = torch.complex(zero, torch.arange(6.0, device=device))
        (torch.complex(torch.zeros_like(z), z).conj() * weight).real.sum().backward()
        assert leaf.grad.tolist() == [0, 1, 2, 3, 4, 5]


def test_hooks_may_change_the_dtype(device):
    mu, x = parameters("logvar", (4, 3), torch.float32, device)
    with torch.no_grad():  # values that float16 holds
        mu.copy_(mu.half())
        x.copy_(x.half())
    key = noise.key(1, device=device)

    def small(t):
        return t.half() if t.is_floating_point() else t

    for reduction in ("sum", "none"):
        grads = []
        for pack in (lambda t: t, small):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                z, kl = gaussian_latent(mu, x, key=key, reduction=reduction)
            grads.append(torch.autograd.grad((z, kl), (mu, x), (torch.ones_like(z), kl.detach())))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)


def test_fake_and_tracing_go_through_the_op():
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(torch.ones(6))
    z, _ = gaussian_latent(torch.zeros(6), fake, key=noise.key(0))
    assert z.shape == (6,)
    traced = torch.jit.trace(lambda a, b: gaussian_kl(a, b), (torch.ones(4, 3),) * 2)
    mu = torch.full((4, 3), 3.0)
    torch.testing.assert_close(traced(mu, mu), gaussian_kl(mu, mu))
