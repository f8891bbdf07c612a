"""Many samples of few elements: values, gradients, and their bits on any number of threads."""

import functools
from itertools import product

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.loops import where

# (samples, shape): one element, three and a few that share a vector, and shapes whose samples don't
# come to a whole number of tiles; the last ones are a whole tile and more for each sample.
SIZES = [
    (5, (1,)), (1023, (1,)), (20_011, (1,)), (70_000, (3,)), (3001, (2, 10)), (501, (509,)),
    (333, (512,)), (130, (513,)), (67, (2, 1031)), (17, (3, 1024)),
]  # fmt: skip
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def parameters(shape, dtype, rows=False):
    """A location and a log-variance; with ``rows``, every other column of wider tensors."""
    made = []
    for seed in (1, 2):
        width = (*shape[:-1], 2 * shape[-1]) if rows else shape
        t = (0.5 * noise.normal(noise.key(seed), width, dtype=torch.float64)).to(dtype)
        made.append((t[..., ::2] if rows else t).requires_grad_())
    return made


def exact(mu, logvar, eps):
    """The sample, the KL by element, and log q and log p by element, in float64."""
    mu, logvar, eps = mu.double(), logvar.double(), eps.double()
    z = mu + torch.exp(0.5 * logvar) * eps
    kl = 0.5 * (mu * mu + torch.exp(logvar) - 1.0 - logvar)
    half_log_2pi = 0.9189385332046727
    return z, kl, -0.5 * eps * eps - 0.5 * logvar - half_log_2pi, -0.5 * z * z - half_log_2pi


@pytest.mark.parametrize(("samples", "shape"), SIZES)
def test_samples_and_kl(backend, samples, shape):
    for rows, dtype in product([False, True], DTYPES):
        with where(rows, dtype):
            mu, logvar = parameters(shape, dtype, rows=rows)
            key = noise.key(5, (1 << 32) - 100)
            z, kl = fr.gaussian_latent(mu, logvar, num_samples=samples, key=key, reduction="none")
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            eps = noise.normal(key, (samples, *shape), dtype=wide)
            want_z, want_kl, _, _ = exact(mu, logvar, eps)
            close(z, want_z, dtype)
            close(kl, want_kl, wide)
            weights = noise.normal(noise.key(9), z.shape).to(dtype)
            grads = torch.autograd.grad((z * weights).sum() + kl.sum(), (mu, logvar))
            wants = torch.autograd.grad(
                (want_z * weights.double()).sum() + want_kl.sum(), (mu, logvar)
            )
            # What a sum of numbers of these sizes may lose.
            size = (weights.double() * (1.0 + eps.double().abs())).abs().sum(0) + 2.0
            for got, want in zip(grads, wants, strict=True):
                error = (got.double() - want.double()).abs()
                lost = (
                    4.0 * torch.finfo(wide).eps * size
                    + torch.finfo(dtype).eps * want.double().abs()
                )
                assert (error <= lost).all(), (error / lost).max()


def close(got, want, dtype):
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), want.detach().double(), rtol=eps, atol=16.0 * eps)


@pytest.mark.parametrize(("samples", "shape"), [s for s in SIZES if len(s[1]) == 2])
def test_log_densities_of_each_sample(backend, samples, shape):
    """Each sample's sum is of the elements of its own rows."""
    for dtype in DTYPES:
        with where(dtype):
            mu, logvar = parameters(shape, dtype)
            key = noise.key(7)
            z, log_q, log_p = fr.gaussian_rsample_log_prob(mu, logvar, num_samples=samples, key=key)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            eps = noise.normal(key, (samples, *shape), dtype=wide)
            want_z, _, want_q, want_p = exact(mu, logvar, eps)
            close(z, want_z, dtype)
            for got, want in ((log_q, want_q.sum(-1)), (log_p, want_p.sum(-1))):
                assert got.shape == (samples, shape[0])
                torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=1e-5)
            loss = (log_p - log_q).exp().clamp(max=4.0)
            grads = torch.autograd.grad(loss.sum() + z.sum(), (mu, logvar))
            want = (want_p.sum(-1) - want_q.sum(-1)).exp().clamp(max=4.0)
            wants = torch.autograd.grad(want.sum() + want_z.sum(), (mu, logvar))
            tolerance = {torch.float32: 1e-4, torch.float64: 1e-10}.get(dtype, 0.02)
            for got, want in zip(grads, wants, strict=True):
                torch.testing.assert_close(
                    got.double(), want.double(), rtol=tolerance, atol=samples * 1e-5
                )


