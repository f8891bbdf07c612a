"""``rng="torch"`` on a real GPU: the very bits of ``torch.randn_like``, and its offsets."""

from __future__ import annotations

import pytest
import torch

from fused_reparam import gaussian_latent
from fused_reparam.backends.triton import torch_random as torch_calls

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.skipif(bool(torch.version.hip), reason="cuRAND's numbers are CUDA's")
class TestGpu:
    def sizes(self):
        wrap = 4 * 256 * torch.cuda.get_device_properties(0).multi_processor_count * 8
        return (1, 255, 2560, 100_003, wrap // 4 + 1, wrap - 1, wrap + 777, 5 * wrap + 3)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_the_numbers_are_pytorchs(self, dtype):
        """Where this fails the noise is drawn as a tensor instead, and `info` says so."""
        assert torch_calls().holds(torch.device("cuda", 0), dtype)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_bits_and_offset_of_randn_like(self, dtype):
        for n in self.sizes():
            mu = torch.zeros(n, dtype=dtype, device="cuda")
            for own in (None, torch.Generator("cuda")):
                generator = own or torch.cuda.default_generators[0]
                generator.manual_seed(2**63 + n)
                z, _ = gaussian_latent(mu, mu, rng="torch", generator=own)  # sigma = 1, mean 0
                after = generator.get_offset()
                generator.manual_seed(2**63 + n)
                want = torch.empty_like(mu).normal_(generator=generator)
                assert torch.equal(z, want)
                assert generator.get_offset() == after

    def test_the_test_leaves_the_generator_and_the_debug_mode_alone(self):
        torch_calls()._why_not.clear()  # as at first use
        torch_calls()._died.clear()
        mu = torch.zeros(128, 20, device="cuda", requires_grad=True)
        before = torch.cuda.get_rng_state()
        torch.cuda.set_sync_debug_mode("error")
        try:
            z, kl = gaussian_latent(mu, mu, rng="torch")
            torch.autograd.grad((z, kl), mu, (z.detach(), torch.ones_like(kl)))
            assert torch.cuda.get_sync_debug_mode() == 2
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.set_rng_state(before)
        assert torch.equal(torch.randn_like(mu), z)

    def test_loss_curves_coincide(self):
        """A small model trained with the textbook latent, and with this one: the same losses."""

        def train(latent):
            torch.manual_seed(0)
            weight = torch.randn(2, 64, 40, device="cuda").requires_grad_()
            data = 0.1 * torch.randn(256, 64, device="cuda")
            optimizer = torch.optim.SGD([weight], lr=1.0)
            losses = []
            for _ in range(60):
                mu, logvar = (data @ w for w in weight)
                z, kl = latent(mu, logvar)
                loss = (z - 1).square().mean() + 0.1 * kl
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            return torch.stack(losses)

        def textbook(mu, logvar):
            std = torch.exp(0.5 * logvar)
            kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / mu.shape[0]
            return mu + torch.randn_like(std) * std, kl

        want = train(textbook)
        got = train(lambda mu, logvar: gaussian_latent(mu, logvar, rng="torch"))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert want[-1] < 0.9 * want[0]

    def test_under_capture_and_compile_the_noise_is_drawn(self):
        mu = torch.zeros(300, device="cuda")
        gaussian_latent(mu, mu, rng="torch")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            z, _ = gaussian_latent(mu, mu, rng="torch")
        graph.replay()
        first = z.clone()
        graph.replay()
        assert not torch.equal(z, first)
        compiled = torch.compile(lambda a: gaussian_latent(a, a, rng="torch")[0], fullgraph=True)
        assert compiled(mu).shape == mu.shape
