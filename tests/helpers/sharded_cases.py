"""Calls of DTensors on several ranks, against the same calls on one device.

Run as a program, once for each rank: ``python -m tests.helpers.sharded_cases FOLDER RANK SIZES``,
SIZES being those of the mesh, as 2x2. What fails is written to FOLDER, by name.
"""

from __future__ import annotations

import itertools
import json
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.elementwise_cases import cotangents, gradients
from tests.helpers.public_cases import CASES

KEY = noise.key(7, 5)


def sharded(t, mesh, placements):
    """A DTensor of a tensor, a leaf where that is one. What is too small is replicated."""
    found = [
        Replicate() if isinstance(p, Shard) and p.dim >= t.dim() else p for p in placements
    ]
    return distribute_tensor(t.detach(), mesh, found).requires_grad_(t.requires_grad)


def run_sharded(call, params, mesh, placements, **sources):
    """Results and gradients of a call of DTensors, gathered."""
    there = [sharded(p, mesh, placements) for p in params]
    outputs = call(*there, **sources)
    whole = [o.full_tensor() for o in outputs]
    grads = [
        distribute_tensor(
            g, mesh, [Replicate() if p.is_partial() else p for p in o.placements], src_data_rank=None
        )
        for g, o in zip(cotangents(whole), outputs, strict=True)
    ]
    found = gradients(outputs, there, grads)
    return whole, [g.full_tensor() for g in found]


def compare(call, params, mesh, placements, **sources):
    """AssertionError unless the two are the same: samples bit for bit, all else to rounding."""
    want = call(*params, **sources)
    want_grads = gradients(want, params, cotangents(want))
    got, got_grads = run_sharded(call, params, mesh, placements, **sources)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert (g.shape, g.dtype) == (w.shape, w.dtype), (i, g.shape, w.shape)
        if i == 0 and sources:
            assert torch.equal(g, w), f"sample: {(g - w).abs().max():.3g} apart"
        else:
            torch.testing.assert_close(g, w, rtol=2e-6, atol=2e-6)
    for i, (g, w) in enumerate(zip(got_grads, want_grads, strict=True)):
        torch.testing.assert_close(
            g, w, rtol=1e-5, atol=1e-6, msg=lambda m, i=i: f"gradient {i}: {m}"
        )


def checks(mesh):
    """Names, and functions that raise where something is wrong."""
    ways = [[Shard(d)] for d in range(3)] if mesh.ndim == 1 else [[Shard(1), Shard(2)]]
    for (name, call), way in itertools.product(CASES.items(), ways):
        params = call.params((4, 3, 6))
        sources = {"key": KEY} if call.noisy else {}
        yield f"{name} {way}", lambda c=call, p=params, w=way, s=sources: compare(c, p, mesh, w, **s)


def main():
    folder, rank, sizes = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    sizes = tuple(int(n) for n in sizes.split("x"))
    world = torch.Size(sizes).numel()
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", sizes)
    failures = {}
    for name, check in checks(mesh):
        try:
            check()
        except Exception:
            failures[name] = traceback.format_exc()
        # A rank that failed must not leave the others waiting.
    (folder / f"failures{rank}.json").write_text(json.dumps(failures))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
