"""``rng="torch"`` on CUDA: the kernels that draw ``torch.randn``'s numbers themselves.

Without a GPU the kernels run in Triton's interpreter, against the same mapping in numpy and
float64, with small numbers of blocks standing for a GPU's.
"""

from __future__ import annotations

import collections
import contextlib

import pytest
import torch

import fused_reparam
from fused_reparam import gaussian_latent
from fused_reparam.ops import gaussian_torch
from fused_reparam.rng import cuda as cuda_keys
from tests.helpers import gaussian_calls as gaussian
from tests.helpers.cuda_generators import OldGenerator
from tests.helpers.triton_truth import DEVICE, latent64, needs_backend, scale_values, values

np = pytest.importorskip("numpy")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
INF = float("inf")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MASK = np.uint64(0xFFFFFFFF)
# (elements, blocks): one thread's; one slice; several; a last call of one slice; several calls.
SIZES = [(1, 8), (77, 8), (2560, 40), (1024, 3), (3000, 3), (2 * 768 + 5, 3), (4096 + 19, 2)]
SIZES += [(4 * 256, 1), (4 * 512 + 1, 2)]


def philox(counter: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Philox4x32-10 of 32-bit words in uint64 arrays, round by round."""
    c = list(counter)
    k = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k[0], p1 & MASK,
             (p0 >> np.uint64(32)) ^ c[3] ^ k[1], p0 & MASK]  # fmt: skip
        k = [(k[0] + np.uint64(0x9E3779B9)) & MASK, (k[1] + np.uint64(0xBB67AE85)) & MASK]
    return c


def randn64(seed: int, offset: int, n: int, blocks: int) -> torch.Tensor:
    """What `torch.randn(n)` draws on a GPU that holds this many blocks, in float64."""
    threads = 256 * min(blocks, -(-n // 256))
    out = np.full(n, np.nan)
    thread = np.arange(threads, dtype=np.uint64)
    for call in range(-(-n // (4 * threads))):
        block = (offset // 4 + call) % 2**64
        low, high = (np.full_like(thread, v) for v in (block & 0xFFFFFFFF, block >> 32))
        w = philox([low, high, thread & MASK, thread >> np.uint64(32)], seed)
        f = [x.astype(np.float32).astype(np.float64) for x in w]
        for pair in (0, 2):
            u = (f[pair] * 2.0**-32 + 2.0**-33).astype(np.float32).astype(np.float64)
            turn = np.float64(np.float32(2 * np.pi)) * 2.0**-32
            angle = (f[pair + 1] * turn + turn / 2).astype(np.float32).astype(np.float64)
            radius = np.sqrt(-2.0 * np.log(u))
            for lane, value in ((pair, radius * np.sin(angle)), (pair + 1, radius * np.cos(angle))):
                at = np.arange(threads) + threads * (4 * call + lane)
                out[at[at < n]] = value[at < n]
    assert not np.isnan(out).any()
    return torch.from_numpy(out)


@pytest.fixture
def stream():
    from fused_reparam.backends import triton as backend

    return backend.torch_random()


def draw_of(stream, seed: int, offset: int, n: int, blocks: int):
    return stream.Draw(seed, offset, stream.threads_and_offsets(n, blocks)[0])


def test_the_emulation_knows_philox():
    """Random123's test vectors for philox4x32-10."""
    zero, ones = [np.zeros(1, np.uint64)] * 4, [np.full(1, 0xFFFFFFFF, np.uint64)] * 4
    assert [int(w[0]) for w in philox(zero, 0)] == [
        0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8
    ]  # fmt: skip
    assert [int(w[0]) for w in philox(ones, 2**64 - 1)] == [
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD
    ]  # fmt: skip


@needs_backend
def test_threads_and_offsets_by_hand(stream):
    """On an H100 (132 processors of 2048 threads): 1056 blocks."""
    assert stream.threads_and_offsets(1, 1056) == (256, 4)
    assert stream.threads_and_offsets(2560, 1056) == (2560, 4)
    assert stream.threads_and_offsets(1056 * 256 * 4, 1056) == (270336, 4)
    assert stream.threads_and_offsets(1056 * 256 * 4 + 1, 1056) == (270336, 8)
    assert stream.threads_and_offsets(2**29, 1056) == (270336, 1988)


@needs_backend
@pytest.mark.parametrize(("n", "blocks"), SIZES)
def test_fill(stream, n, blocks):
    for seed, offset in ((0, 0), (2**63 + 5, 2**35 + 8)):
        buffer = torch.full((n + 64,), INF, device=DEVICE)
        stream.normal(draw_of(stream, seed, offset, n, blocks), buffer[32 : 32 + n])
        want = randn64(seed, offset, n, blocks)
        assert (buffer[32 : 32 + n].cpu().double() - want).abs().max() <= 4e-6
        assert (buffer[:32] == INF).all()
        assert (buffer[32 + n :] == INF).all()


@needs_backend
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_16_bit_noise_is_rounded_float32(stream, dtype):
    n, blocks = 3000, 3
    draw = draw_of(stream, 9, 4, n, blocks)
    out, exact = torch.empty(n, dtype=dtype, device=DEVICE), torch.empty(n, device=DEVICE)
    stream.normal(draw, out)
    stream.normal(draw, exact)
    assert torch.equal(out, exact.to(dtype))


@needs_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["logvar", "log_std", "std", "var", "rho"])
def test_forward_and_backward_have_the_eps_forms_results(stream, kind, dtype):
    """Against the backend's own kernels, which are given the noise."""
    from fused_reparam.backends import triton as backend

    number = ["logvar", "log_std", "std", "var", "rho"].index(kind)
    clamp = (-1.0, 1.5) if number < 2 else (-INF, INF)
    for n, blocks in ((77, 8), (3000, 3)):
        loc, gz = (values(n, dtype, seed).to(DEVICE) for seed in (1, 2))
        scale = scale_values(kind, n, dtype).to(DEVICE)
        draw = draw_of(stream, 5, 40, n, blocks)
        eps = torch.empty_like(loc)
        stream.normal(draw, eps)
        z, kl = torch.full_like(loc, INF), torch.full((), INF, device=DEVICE)
        want_z, want_kl = torch.full_like(z, INF), torch.full_like(kl, INF)
        stream.forward(draw, loc, scale, number, *clamp, 0.25, z, kl)
        gaussian.forward(
            backend, loc, scale, None, eps, number, *clamp, 0.25, True, want_z, want_kl
        )
        assert torch.equal(z, want_z)
        torch.testing.assert_close(kl, want_kl, rtol=1e-5, atol=0)
        for gkl in (torch.tensor(0.7, device=DEVICE), None):
            got = torch.full_like(loc, INF), torch.full_like(loc, INF)
            want = torch.full_like(loc, INF), torch.full_like(loc, INF)
            stream.backward(draw, gz, gkl, loc, scale, number, *clamp, 0.25, *got)
            gaussian.backward(
                backend, gz, gkl, loc, scale, None, eps, number, *clamp, 0.25, True, *want
            )
            tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
            for g, w in zip(got, want, strict=True):
                torch.testing.assert_close(g, w, rtol=tolerance, atol=tolerance)


