"""``torch.fx.symbolic_trace``: a call of this package is one node, which draws at each run."""

import copy
import operator
import pickle

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import fused_reparam as fr
from fused_reparam import gumbel_softmax, noise
from tests.helpers.loops import where
from tests.helpers.module_cases import MODULES, flat, made
from tests.helpers.public_cases import EVERY, assert_same, loss

every_module = pytest.mark.parametrize("name", MODULES)
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def of_arity(function, count):
    """``torch.fx`` gives a symbolic value for each named argument."""
    return {
        1: lambda a: function(a),
        2: lambda a, b: function(a, b),
        3: lambda a, b, c: function(a, b, c),
        4: lambda a, b, c, d: function(a, b, c, d),
    }[count]


def calls(graph_module):
    """The functions that a graph calls, but for the picking of one of several results."""
    nodes = graph_module.graph.nodes
    return [n.target for n in nodes if n.op == "call_function" and n.target != operator.getitem]


def seeded(function, *args):
    torch.manual_seed(5)
    (found,) = function(*args)
    return flat(found)


@EVERY
def test_a_function_is_one_node(case):
    params = case.params()
    graph = fx.symbolic_trace(of_arity(case, len(params)))
    assert calls(graph) == [case.function]
    torch.manual_seed(5)
    want = case(*params)
    got = seeded(graph, *params)
    assert_same(got, want)
    for g, w in zip(
        torch.autograd.grad(loss(got), params), torch.autograd.grad(loss(want), params), strict=True
    ):
        torch.testing.assert_close(g, w, rtol=0, atol=0)
    if case.noisy:
        again = flat(graph(*params)[0])
        assert not torch.equal(again[0], got[0])
    for other in (
        fx.symbolic_trace(graph),
        copy.deepcopy(graph),
        pickle.loads(pickle.dumps(graph)),
    ):
        assert calls(other) == [case.function]
        assert_same(seeded(other, *params), want)