FAMILIES = {
    "one element": lambda p, key: fr.gaussian_rsample_log_prob(
        p[0], log_std=p[1], num_samples=40_003, key=key
    ),
    "learned prior": lambda p, key: fr.gaussian_rsample_log_prob(
        p[0], log_std=p[1], prior=(p[1], {"log_std": p[0]}), num_samples=40_003, key=key
    ),
    "latent with a learned prior": lambda p, key: fr.gaussian_latent(
        p[0], log_std=p[1], prior=(p[1], {"log_std": p[0]}), num_samples=40_003, key=key
    ),
}


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_on_any_number_of_threads(isa, family, size):
    """Of the native kernels: PyTorch's own sums, which the reference takes, promise less."""
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            p = parameters((size,), torch.float32)
            with fr.backend("native"):
                outputs = FAMILIES[family](p, noise.key(3))
            grads = torch.autograd.grad(sum(t.square().sum() for t in outputs), p)
            found.append([*(t.detach() for t in outputs), *grads])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_million_gradients_of_one_element_are_added_without_loss(backend):
    """One by one in float32, a sum of a million terms loses its last digits."""
    mu, logvar = parameters((1,), torch.float32)
    key = noise.key(1)
    z = fr.gaussian_rsample(mu, logvar, num_samples=10**6, key=key)
    weights = noise.normal(noise.key(2), z.shape).abs() + 0.1
    grads = torch.autograd.grad(z, (mu, logvar), weights)
    eps = noise.normal(key, z.shape).double()
    sigma = torch.exp(0.5 * logvar.detach().double())
    wants = weights.double().sum(0), (weights.double() * eps).sum(0) * 0.5 * sigma
    size = weights.double().sum()
    for got, want in zip(grads, wants, strict=True):
        assert (got.double() - want).abs() < 2e-7 * size


@pytest.mark.parametrize(
    ("name", "dtype", "sizes"),
    [
        ("student_t", torch.float32, [(64, 1), (67, 3)]),
        ("laplace", torch.bfloat16, [(150, 5)]),
        ("laplace", torch.float64, [(67, 3)]),
    ],
)
def test_samples_in_ranges_of_every_backend(device, name, dtype, sizes):
    """Each backend cuts them in its own way; these numbers leave a rest."""
    constants = [5.0] if name == "student_t" else []
    for samples, size in sizes:
        spec = ([], name, 0, 0, constants, samples, True, None, -1)
        key = noise.key(2, (1 << 32) - 7)
        found = []
        for backend, place in (("reference", "cpu"), (fr.current_backend(device), device)):
            p = [t.detach().to(place).requires_grad_() for t in parameters((size,), dtype)]
            with fr.backend(backend):
                scale = p[1].abs() + 0.1
                inputs = (p[0], scale, None, None, key, None)
                z, *_ = torch.ops.fused_reparam.elementwise(*inputs, *spec)
                found.append([z, *torch.autograd.grad(z.square().sum(), p)])
        tolerance = {torch.float32: 2e-5, torch.float64: 1e-11}.get(dtype, 0.03)
        for want, got in zip(*found, strict=True):
            torch.testing.assert_close(got.cpu(), want, rtol=tolerance, atol=40 * tolerance)