@needs_backend
def test_sample_and_kl_in_float64(stream):
    n, blocks = 3000, 3
    loc = values(n, torch.float32, 1).to(DEVICE)
    scale = scale_values("logvar", n, torch.float32).to(DEVICE)
    z, kl = torch.full_like(loc, INF), torch.full((), INF, device=DEVICE)
    stream.forward(draw_of(stream, 7, 12, n, blocks), loc, scale, 0, -INF, INF, 1 / n, z, kl)
    sigma, log_square, _, _ = latent64("logvar", scale.cpu())
    want = loc.cpu().double() + sigma * randn64(7, 12, n, blocks)
    assert ((z.cpu().double() - want).abs() <= sigma * 5e-6 + 1e-6).all()
    each = 0.5 * (loc.cpu().double() ** 2 + sigma**2 - 1 - log_square)
    assert kl.item() == pytest.approx(each.mean().item(), rel=1e-6)


# --- the test of PyTorch's bits, and what happens where it fails ---------------------------------


class Torch:
    """`torch.randn` as a GPU of so many blocks would have it; `error` is put into one element."""

    def __init__(self, blocks: int, error: float = 0.0, moves: int = 0):
        self.blocks, self.error, self.moves = blocks, error, moves
        self.offset = 0

    def manual_seed(self, seed: int) -> None:
        self.seed = seed

    def get_offset(self) -> int:
        return self.offset

    def randn(self, n, dtype, device, generator):
        assert generator is self
        from fused_reparam.backends import triton as backend

        stream = backend.torch_random()
        threads, moved = stream.threads_and_offsets(n, self.blocks)
        out = torch.empty(n, dtype=dtype, device=device)
        stream.normal(stream.Draw(self.seed, self.offset, threads), out)
        out[-1] += self.error
        self.offset += moved + self.moves
        return out


@needs_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_test_of_bits_sees_a_difference(stream, dtype, monkeypatch):
    def same(fake, blocks):
        monkeypatch.setattr(torch, "randn", fake.randn)
        return stream.same_as_torch(fake, DEVICE, dtype, blocks)

    assert same(Torch(2), 2)
    assert not same(Torch(2, error=0.01), 2)
    assert not same(Torch(2, moves=4), 2)  # the generator would be left elsewhere
    assert not same(Torch(3), 2)  # other numbers of threads


@pytest.fixture
def unknown(stream, monkeypatch):
    """Nothing is known of any device; a CUDA device can be entered."""
    monkeypatch.setattr(stream, "_why_not", {})
    monkeypatch.setattr(stream, "_died", collections.Counter())
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch, "Generator", lambda device: None)
    monkeypatch.setattr(stream, "most_blocks", lambda device: 2)
    return stream


