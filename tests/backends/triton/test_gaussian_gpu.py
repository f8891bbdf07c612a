"""What only a real GPU can show of the Triton backend: streams, devices, graphs, large tensors."""

from __future__ import annotations

import math

import pytest
import torch

from fused_reparam.backends import triton as backend
from tests.helpers import gaussian_calls as gaussian
from tests.helpers.triton_truth import (
    DTYPES,
    INF,
    make_key,
    noise64,
    scale_values,
    values,
)

# --- on a real GPU --------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")
class TestGpu:
    def arguments(self, n: int, dtype: torch.dtype = torch.float32, device: str = "cuda"):
        loc, scale = values(n, dtype, 1).to(device), scale_values("logvar", n, dtype).to(device)
        return loc, scale, torch.full_like(loc, math.nan), torch.full((1,), math.nan, device=device)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_equals_the_reference(self, dtype):
        from fused_reparam.backends import reference

        n = 1_000_003
        loc, scale, z, _ = self.arguments(n, dtype)
        kl = torch.full(
            (1,), math.nan, device="cuda", dtype=torch.float64 if dtype == torch.float64 else None
        )
        other_z, other_kl = torch.full_like(z, math.nan), torch.full_like(kl, math.nan)
        for module, a, b in ((backend, z, kl), (reference, other_z, other_kl)):
            gaussian.forward(module, loc, scale, make_key(7), None, 0, -INF, INF, 1 / n, True, a, b)
        sigma = torch.exp(0.5 * scale.double())
        tolerance = 8e-6 * sigma + 2 * torch.finfo(dtype).eps * z.double().abs()
        assert ((z.double() - other_z.double()).abs() <= tolerance).all()
        torch.testing.assert_close(kl, other_kl, rtol=1e-5, atol=0)

    def test_a_million_normals(self):
        out = torch.full((1 << 20,), math.nan, device="cuda")
        backend.normal(make_key(11), out)
        want = noise64(11, 0, out.numel(), torch.float32)
        assert (out.cpu().double() - want).abs().max() <= 4e-6

    def test_cached_launch_is_used_and_gives_the_same_bits(self, monkeypatch):
        from fused_reparam.backends.triton import launch

        loc, scale, z, kl = self.arguments(4096)
        plain, slow = launch.Variant._plain, []
        monkeypatch.setattr(
            launch.Variant,
            "_launch_by_triton",
            lambda self, *a: slow.append(self) or plain(self, *a),
        )
        results = []
        for _ in range(3):
            gaussian.forward(backend, loc, scale, make_key(1), None, 0, -INF, INF, 1.0, True, z, kl)
            results.append((z.clone(), kl.clone()))
        assert len(slow) <= 1  # an earlier test may have compiled it
        assert all(
            torch.equal(z, results[0][0]) and torch.equal(kl, results[0][1]) for z, kl in results
        )

    def test_no_synchronisation(self):
        loc, scale, z, kl = self.arguments(300_000)
        key = make_key(1)
        call = (loc, scale, key, None, 0, -INF, INF, 1.0, True, z, kl)
        gaussian.forward(backend, *call)
        torch.cuda.set_sync_debug_mode("error")
        try:
            gaussian.forward(backend, *call)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert not z.isnan().any()

    def test_runs_on_the_current_stream(self):
        loc, scale, z, kl = self.arguments(1 << 20)
        key = make_key(1)
        stream = torch.cuda.Stream()
        call = (loc, scale, key, None, 0, -INF, INF, 1.0, True, z, kl)
        gaussian.forward(backend, *call)  # compiled, which may take longer than the sleep
        for _ in range(2):
            z.fill_(math.nan)
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(10_000_000)
                gaussian.forward(backend, *call)
            assert not stream.query()  # the launch waits behind the sleep
            stream.synchronize()
            assert not z.isnan().any()

    def test_in_a_cuda_graph(self):
        loc, scale, z, kl = self.arguments(1 << 20)
        key = make_key(1)
        call = (loc, scale, key, None, 0, -INF, INF, 1.0, True, z, kl)
        gaussian.forward(backend, *call)
        first = z.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            gaussian.forward(backend, *call)
        graph.replay()
        assert torch.equal(z, first)
        key.view(torch.int64)[1] += 1 << 20  # the key is read from memory at each replay
        graph.replay()
        assert not torch.equal(z, first)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_launches_on_the_tensors_device(self):
        for _ in range(2):
            loc, scale, z, kl = self.arguments(5000, device="cuda:1")
            key = make_key(1).to("cuda:1")
            with torch.cuda.device(0):
                gaussian.forward(backend, loc, scale, key, None, 0, -INF, INF, 1.0, True, z, kl)
                assert torch.cuda.current_device() == 0
            assert not z.isnan().any()

    def test_more_than_2_to_the_31_elements(self):
        n = 2**31 + 4099
        if torch.cuda.mem_get_info()[0] < 2 * 2 * n + 2**30:
            pytest.skip("needs 10 GB of free GPU memory")
        loc, z = (
            torch.zeros(n, dtype=torch.float16, device="cuda"),
            torch.empty(n, dtype=torch.float16, device="cuda"),
        )
        z.fill_(math.nan)
        gaussian.forward(backend, loc, loc, make_key(5), None, 0, -INF, INF, 1.0, True, z, None)
        for begin in (2**31 - 2048, 2**31, n - 2048):
            begin -= begin % 4
            want = noise64(5, begin // 4, min(2048, n - begin), torch.float16)
            assert (z[begin : begin + 2048].cpu().double() - want).abs().max() <= 2**-9
