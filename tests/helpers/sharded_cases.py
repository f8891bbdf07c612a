"""Calls of DTensors on several ranks, against the same calls on one device."""

from __future__ import annotations

import itertools
import json
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import fused_reparam as fr
from fused_reparam import noise
from fused_reparam.nn.bayes import linear
from tests.helpers.allocations import held
from tests.helpers.elementwise_cases import cotangents, gradients
from tests.helpers.public_cases import CASES, given_noise, given_noise_params, leaves
from tests.helpers.ranks import PATIENCE, end

KEY = noise.key(7, 5)


def sharded(t, mesh, placements):
    """A DTensor of a tensor that all ranks have, a leaf where that is one.

    What has no such dim is replicated. Nothing is sent.
    """
    found = [Replicate() if isinstance(p, Shard) and p.dim >= t.dim() else p for p in placements]
    there = distribute_tensor(t.detach(), mesh, found, src_data_rank=None)
    return there.requires_grad_(t.requires_grad)


def shards(found, want):
    """This rank's shards of a result and of what the whole should be, sums added up."""
    placements = [Replicate() if p.is_partial() else p for p in found.placements]
    found = found.detach().redistribute(placements=placements)
    return found.to_local(), sharded(want.detach(), found.device_mesh, placements).to_local()


def results(call, params, **sources):
    outputs = call(*params, **sources)
    return outputs, gradients(outputs, params, cotangents(outputs))


def results_sharded(call, params, mesh, placements, **sources):
    """The same of DTensors."""
    there = [sharded(p, mesh, placements) for p in params]
    outputs = call(*there, **sources)
    like = [torch.empty(o.shape, dtype=o.dtype) for o in outputs]
    grads = [
        sharded(g, mesh, [Replicate() if p.is_partial() else p for p in o.placements])
        for g, o in zip(cotangents(like), outputs, strict=True)
    ]
    return outputs, gradients(outputs, there, grads)


def _by_torch(call):
    """Whether PyTorch's operators are in a sample that round the last elements of a tensor
    otherwise than those that fill a vector: softplus and sigmoid among them, which the reference
    backend is made of.
    """
    rho = "rho" in (*call.names, call.options.get("scale"))
    each_class = call.function is fr.gumbel_softmax and "tau" in call.names
    if (rho and "min_std" in call.options) or each_class or call.function is fr.tanh_normal_sample:
        return True
    reference = fr.current_backend("cpu") == "reference"
    return reference and (rho or call.function is fr.relaxed_bernoulli)


def _rounding(dtype):
    """How far sums of the same numbers in another order may be apart."""
    eps = torch.finfo(dtype).eps
    return (
        {"rtol": 32 * eps, "atol": 16 * eps} if eps < 1e-3 else {"rtol": 2 * eps, "atol": 2 * eps}
    )


def compare(call, params, mesh, placements, **sources):
    """AssertionError unless the two are the same: samples bit for bit, all else to rounding."""
    want, want_grads = results(call, params, **sources)
    got, got_grads = results_sharded(call, params, mesh, placements, **sources)
    # All that is sent is sent before anything is compared: else a rank would wait for another.
    outputs = [shards(g, w) for g, w in zip(got, want, strict=True)]
    grads = [shards(g, w) for g, w in zip(got_grads, want_grads, strict=True)]
    for i, (g, w) in enumerate(outputs):
        assert (got[i].shape, got[i].dtype) == (want[i].shape, want[i].dtype)
        if i == 0 and sources and not _by_torch(call):
            assert torch.equal(g, w), f"the sample is {(g - w).abs().max():.3g} off"
        torch.testing.assert_close(g, w, **_rounding(w.dtype))
    for i, (g, w) in enumerate(grads):
        torch.testing.assert_close(
            g, w, **_rounding(w.dtype), msg=lambda m, i=i: f"gradient {i}: {m}"
        )