@needs_backend
@pytest.mark.parametrize("mode", [0, 2])
def test_the_comparison_is_made_once_and_leaves_the_debug_mode(unknown, mode, monkeypatch):
    modes, compared = [], []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(unknown, "same_as_torch", lambda *_: compared.append(1))
    for _ in range(2):
        assert not unknown.holds(torch.device("cuda", 0), torch.float32)
    assert "not PyTorch's" in unknown.why_not(torch.device("cuda", 0), torch.float32)
    assert len(compared) == 1
    assert modes == ([0, 2] if mode else [])  # setting it warns


@needs_backend
def test_a_failure_may_pass_and_is_believed_the_third_time(unknown, monkeypatch):
    tried = []

    def broken(*_):
        tried.append(1)
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(unknown, "same_as_torch", broken)
    for _ in range(5):
        reason = unknown.why_not(torch.device("cuda", 0), torch.float32)
        assert reason == "RuntimeError: no kernel image"
    assert len(tried) == 3
    monkeypatch.setattr(unknown, "same_as_torch", lambda *_: True)
    assert unknown.holds(torch.device("cuda", 0), torch.bfloat16)


# --- the whole way -------------------------------------------------------------------------------


@pytest.fixture
def forced(stream, monkeypatch):
    """The fused way with a stand-in generator, for a GPU of two blocks; returns the generator."""
    generator = OldGenerator(2**63 + 6, 20)
    monkeypatch.setattr(cuda_keys, "eager_generator", lambda device, own: own or generator)
    monkeypatch.setattr(stream, "most_blocks", lambda device: 2)
    monkeypatch.setattr(stream, "holds", lambda device, dtype: True)
    with fused_reparam.backend("triton"):
        yield generator


def pair(shape, **options):
    mu = values(int(np.prod(shape)), torch.float32, 3).view(shape).to(DEVICE)
    return mu.requires_grad_(), (0.5 * mu.detach()).requires_grad_()


@needs_backend
def test_latent_draws_in_the_kernel_and_keeps_no_noise(forced):
    mu, logvar = pair((9, 300))  # 2700 elements: two calls of 512 threads
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        z, kl = gaussian_latent(mu, logvar, rng="torch")
    assert forced.offset == 28
    assert len(kept) == 2
    eps = randn64(2**63 + 6, 20, 2700, 2).view(9, 300).float().to(DEVICE)
    want_z, want_kl = gaussian_latent(mu, logvar, eps=eps)
    torch.testing.assert_close(z, want_z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl, want_kl, rtol=1e-5, atol=0)
    got = torch.autograd.grad(z.square().sum() + kl, (mu, logvar), retain_graph=True)
    want = torch.autograd.grad(want_z.square().sum() + want_kl, (mu, logvar))
    again = torch.autograd.grad(z.square().sum() + kl, (mu, logvar))
    for g, w, a in zip(got, want, again, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)
        assert torch.equal(g, a)


@needs_backend
def test_general_backward_has_the_same_noise(forced):
    """One gradient only, a stride-0 gradient, no gradient of z, and a second derivative."""
    mu, logvar = pair((4, 150))
    own = OldGenerator(6, 8)
    z, kl = gaussian_latent(mu, logvar, rng="torch", generator=own)
    assert (own.offset, forced.offset) == (12, 20)
    eps = randn64(6, 8, 600, 2).view(4, 150).float().to(DEVICE)
    slope = 0.5 * torch.exp(0.5 * logvar.detach()) * eps
    (only,) = torch.autograd.grad(z, logvar, torch.ones_like(z), retain_graph=True)
    torch.testing.assert_close(only, slope, rtol=1e-5, atol=1e-5)
    (strided,) = torch.autograd.grad(z.sum(), logvar, retain_graph=True)
    torch.testing.assert_close(strided, slope, rtol=1e-5, atol=1e-5)
    to_mu, _ = torch.autograd.grad(kl, (mu, logvar), retain_graph=True)
    torch.testing.assert_close(to_mu, mu.detach() / 4)
    (first,) = torch.autograd.grad(z.sum(), logvar, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), logvar)
    torch.testing.assert_close(second, 0.5 * slope, rtol=1e-5, atol=1e-5)


@needs_backend
def test_what_the_kernel_does_not_serve_is_declined(forced, monkeypatch):
    mu = torch.zeros(4, 6, device=DEVICE)

    def served(a, b, reduction="sum"):
        found = gaussian_torch.latent(a, b, 0, (-INF, INF), reduction, None)
        return found is not None

    assert served(mu, mu)
    assert not served(mu.t(), mu.t())
    assert not served(mu, mu[0])
    assert not served(mu.double(), mu.double())
    assert not served(mu, mu.half())
    assert not served(mu, 0.5)
    assert not served(mu[:0], mu[:0])
    assert not served(mu, mu, "none")
    assert not served(mu, mu, None)
    with fused_reparam.backend("reference"):
        assert not served(mu, mu)
    inside = []
    torch.func.vmap(lambda a: inside.append(served(a, a)) or a, randomness="same")(mu)
    assert inside == [False]
    from fused_reparam.backends import triton as backend

    monkeypatch.setattr(backend.torch_random(), "holds", lambda device, dtype: False)
    assert not served(mu, mu)
    assert forced.offset == 24  # only the call that was served has drawn
