"""Views, memory formats, broadcasting and moments: read in place, the noise in memory order."""

from itertools import product

import pytest
import torch

import fused_reparam
from fused_reparam import gaussian_latent, gaussian_latent_from_moments, noise
from fused_reparam.ops import layout
from tests.helpers.allocations import allocated
from tests.helpers.formulas import composition, exact, parameters
from tests.helpers.loops import where


def noise_in_memory_order(key, z):
    """The stream laid over a dense tensor's memory."""
    flat = noise.normal(key, z.numel(), dtype=torch.promote_types(z.dtype, torch.float32))
    return flat.as_strided(z.shape, z.stride())


def check(mu, x, reduction="batchmean", grad_z=None):
    key = noise.key(9, device=mu.device)
    mu, x = (t.detach().requires_grad_() for t in (mu, x))
    z, kl = gaussian_latent(mu, x, reduction=reduction, key=key)
    eps = noise_in_memory_order(key, z.detach())
    grad_z = torch.randn(z.shape, device=z.device, dtype=z.dtype) if grad_z is None else grad_z(z)
    grad_kl = torch.randn(kl.shape, device=z.device, dtype=kl.dtype)
    got = torch.autograd.grad((z, kl), (mu, x), (grad_z, grad_kl))
    want = exact(mu, x, eps, grad_z, grad_kl, reduction=reduction)
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-4} if z.dtype == torch.float32 else {"rtol": 2e-2, "atol": 4e-2}
    )
    for g, w in zip((z, kl, *got), want, strict=True):
        torch.testing.assert_close(g.double(), w, **tolerance)
    return z


def base(shape, device, seed=0, dtype=torch.float32):
    return parameters("logvar", shape, dtype, device, seed)[0].detach()


