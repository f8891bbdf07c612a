"""Cases of two ranks: what compilers, transforms and second derivatives make of DTensors."""

import functools
import itertools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.sharded_cases import sharded

KEY = noise.key(7, 5)
WAYS = [Shard(0)], [Shard(1)]


@functools.cache
def mesh():
    """One for all cases: a second one of the same ranks PyTorch 2.13 can't compile for."""
    return init_device_mesh("cpu", (2,))


def latent(mu, logvar):
    z, kl = fr.gaussian_latent(mu, logvar, key=KEY)
    return z.square().sum() + kl


def softmax(logits):
    return fr.gumbel_softmax(logits, 0.7, key=KEY).square().sum()


def parameters(function):
    generator = torch.Generator().manual_seed(3)
    count = 1 if function is softmax else 2
    params = [torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [p.requires_grad_() for p in params]


def whole(t):
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def first_derivatives(function, params):
    value = function(*params)
    return value, *torch.autograd.grad(whole(value), params)


def second_derivatives(function, params):
    first = torch.autograd.grad(whole(function(*params)), params, create_graph=True)
    return torch.autograd.grad(whole(sum(g.square().sum() for g in first)), params)


def each():
    for function, way in itertools.product((latent, softmax), WAYS):
        params = parameters(function)
        yield function, params, [sharded(p, mesh(), way) for p in params]


def same(found, want):
    for f, w in zip(found, want, strict=True):
        torch.testing.assert_close(whole(f).detach(), w.detach())


def case_double_backward():
    for function, params, there in each():
        same(second_derivatives(function, there), second_derivatives(function, params))


def case_compiled():
    for function, params, there in each():
        torch._dynamo.reset()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        same(first_derivatives(compiled, there), first_derivatives(function, params))


def case_compiled_calls_without_a_key_have_the_first_ranks():
    zeros = torch.zeros(4, 6)
    calls = (
        lambda mu: fr.gaussian_rsample(mu, std=1.0),
        lambda std: fr.gaussian_rsample(0.0, std=std + 1.0),
    )
    for call, way in itertools.product(calls, WAYS):
        torch._dynamo.reset()
        compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
        first = torch.Generator().manual_seed(100)
        torch.manual_seed(100 + dist.get_rank())
        for _ in range(2):
            want = fr.gaussian_rsample(zeros, std=1.0, key=noise.draw_key(generator=first))
            assert torch.equal(whole(compiled(sharded(zeros, mesh(), way))), want)


def case_transforms_of_torch_func_are_refused():
    for function, _, there in each():
        there = [t.detach() for t in there]
        transforms = (
            torch.func.grad(function),
            lambda *p, f=function: torch.func.vjp(f, *p),
            torch.vmap(function, randomness="same"),
        )
        for transform in transforms:
            with pytest.raises(NotImplementedError, match="DTensors are not served in transforms"):
                transform(*there)
