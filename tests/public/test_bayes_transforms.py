"""The Bayesian layers and their KL through compilers, functional calls and vmap."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, stack_module_state, vmap

from fused_reparam import kl_divergence
from tests.helpers.bayes_cases import MIXTURE, PRIOR, X, check, close, network, nll, wanted


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("options", [PRIOR, {"mixture": MIXTURE}])
def test_compiled_training(options, backend):
    """Model, KL and step compiled, each alone and together: no graph is compiled twice.

    By Inductor, whose compiler takes seconds for a graph, together only.
    """
    torch._dynamo.reset()
    model = network(**options)
    compiles = CompileCounterWithBackend(backend)
    compiled, kl_of = (torch.compile(f, fullgraph=True, backend=compiles) for f in (model, kl_of_))
    whole = torch.compile(lambda x: nll(model(x)) + kl_of_(model), fullgraph=True, backend=compiles)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    graphs = []
    ways = [
        lambda: nll(compiled(X)) + kl_divergence(compiled),
        lambda: nll(model(X)) + kl_of(model),
        lambda: whole(X),
    ]
    for _ in range(4):
        for loss in ways[-1:] if backend == "inductor" else ways:
            loss().backward()
            if "mixture" not in options:
                check(kl_divergence(model), model)
                if backend != "inductor":
                    check(kl_of(model), model)
            optimizer.step()
            optimizer.zero_grad()
        graphs.append(compiles.frame_count)
    assert graphs[-1] == graphs[0]


def kl_of_(model):
    return kl_divergence(model)


def test_a_compiled_models_kl_is_computed_by_itself():
    torch._dynamo.reset()
    model = network(**PRIOR)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    y = compiled(X)
    check(kl_divergence(model), model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5)
    check(kl_divergence(model), model)
    y = compiled(X)
    nll(y).backward()
    model.zero_grad()
    check(kl_divergence(model), model)


class WithKL(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x), kl_divergence(self.model)


def test_functional_call_and_grad():
    model = network(**PRIOR)
    both = WithKL(model)
    other = {n: p.detach() + 0.1 for n, p in both.named_parameters()}
    twin = copy.deepcopy(model)
    twin.load_state_dict({n.removeprefix("model."): p for n, p in other.items()})
    kl, grads = wanted(twin)
    found = functional_call(both, other, (X,))[1]
    torch.testing.assert_close(found.double(), kl, rtol=2e-6, atol=0.0)
    check(kl_divergence(model), model)
    found = grad(lambda p: functional_call(both, p, (X,))[1])(other)
    close(found.values(), grads, rtol=1e-5, atol=1e-6)
    check(kl_divergence(model), model)  # not of tensors that grad has let go
    y = model(X)
    functional_call(both, other, (X,))
    (nll(y) + kl_divergence(model)).backward()


def test_vmap_over_an_ensemble():
    models = [WithKL(network(**PRIOR)) for _ in range(3)]
    params, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0])

    def loss(p, x):
        y, kl = functional_call(base, (p, buffers), (x,))
        return nll(y) + kl, (y, kl)

    run = vmap(grad(loss, has_aux=True), in_dims=(0, None), randomness="different")
    grads, (ys, kls) = run(params, X)
    for i, model in enumerate(models):
        torch.testing.assert_close(kls[i].double(), wanted(model)[0], rtol=2e-6, atol=0.0)
    assert not torch.equal(ys[0], ys[1])
    silent = vmap(grad(lambda p, x: loss(p, x)[1][1]), (0, None), randomness="different")
    for name, got in silent(params, X).items():
        for i, model in enumerate(models):
            names = [n for n, _ in model.named_parameters()]
            want = wanted(model)[1][names.index(name)]
            torch.testing.assert_close(got[i].double(), want, rtol=1e-5, atol=1e-6)
    assert all(g.isfinite().all() for g in grads.values())
    check(kl_divergence(base.model), base.model)