VIEWS = {
    "contiguous": lambda t: t,
    "halves of a chunk": lambda t: torch.cat((t, t), 1).chunk(2, 1)[0],
    "second halves": lambda t: torch.cat((t, t), -1).chunk(2, -1)[1],
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "reversed dims": lambda t: t.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "every third row": lambda t: t.repeat_interleave(3, 0)[::3],
    "slice of the middle": lambda t: torch.nn.functional.pad(t, (2, 3, 1, 1))[:, 1:-1, 2:-3],
    "misaligned": lambda t: torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("other", ["contiguous", "same"])
def test_views(target, other, dtype):
    for view in VIEWS:
        with where(view):
            device = target[1]
            mu = VIEWS[view](base((5, 7, 11), device, 1, dtype))
            x = VIEWS[view if other == "same" else other](base((5, 7, 11), device, 2, dtype))
            # One is enough for the interpreter, which takes seconds; test_triton.py has the others.
            interpreted = target == ("triton", torch.device("cpu"))
            for reduction in ("sample",) if interpreted else ("batchmean", "sample", "none"):
                z = check(mu, x, reduction)
                assert z.stride() == torch.empty_like(mu).stride()
                check(x, mu, reduction)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_incoming_gradients_of_any_stride(device, reduction):
    for expand in [
        lambda z: torch.ones((), device=z.device, dtype=z.dtype).expand(z.shape),
        lambda z: torch.randn(z.shape[-1], device=z.device, dtype=z.dtype).expand(z.shape),
        lambda z: torch.randn(z.shape[0], 1, 1, device=z.device, dtype=z.dtype).expand(z.shape),
        lambda z: torch.randn(z.shape[1], 1, device=z.device, dtype=z.dtype).expand(z.shape),
        lambda z: torch.randn(z.shape[::-1], device=z.device, dtype=z.dtype).permute(2, 1, 0),
    ]:
        with where(expand):
            check(base((5, 7, 11), device, 1), base((5, 7, 11), device, 2), reduction, expand)


def test_sum_backward(device):
    """The stride-0 gradient that .sum() sends."""
    for reduction in ("none", "sample", "batchmean"):
        mu, x = parameters("logvar", (6, 50), torch.float32, device)
        key = noise.key(1, device=device)
        z, kl = gaussian_latent(mu, x, key=key, reduction=reduction)
        (z.sum() + kl.sum()).backward()
        want_z, want_kl = composition(
            mu.detach().requires_grad_(), x, noise.normal(key, (6, 50)), reduction=reduction
        )
        torch.testing.assert_close(mu.grad, 1 + mu * (1 if reduction != "batchmean" else 1 / 6))
        torch.testing.assert_close(
            x.grad, torch.autograd.grad(want_z.sum() + want_kl.sum(), x)[0], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("reduction", ["batchmean", "sample", "none"])
def test_broadcasting(device, reduction):
    for shapes in [
        ((5, 7), (7,)),
        ((7,), (5, 7)),
        ((5, 7), (5, 1)),
        ((5, 1), (1, 7)),
        ((5, 7), ()),
        ((), (5, 7)),
        ((2, 3, 5), (3, 1)),
        ((4, 1, 6), (4, 5, 1)),
        ((2, 3, 4, 5), (1, 3, 1, 1)),
        ((1,), (1, 1)),
    ]:
        with where(shapes):
            if reduction == "sample" and torch.broadcast_shapes(*shapes) == ():
                return
            check(base(shapes[0], device, 1), base(shapes[1], device, 2), reduction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_is_kept(device, dtype):
    mu = base((3, 6, 5, 4), device, 1, dtype).to(memory_format=torch.channels_last)
    x = base((3, 6, 5, 4), device, 2, dtype)
    for reduction in ("none", "sample", "mean"):
        z = check(mu, x, reduction)
        assert z.is_contiguous(memory_format=torch.channels_last)
    kl = gaussian_latent(mu, x, reduction="none")[1]
    assert kl.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_moments(device, memory_format):
    for dim, clamp in product([0, 1, 2, -1], [None, (-0.5, 0.5)]):
        with where(dim, clamp):
            moments = base((4, 6, 10, 8), device).to(memory_format=memory_format).requires_grad_()
            key = noise.key(3, device=device)
            z, kl = gaussian_latent_from_moments(moments, dim, key=key, clamp=clamp)
            mu, x = (t.contiguous().requires_grad_() for t in moments.detach().chunk(2, dim))
            eps = noise_in_memory_order(key, z.detach())
            want_z, want_kl = composition(mu, x, eps, clamp=clamp)
            torch.testing.assert_close(z, want_z, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(kl, want_kl)
            cotangent = torch.randn_like(want_z)
            (got,) = torch.autograd.grad((z, kl), moments, (cotangent, kl.detach()))
            want = torch.autograd.grad((want_z, want_kl), (mu, x), (cotangent, kl.detach()))
            rtol = 5e-5 if device.type == "cuda" else 1e-5  # a GPU's instructions are approximate
            torch.testing.assert_close(got, torch.cat(want, dim), rtol=rtol, atol=1e-5)
            assert got.stride() == moments.stride()


@pytest.mark.parametrize("scale", ["log_std", "std", "var", "rho"])
def test_moments_of_each_scale(device, scale):
    mu, x = (t.detach() for t in parameters(scale, (5, 3), torch.float32, device))
    key = noise.key(3, device=device)
    z, kl = gaussian_latent_from_moments(torch.cat((mu, x), 1), scale=scale, key=key)
    want_z, want_kl = gaussian_latent(mu, **{scale: x}, key=key)
    assert torch.equal(z, want_z)
    assert torch.equal(kl, want_kl)


def views():
    """Parameters that are moments, their halves, channels_last, or a row for all.

    Each with what its gradient takes: that of a chunk is put in its place by PyTorch.
    """
    moments = torch.randn(8, 8, 10, 10, requires_grad=True)
    last = torch.randn(8, 8, 10, 10).to(memory_format=torch.channels_last).requires_grad_()
    big, row = torch.randn(64, 32, requires_grad=True), torch.randn(32)
    return [
        (lambda: gaussian_latent_from_moments(moments), moments, 1),
        (lambda: gaussian_latent_from_moments(last), last, 1),
        (lambda: gaussian_latent(*moments.chunk(2, 1)), moments, 2),
        (lambda: gaussian_latent(*last.chunk(2, 1)), last, 2),
        (lambda: gaussian_latent(big, row), big, 1),
    ]


@pytest.mark.parametrize("target", ["native-cpu"], indirect=True)
def test_views_are_read_in_place(device):
    """Nothing of an operand's size is allocated but the results."""
    rest = 100  # bytes of keys and numbers
    for call, leaf, times in views():
        z, kl = call()
        grads = torch.randn_like(z), torch.ones_like(kl)
        assert allocated(device, call) <= z.nbytes + rest
        used = allocated(device, lambda: torch.autograd.grad((z, kl), leaf, grads))
        assert used <= times * leaf.nbytes + rest


def test_python_lays_views_out_without_copies(monkeypatch):
    """Where the extension is not at hand; only keys and scalars are made contiguous."""
    copies = []
    original = torch.Tensor.contiguous
    monkeypatch.setattr(
        torch.Tensor,
        "contiguous",
        lambda t, *a, **k: copies.append(t.shape) or original(t, *a, **k),
    )
    with fused_reparam.backend("reference"):
        for call, *_ in views():
            z, kl = call()
            (z.sum() + kl).backward()
    assert [c for c in copies if c.numel() > 2] == []


@pytest.mark.parametrize("view", ["channels_last", "halves of a chunk", "reversed dims"])
def test_saved_tensors_may_lose_their_strides(device, view):
    """Hooks such as save_on_cpu hand back contiguous copies; the noise must not move."""
    mu, x = base((3, 6, 5), device, 1), base((3, 6, 5), device, 2)
    if view == "channels_last":
        mu, x = (t[..., None].to(memory_format=torch.channels_last) for t in (mu, x))
    else:
        mu, x = VIEWS[view](mu), VIEWS[view](x)
    grads = []
    for pack in (lambda t: t, lambda t: t.detach().clone(memory_format=torch.contiguous_format)):
        leaves = [t.detach().requires_grad_() for t in (mu, x)]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            z, kl = gaussian_latent(*leaves, key=noise.key(1, device=device))
        grads.append(torch.autograd.grad(z.square().sum() + kl, leaves))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_memory_order():
    t = torch.empty(2, 3, 4, 5)
    assert layout.memory_order(t) == []
    assert layout.memory_order(t.permute(0, 2, 3, 1)) == [0, 3, 1, 2]
    assert layout.memory_order(t.chunk(3, 1)[1]) == []
    assert layout.memory_order(torch.empty(1, 1, 1).expand(2, 3, 4)) == []
    for dims in ((0, 1, 2, 3), (3, 1, 0, 2), (1, 2, 3, 0)):
        u = t.permute(dims)
        again = layout.empty_ordered(u.shape, layout.memory_order(u), u.dtype, u.device)
        assert again.stride() == u.stride()


def test_arrange_prefers_long_rows_and_few_copies():
    def arranged(*tensors):
        stand_ins = [layout.stand_in(t) for t in tensors]
        dense, places, _ = layout.arrange([], [(t, t) for t in stand_ins], ())
        return dense, [layout.operand(t, p) for t, p in zip(tensors, places, strict=True)]

    a, b = torch.randn(4, 6, 8), torch.randn(4, 12, 8)[:, :6]
    dense, (rows_a, rows_b) = arranged(a, b)
    assert not dense
    assert rows_a.shape == rows_b.shape == (4, 48)
    assert rows_b.stride() == (96, 1)
    assert rows_b.data_ptr() == b.data_ptr()
    scattered = torch.randn(8, 6, 4).permute(2, 1, 0)[:, ::2]
    dense, (rows,) = arranged(scattered)
    assert torch.equal(rows.reshape(-1), scattered.reshape(-1))