class Model(nn.Module):
    """A module in a model: not the root of what is traced."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, a, b=None):
        # Whether b is None can't be seen in a trace: that is set when the model is made.
        return self.layer(a, b) if self.two else self.layer(a)


def assert_same_run(graph, module, args):
    for _ in range(2):
        torch.manual_seed(5)
        got = flat(graph(*args))
        torch.manual_seed(5)
        assert_same(got, flat(module(*args)))
    if module.training:
        assert not torch.equal(flat(graph(*args))[0], got[0])


@every_module
@modes
def test_a_module_can_be_traced(name, training):
    for inner in [False, True]:
        with where(inner):
            module, args = made(name)
            module.train(training)
            if inner:
                module = Model(module).train(training)
                module.two = len(args) == 2
            graph = fx.symbolic_trace(module)
            assert_same_run(graph, module, args)
            for other in (
                fx.symbolic_trace(graph),
                copy.deepcopy(graph),
                pickle.loads(pickle.dumps(graph)),
            ):
                assert_same_run(other.train(training), module, args)


@every_module
def test_a_traced_module_has_the_gradients_of_the_module(name):
    module, args = made(name)
    module.train()
    args = [a.requires_grad_() for a in args]
    inputs = [*args, *module.parameters()]
    found = []
    for called in (fx.symbolic_trace(module), module):
        torch.manual_seed(5)
        found.append(torch.autograd.grad(loss(flat(called(*args))), inputs, allow_unused=True))
    for g, w in zip(*found, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=0)


def test_options_of_a_traced_module_can_be_given_or_left():
    latent = fr.FusedGaussianLatent(prior=(0.1, 2.0), beta=0.5, dim=0)
    graph = fx.symbolic_trace(latent)
    mu, logvar, eps = torch.randn(3, 4, 5).unbind()
    moments = torch.cat((mu, logvar))
    for args in ((mu, logvar), (moments,)):
        for given in (
            {},
            {"key": noise.key(3)},
            {"eps": eps},
            {"beta": torch.tensor(2.0), "key": noise.key(3)},
            {"prior": (mu + 1, {"logvar": logvar})},
        ):
            torch.manual_seed(5)
            got = graph(*args, **given)
            torch.manual_seed(5)
            assert_same(got, latent(*args, **given))


def test_a_beta_that_is_a_tensor_is_read_at_each_run():
    latent = fr.FusedGaussianLatent(beta=torch.tensor(0.5))
    graph = fx.symbolic_trace(latent)
    mu, logvar = torch.randn(2, 4, 5).unbind()
    latent.beta.fill_(2.0)
    torch.testing.assert_close(graph(mu, logvar)[1], latent(mu, logvar)[1])


def test_a_model_and_its_divergence_in_one_graph():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = fr.BayesianLinear(5, 4), fr.BayesianLinear(4, 2, bias=False)
            self.choose = fr.FusedGumbelSoftmax(hard=True)

        def forward(self, x):
            return self.choose(self.two(self.one(x).relu())), fr.kl_divergence(self)

    model, x = Net(), torch.randn(3, 5)
    model(x)  # The layers keep what is of this pass: a graph has none of it.
    graph = fx.symbolic_trace(model)
    assert calls(graph)[0] is fr.sample_weight
    assert not [n for n in graph.graph.nodes if n.target in ("data_ptr", "_version")]
    y, kl = graph(x)
    assert torch.equal(y.sum(-1), torch.ones(3))
    torch.testing.assert_close(kl, fr.kl_divergence(model))
    kl.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_any_argument_may_be_the_symbolic_one():
    zeros, key = torch.zeros(4, 5), noise.key(7)

    def function(x, k, beta):
        eps = fr.gaussian_rsample(zeros, std=x.exp(), key=k)
        return (
            eps,
            fr.gaussian_rsample(zeros, std=1.0, key=k),
            fr.gaussian_rsample(zeros, std=2.0, eps=eps),
            fr.gaussian_kl(zeros, std=1.0, prior=(zeros, {"log_std": x})),
            fr.gaussian_kl(zeros, std=2.0, beta=beta),
            fr.sample_weight(zeros, rho=x, key=k)[1],
            fr.kumaraswamy_rsample(zeros + 1, x.exp(), key=k),
            fr.loc_scale_latent(zeros, x.exp(), "laplace", key=k)[1],
            fr.gumbel_softmax(zeros, key=k),
        )

    x = torch.randn(4, 5)
    args = (x, key, torch.tensor(0.3))
    assert_same(fx.symbolic_trace(function)(*args), function(*args))


def imported_by_name(x):
    return gumbel_softmax(x, tau=0.5, hard=True)


def test_a_function_that_was_imported_by_name():
    graph = fx.symbolic_trace(imported_by_name)
    assert torch.equal(graph(torch.zeros(6, 4)).sum(-1), torch.ones(6))


def test_the_root_may_be_a_public_function():
    graph = fx.symbolic_trace(fr.gumbel_softmax)
    x, key = torch.randn(6, 4), noise.key(3)
    assert_same([graph(x, key=key)], [fr.gumbel_softmax(x, key=key)])
    assert_same([graph(x, 0.3, True, key=key)], [fr.gumbel_softmax(x, 0.3, True, key=key)])


def test_a_graph_that_is_changed_by_hand():
    """Outside of a trace too, a symbolic value records what is done with it."""

    def before(x):
        return F.gumbel_softmax(x, hard=True) + 1.0

    graph = fx.symbolic_trace(before)
    for node in list(graph.graph.nodes):
        if node.target is F.gumbel_softmax:
            with graph.graph.inserting_before(node):
                new = fr.gumbel_softmax(fx.Proxy(node.args[0]), hard=True)
            node.replace_all_uses_with(new.node)
            graph.graph.erase_node(node)
    graph.recompile()
    assert calls(graph) == [fr.gumbel_softmax, operator.add]
    assert torch.equal(graph(torch.zeros(6, 4)).sum(-1), torch.full((6,), 5.0))


@pytest.mark.parametrize("name", [name for name in MODULES if "lstm" not in name])
def test_a_traced_module_compiles(name):
    module, args = made(name)
    compiled = torch.compile(fx.symbolic_trace(module.train()), backend="eager", fullgraph=True)
    assert not torch.equal(flat(compiled(*args))[0], flat(compiled(*args))[0])


@every_module
@pytest.mark.filterwarnings("ignore")  # of torch.jit.trace
def test_a_module_traced_in_eval_is_exported_without_an_op_of_this_package(name):
    module, args = made(name)
    graph = fx.symbolic_trace(module)
    program = torch.export.export(graph, args)
    assert not [n for n in program.graph.nodes if "fused_reparam" in str(n.target)]
    for exported in (program.module(), torch.jit.trace(graph, args)):
        for got, want in zip(flat(exported(*args)), flat(module(*args)), strict=True):
            torch.testing.assert_close(got, want)


def test_a_mistake_in_a_trace_is_told():
    with pytest.raises(TypeError, match="did you mean 'tau'"):
        fx.symbolic_trace(lambda x: fr.gumbel_softmax(x, temperature=0.5))
    with pytest.raises(TypeError, match="logits must be a floating tensor, got 3 of type int"):
        fx.symbolic_trace(lambda x: fr.gumbel_softmax(3) + x)
    with pytest.raises(ValueError, match="tau must be positive"):
        fx.symbolic_trace(lambda x: fr.gumbel_softmax(x, tau=-1.0))(torch.zeros(3))