def _public(mesh, shape, dtype, ways, cases):
    for (name, call), way in itertools.product(cases.items(), ways):
        params = call.params(shape, dtype)
        sources = {"key": KEY} if call.noisy else {}
        yield (
            f"{name} {dtype} {shape} {way}",
            lambda c=call, p=params, w=way, s=sources: compare(c, p, mesh, w, **s),
        )


def _refused(error, words, function, *args, **options):
    with pytest.raises(error, match=words):
        function(*args, **options)


def _no_key(mesh, way):
    """Ranks whose generators differ, and which give no key, have the first one's draw."""
    mu, std = torch.zeros(5, 7), torch.ones(5, 7)
    there = [sharded(t, mesh, way) for t in (mu, std)]
    for given in (False, True):
        # What the first rank's generator gives, and what this rank's has besides.
        first, own = (torch.Generator().manual_seed(100 + r) for r in (0, dist.get_rank()))
        torch.manual_seed(100 + dist.get_rank())
        options = {"generator": own} if given else {}
        for _ in range(2):
            want = fr.gaussian_rsample(mu, std=std, key=noise.draw_key(generator=first))
            z, _, eps = fr.gaussian_latent(there[0], std=there[1], return_eps=True, **options)
            assert torch.equal(z.full_tensor(), want)
            assert torch.equal(eps.full_tensor(), want)
    number = fr.gaussian_rsample(0.5, std=there[1], **options).full_tensor()
    key = noise.draw_key(generator=first)
    assert torch.equal(number, fr.gaussian_rsample(0.5, std=std, key=key))


def _inference(mesh, way):
    mu, logits = leaves(("mu", "logits"), (5, 7))
    with torch.inference_mode():
        a = fr.gaussian_rsample(sharded(mu, mesh, way), std=1.0, key=KEY).full_tensor()
        b = fr.one_hot_categorical(sharded(logits, mesh, way), key=KEY).full_tensor()
    assert torch.equal(a, fr.gaussian_rsample(mu, std=1.0, key=KEY))
    assert torch.equal(b, fr.one_hot_categorical(logits, key=KEY))


def _refusals(mesh, way):
    mu = sharded(torch.zeros(4, 6), mesh, way)
    _refused(NotImplementedError, 'rng="torch"', fr.gaussian_rsample, mu, std=1.0, rng="torch")
    _refused(NotImplementedError, 'rng="torch"', fr.one_hot_categorical, mu, rng="torch")
    some = [torch.Generator() for _ in range(4)]
    _refused(NotImplementedError, "list of generators", fr.gaussian_rsample, mu, std=1.0,
             generator=some)  # fmt: skip
    _refused(TypeError, "beside DTensors", fr.gaussian_rsample, mu, std=torch.ones(4, 6), key=KEY)
    _refused(ValueError, "reduction must be", fr.gaussian_latent, mu, std=1.0, reduction="all")


def _saves_no_noise(mesh, way):
    """Where a shard's noise is cut out of the stream, none is kept for the backward pass."""
    mu, std = torch.zeros(32, 256), torch.ones(256)
    there = [sharded(t, mesh, way).requires_grad_() for t in (mu, std)]

    def call():
        return fr.gaussian_rsample(there[0], std=there[1], key=KEY)

    call()  # what a first call finds out, and keeps
    z, left = held(call)
    assert z.to_local().nbytes <= left < 1.5 * z.to_local().nbytes
    z.backward(torch.ones_like(z))
    std.requires_grad_()
    (want,) = torch.autograd.grad(fr.gaussian_rsample(mu, std=std, key=KEY).sum(), std)
    torch.testing.assert_close(there[1].grad.full_tensor(), want, rtol=1e-5, atol=1e-5)


def _layer(mesh, way, recompute):
    """A linear layer of sampled weights, by tensor parallelism."""
    torch.manual_seed(0)
    layer = fr.nn.BayesianLinear(12, 10, recompute=recompute)
    x = torch.randn(6, 12, requires_grad=True)
    torch.manual_seed(1)
    y = layer(x)
    loss = y.square().sum() + layer.kl()
    loss.backward()
    want = [y.detach(), x.grad, *(p.grad for p in layer.parameters())]
    distribute(layer, mesh, way)
    x = sharded(x.detach(), mesh, [Replicate()] * mesh.ndim).requires_grad_()
    torch.manual_seed(1)
    y = layer(x)
    (y.square().sum() + layer.kl()).backward()
    got = [y, x.grad, *(p.grad for p in layer.parameters())]
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.full_tensor().detach(), w, rtol=1e-5, atol=1e-5)


