"""Keys on a real GPU: generators, streams, devices, CUDA graphs, kernels launched, no waiting."""

from __future__ import annotations

import pytest
import torch

from fused_reparam import gaussian_latent, gaussian_rsample, noise
from fused_reparam.rng import keys as rng_keys
from tests.helpers.cuda_generators import CUDA, OldGenerator, equal, host_key
from tests.helpers.triton_truth import signed

# As cuda_keys finds it: PyTorch 2.14's method, or its compiler's form of the same.
HAS_GRAPH_STATE = hasattr(torch.Generator, "philox_state") or (
    hasattr(torch.ops.inductor_prims, "inductor_reserve_rng_state")
)


def inputs(shape=(128, 20), device="cuda"):
    generator = torch.Generator().manual_seed(1)
    mu, logvar = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    return mu.requires_grad_(), logvar.requires_grad_()


def backward_of(mu, logvar, **options):
    """One step's results, with nothing that waits for the device."""
    z, kl = gaussian_latent(mu, logvar, **options)
    grads = torch.autograd.grad((z, kl), (mu, logvar), (z.detach(), torch.ones_like(kl)))
    return z.detach(), kl.detach(), *grads


@pytest.fixture
def _no_fill():
    """conftest fills fresh memory, which is a kernel of its own."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")
class TestGpu:
    def test_keys_are_those_of_the_generators_state(self):
        torch.cuda.init()  # there are no generators before
        torch.manual_seed(11)
        generator = torch.cuda.default_generators[0]
        for at in (0, 4):
            assert generator.get_offset() == at
            key = noise.draw_key("cuda:0").view(torch.int64)
            assert key.tolist() == [signed(noise.derived_seed(11, at)), 0]

    def test_a_stand_in_for_the_other_way_is_faithful(self):
        """Reserving as before PyTorch 2.14 and from then on leaves the same state."""
        real = torch.Generator("cuda").manual_seed(3)
        torch.randn(1000, device="cuda", generator=real)
        old = OldGenerator(real.initial_seed(), real.get_offset())
        for _ in range(2):
            assert torch.equal(rng_keys.draw_bits(CUDA, real), rng_keys.draw_bits(CUDA, old))
            assert real.get_offset() == old.offset

    def test_rng_state_round_trip(self):
        mu, logvar = inputs()
        torch.randn(5, device="cuda")
        state = torch.cuda.get_rng_state()
        with torch.random.fork_rng():
            first = backward_of(mu, logvar)
        assert torch.equal(torch.cuda.get_rng_state(), state)
        assert equal(backward_of(mu, logvar), first)
        assert not equal(backward_of(mu, logvar), first)
        torch.cuda.set_rng_state(state)
        assert equal(backward_of(mu, logvar), first)

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_checkpointing_replays(self, reentrant):
        from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

        mu, logvar = inputs()
        seen = []

        def layer(a, b):
            z, kl = gaussian_latent(a, b)
            seen.append(z.detach().clone())
            return z, kl

        with set_checkpoint_early_stop(False):  # or it stops before the layer's end
            z, kl = checkpoint(layer, mu, logvar, use_reentrant=reentrant)
            (z.square().sum() + kl).backward()
        assert len(seen) == 2
        assert torch.equal(seen[0], seen[1])

    def test_own_generator(self):
        mu, logvar = inputs()
        before = torch.cuda.get_rng_state()
        runs = []
        for _ in range(2):
            own = torch.Generator("cuda").manual_seed(2**63 + 1)
            runs.append([backward_of(mu, logvar, generator=own) for _ in range(2)])
            assert own.get_offset() == 8
        assert equal(runs[0][0], runs[1][0])
        assert equal(runs[0][1], runs[1][1])
        assert not equal(runs[0][0], runs[0][1])
        assert equal(runs[0][0], backward_of(mu, logvar, key=host_key(2**63 + 1, 0)))
        assert torch.equal(torch.cuda.get_rng_state(), before)

    def test_two_streams(self):
        mu, logvar = inputs((256, 1024))
        torch.manual_seed(4)
        want = [backward_of(mu, logvar) for _ in range(6)]
        torch.manual_seed(4)
        streams = [torch.cuda.Stream() for _ in range(2)]
        torch.cuda.synchronize()
        got = []
        for i in range(6):
            with torch.cuda.stream(streams[i % 2]):
                torch.cuda._sleep(1_000_000)
                got.append(backward_of(mu, logvar))
        torch.cuda.synchronize()
        assert all(equal(g, w) for g, w in zip(got, want, strict=True))

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_two_devices(self):
        torch.manual_seed(6)
        first = backward_of(*inputs(device="cuda:0"))
        with torch.cuda.device(0):
            second = backward_of(*inputs(device="cuda:1"))
        assert second[0].device.index == 1
        assert equal(first, [t.to("cuda:0") for t in second])  # both seeded with 6, at offset 0

    @pytest.mark.usefixtures("_no_fill")
    def test_no_synchronisation_and_two_kernels(self):
        mu, logvar = inputs()
        backward_of(mu, logvar)
        torch.cuda.set_sync_debug_mode("error")
        try:
            backward_of(mu, logvar)
            gaussian_rsample(mu, logvar, key=noise.key(1))
            noise.draw_key("cuda")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        z, kl = gaussian_latent(mu, logvar)
        grads = torch.ones_like(z), torch.ones_like(kl)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            z, kl = gaussian_latent(mu, logvar)
            torch.autograd.grad((z, kl), (mu, logvar), grads)
            torch.cuda.synchronize()
        events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        names = [e.name for e in events]
        assert len(names) == 2, names
        assert "gaussian_forward_kernel" in names[0]
        assert "gaussian_backward_kernel" in names[1]

    @pytest.mark.usefixtures("_no_fill")
    def test_a_graphs_replays_draw_new_noise(self):
        mu, logvar = inputs()
        backward_of(mu, logvar)
        torch.cuda.synchronize()
        torch.manual_seed(21)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            first = backward_of(mu, logvar)
            second = backward_of(mu, logvar)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        seen = []
        for _ in range(3):
            at = generator.get_offset()
            graph.replay()
            for offset, got in ((at, first), (at + 4, second)):
                seen.append(got[0].clone())
                if HAS_GRAPH_STATE:  # else torch.randint draws in the graph
                    assert equal(got, backward_of(mu, logvar, key=host_key(21, offset)))
            assert torch.isfinite(torch.stack(got[2:])).all()
        assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[i + 1 :]), (
            "each replay, and each call in it, draws its own"
        )

    @pytest.mark.skipif(not HAS_GRAPH_STATE, reason="no generator state for graphs")
    @pytest.mark.usefixtures("_no_fill")
    def test_a_graph_of_a_step_holds_two_kernels(self):
        mu, logvar = inputs()
        z, kl = gaussian_latent(mu, logvar)
        grads = torch.ones_like(z), torch.ones_like(kl)
        torch.autograd.grad((z, kl), (mu, logvar), grads)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            z, kl = gaussian_latent(mu, logvar)
            torch.autograd.grad((z, kl), (mu, logvar), grads)
        graph.replay()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            graph.replay()
            torch.cuda.synchronize()
        events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        ours = [e.name for e in events if "fill" not in e.name.lower()]  # the state that is set
        assert len(ours) == 2, ours

    def test_a_host_key_reaches_the_device_where_a_tensor_of_noise_is_made(self):
        mu, logvar = inputs((4, 3))
        key = noise.key(5)
        z, _, eps = gaussian_latent(mu, logvar, key=key, return_eps=True)
        torch.testing.assert_close(eps.cpu(), noise.normal(key, (4, 3)), rtol=0, atol=4e-6)
        (first,) = torch.autograd.grad(z.sum(), logvar, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), logvar)
        torch.testing.assert_close(second, 0.25 * torch.exp(0.5 * logvar) * eps)
        mapped = torch.func.vmap(lambda a, b: gaussian_rsample(a, b, key=key))(mu, logvar)
        want = mu + torch.exp(0.5 * logvar) * noise.normal(key, 3, device="cuda")
        torch.testing.assert_close(mapped, want)

    @pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
    def test_compiled_calls_draw_new_noise_that_the_seed_decides(self, mode):
        mu, logvar = inputs()
        compiled = torch.compile(gaussian_latent, fullgraph=True, mode=mode)
        runs = []
        for _ in range(2):
            torch.manual_seed(8)
            for _ in range(4):  # warm-up, capture, replays
                z, kl = compiled(mu, logvar)
                (grad,) = torch.autograd.grad(z.sum() + 0 * kl, logvar)
                # Were the backward's noise another, this would not be half of z - mu.
                torch.testing.assert_close(2 * grad, (z - mu).detach())
                runs.append(z.detach().clone())
        assert not any(torch.equal(a, b) for i, a in enumerate(runs[:4]) for b in runs[:i])
        assert torch.equal(runs[-1], runs[3])  # both replays, the fourth from one seed

    def test_drawing_a_key_leaves_cudnns_dropout_state(self):
        rnn = torch.nn.LSTM(8, 8, 2, dropout=0.5, device="cuda").train()
        x, (mu, logvar) = torch.zeros(3, 2, 8, device="cuda"), inputs()
        rnn(x)
        before = torch.cuda.default_generators[0].get_offset()
        gaussian_latent(mu, logvar)
        rnn(x)  # would draw, and wait
        assert torch.cuda.default_generators[0].get_offset() == before + 4