def test_many_samples_and_values_of_every_backend(device):
    mu, logvar = (p.detach().to(device).requires_grad_() for p in parameters((2, 3), torch.float32))
    key = noise.key(8)
    eps = noise.normal(key, (131, 2, 3)).double()
    want_z, want_kl, want_q, want_p = exact(mu.cpu(), logvar.cpu(), eps)
    z, kl = fr.gaussian_latent(mu, logvar, num_samples=131, key=key, reduction="sample")
    got = torch.autograd.grad(z.square().sum() + 3.0 * kl.sum(), (mu, logvar))
    want = torch.autograd.grad(
        want_z.square().sum() + 3.0 * want_kl.sum(), (mu, logvar), retain_graph=True
    )
    torch.testing.assert_close(kl.cpu().double(), want_kl.sum(1), rtol=1e-5, atol=1e-5)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    z, q, p = fr.gaussian_rsample_log_prob(mu, logvar, num_samples=131, key=key)
    torch.testing.assert_close(q.cpu().double(), want_q.sum(2), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(p.cpu().double(), want_p.sum(2), rtol=1e-5, atol=1e-4)
    got = torch.autograd.grad((q * p).sum() + z.sum(), (mu, logvar))
    loss = (want_q.sum(2) * want_p.sum(2)).sum() + want_z.sum()
    for a, b in zip(got, torch.autograd.grad(loss, (mu, logvar)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("samples", [3, 4097])
@pytest.mark.parametrize("size", [1, 3])
def test_given_noise_and_missing_gradients(backend, samples, size):
    mu, logvar = parameters((size,), torch.float32)
    eps = noise.normal(noise.key(4), (samples, size)).requires_grad_()
    z, log_q, log_p = fr.gaussian_rsample_log_prob(mu, logvar, num_samples=samples, eps=eps)
    want_z, _, want_q, want_p = exact(mu, logvar, eps)
    for got, want in ((z, want_z), (log_q, want_q), (log_p, want_p)):
        got, want = got.view(samples, size), want.view(samples, size)
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-5)
        found = torch.autograd.grad(
            got.sum(), (mu, logvar, eps), retain_graph=True, materialize_grads=True
        )
        wants = torch.autograd.grad(
            want.sum(), (mu, logvar, eps), retain_graph=True, materialize_grads=True
        )
        for g, w in zip(found, wants, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-6 * samples)


@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (66, 3), (2, 300), (2, 3, 7), (7,)], ids=str)
@pytest.mark.parametrize("dim", [-1, 0])
def test_categories_read_the_logits_in_place(target, shape, dim):
    """Bit for bit what as many copies of the logits give, and nothing is copied."""
    backend, device = target
    in_place(backend, device, shape, dim)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 7)], ids=str)
def test_categories_read_in_place_from_python(no_extension, shape):
    with fr.backend("native"):
        in_place("native", "cpu", shape, -1)


def in_place(backend, device, shape, dim):
    logits, key = torch.randn(shape, device=device), noise.key(9, device=device)
    calls = {
        "soft": functools.partial(fr.gumbel_softmax, tau=0.7),
        "hard": functools.partial(fr.gumbel_softmax, tau=0.7, hard=True),
        "one-hot": functools.partial(fr.one_hot_categorical, unimix=0.1),
    }
    for name, call in calls.items():
        x = logits.clone().requires_grad_()
        with where(name), torch.autograd.profiler.profile() as profile:
            y = call(x, dim=dim, key=key, sample_shape=9)
        if backend == "native":
            assert "aten::copy_" not in {e.name for e in profile.function_events}
        copies = logits.expand(9, *shape).contiguous().requires_grad_()
        want = call(copies, dim=dim if dim < 0 else dim + 1, key=key)
        assert torch.equal(y, want)
        got, of_copies = (
            torch.autograd.grad(o.sin().sum(), t)[0] for o, t in ((y, x), (want, copies))
        )
        torch.testing.assert_close(got, of_copies.sum(0))