def distribute(layer, mesh, way):
    """Make DTensors of a layer's parameters, in place."""
    for name, p in list(layer.named_parameters()):
        *path, last = name.split(".")
        place = [w if w.dim < p.dim() else Replicate() for w in way]
        there = torch.nn.Parameter(distribute_tensor(p.detach(), mesh, place))
        setattr(layer.get_submodule(".".join(path)), last, there)


def _channels_last(mesh, way):
    moments = leaves(("moments",), (2, 8, 6, 4))[0].to(memory_format=torch.channels_last)
    want = fr.gaussian_rsample_from_moments(moments, key=KEY)
    there = sharded(moments, mesh, way)
    got = fr.gaussian_rsample_from_moments(there, key=KEY)
    assert torch.equal(got.full_tensor(), want)


def _one_of_each_function():
    """Calls, one of each function."""
    return dict({call.function: (name, call) for name, call in reversed(CASES.items())}.values())


def _some(cases, first):
    """A third of them."""
    return dict(list(cases.items())[first::3])


def checks(mesh):
    """Names, and functions that raise where something is wrong."""
    if mesh.ndim == 1:
        ways = [[Shard(d)] for d in range(3)]
        few = _one_of_each_function()
        yield from _public(mesh, (4, 3, 6), torch.float32, ways[1:2], CASES)
        yield from _public(mesh, (2, 4, 3), torch.float32, ways[:1], few)  # by moved keys
        yield from _public(mesh, (2, 5, 3), torch.float32, ways[1:], few)  # uneven
        yield from _public(mesh, (2, 1, 7), torch.float64, [[Shard(2)]], few)
        yield from _public(mesh, (4, 3, 6), torch.float32, [[Replicate()]], _some(few, 0))
        params = given_noise_params()
        yield "given noise", lambda: compare(given_noise, params, mesh, ways[1])
    else:
        ways, few = [[Shard(1), Shard(2)]], _one_of_each_function()
        yield from _public(mesh, (4, 3, 6), torch.float32, ways, few)
        some = _some(few, 1)
        yield from _public(mesh, (4, 3, 6), torch.float32, [[Replicate(), Shard(0)]], some)
        # The last rank has nothing.
        yield from _public(mesh, (4, 2, 3), torch.bfloat16, [[Shard(2)] * 2], _some(few, 2))
    way = ways[0] if mesh.ndim == 1 else [Shard(0), Shard(1)]
    rows, columns = [Shard(0)] * mesh.ndim, [Shard(1)] * mesh.ndim
    yield "no key", lambda: _no_key(mesh, way)
    for each in (rows, columns, way):
        yield f"inference {each}", lambda w=each: _inference(mesh, w)
        yield f"saved {each}", lambda w=each: _saves_no_noise(mesh, w)
        yield f"channels last {each}", lambda w=each: _channels_last(mesh, w)
        for recompute in (False, True):
            yield f"layer {each} {recompute}", lambda w=each, r=recompute: _layer(mesh, w, r)
    yield "refusals", lambda: _refusals(mesh, way)


def main(folder, rank, sizes):
    """What one rank does: failures are written to the folder, by name."""
    linear.LEAST_RECOMPUTED = 0
    sizes = tuple(int(n) for n in sizes.split("x"))
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=torch.Size(sizes).numel(),
        timeout=PATIENCE,
    )  # fmt: skip
    mesh = init_device_mesh("cpu", sizes)
    failures = {}
    for name, check in checks(mesh):
        try:
            check()
        except Exception:
            failures[name] = traceback.format_exc()
        # A rank that failed must not leave the others waiting.
    Path(folder, f"failures{rank}.json").write_text(json.dumps(failures))
    end()
