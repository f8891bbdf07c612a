"""``with sampling(model):`` lets the package's modules draw while the model is in ``eval()``."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parametrizations

import fused_reparam as fr
from fused_reparam import kl_divergence, sampling
from tests.helpers.module_cases import MODULES, flat, made

EVERY = pytest.mark.parametrize("name", MODULES)
X = torch.linspace(-1.0, 1.0, 20).view(4, 5)


class Net(nn.Module):
    """Layers that draw between others that only eval() makes repeatable."""

    def __init__(self):
        super().__init__()
        self.layer, self.dropout = fr.BayesianLinear(5, 6, rho_init=0.0), nn.Dropout(0.5)
        self.norm, self.choose = nn.BatchNorm1d(6), fr.FusedGumbelSoftmax()

    def forward(self, x):
        return self.choose(self.norm(self.dropout(self.layer(x))))


def draws(model, *args):
    with torch.no_grad():
        return not torch.equal(flat(model(*args))[0], flat(model(*args))[0])


@EVERY
def test_every_module_draws_as_in_training(name):
    module, args = made(name)
    quiet = flat(module(*args))
    with sampling(module):
        assert not any(m.training for m in module.modules())
        torch.manual_seed(5)
        inside = flat(module(*args))
    for a, b in zip(flat(module(*args)), quiet, strict=True):
        assert torch.equal(a, b), "as before"
    torch.manual_seed(5)
    for a, b in zip(flat(module.train()(*args)), inside, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(inside[0], quiet[0])


def test_all_else_stays_in_eval():
    model = Net().eval()
    before = copy.deepcopy(model.norm.state_dict())
    with sampling(model):
        hidden = [model.dropout(model.layer(X)) for _ in range(2)]
        assert (hidden[0] != 0).all(), "nothing is dropped"
        assert draws(model, X)
    assert model.norm.state_dict().keys() == before.keys()
    assert all(torch.equal(a, before[n]) for n, a in model.norm.state_dict().items())
    assert not draws(model, X)


def test_a_held_out_elbo_is_that_of_training():
    """Of 4,000 draws, within four standard errors; that of the mean is another number."""
    torch.manual_seed(0)
    mu, logvar, x = torch.randn(1, 3), torch.zeros(1, 3), torch.randn(1, 3)
    latent = fr.FusedGaussianLatent().eval()
    with sampling(latent):
        z, _ = latent(mu.expand(4000, 3), logvar)
    errors = (z - x).square().sum(1)
    want = (mu - x).square().sum() + 3.0
    assert abs(errors.mean() - want) < 4.0 * errors.std() / 4000**0.5
    assert abs(((latent(mu, logvar)[0] - x).square().sum()) - want) > 2.9


def test_a_mixtures_kl_is_that_of_the_weights_that_were_drawn():
    layer = fr.BayesianLinear(40, 30, mixture=(0.3, 1.5, 0.05)).eval()
    assert layer.kl() != layer.kl(), "drawn for it"
    with sampling(layer):
        layer(torch.ones(1, 40))
        assert layer.kl() == layer.kl()
        kl_divergence(layer).backward()
    assert layer.weight_rho.grad is not None


def test_contexts_nest_and_may_be_several_models():
    one, other = Net().eval(), fr.FusedRelaxedBernoulli().eval()
    with sampling(one, other):
        assert draws(one, X)
        assert draws(other, X)
        with sampling(other):
            assert draws(other, X)
        assert draws(other, X)
    with sampling(one), sampling(one.layer):
        pass
    assert not draws(one, X)
    assert not draws(other, X)


@sampling(decorated := Net().eval())
def predicted():
    return draws(decorated, X)


def test_it_decorates_functions():
    assert predicted()
    assert predicted()
    assert not draws(decorated, X)


def test_errors_within_it_end_it():
    model = Net().eval()
    with pytest.raises(ZeroDivisionError), sampling(model):
        _ = 1 / 0
    assert not draws(model, X)


def test_modes_that_change_within_it_stay_changed():
    model = Net()
    with sampling(model):
        model.eval()
        assert draws(model, X)
    assert not draws(model, X)
    with sampling(model):
        model.train()
    assert model.training
    assert draws(model, X)


def test_threads_that_share_a_model():
    """One that leaves does not stop what another has asked for."""
    model, errors = Net().eval(), []
    inside, left = threading.Barrier(2, timeout=30), threading.Event()

    def work(first):
        try:
            with sampling(model):
                inside.wait()
                if not first:
                    left.wait(30)
                    assert draws(model, X)
            if first:
                left.set()
        except Exception as error:  # a thread's end would hide it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (True, False)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert not draws(model, X)


def test_copies_made_within_it_do_not_draw():
    model = Net().eval()
    model.bound = parametrizations.weight_norm(fr.BayesianLinear(5, 2).eval(), "weight_mu")
    with sampling(model):
        file = io.BytesIO()
        torch.save(model.layer, file)
        file.seek(0)
        copies = [
            copy.deepcopy(model), pickle.loads(pickle.dumps(model.layer)),
            copy.deepcopy(model.bound), torch.load(file, weights_only=False),
        ]  # fmt: skip
    for other in copies:
        assert not draws(other, X)
        with sampling(other):
            assert draws(other, X)
        assert not draws(other, X)


def test_replicas_of_data_parallel_draw():
    model = Net().eval()
    with sampling(model):
        replica = model.layer._replicate_for_data_parallel()
        for name, p in model.layer.named_parameters(recurse=False):
            setattr(replica, name, p.detach())
        assert draws(replica, X)


def test_a_compiled_model_has_one_more_graph():
    torch._dynamo.reset()
    model, compiles = Net().eval(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=compiles)
    for _ in range(3):
        assert not draws(compiled, X)
        with sampling(compiled):
            assert draws(compiled, X)
            with sampling(model):
                assert draws(compiled, X)
    assert compiles.frame_count == 2


def test_within_what_is_compiled():
    torch._dynamo.reset()
    model = Net().eval()

    def predict(x):
        with sampling(model):
            return model(x), kl_divergence(model)

    compiled = torch.compile(predict, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(X)[0], compiled(X)[0])
    assert not draws(model, X)


def test_what_has_nothing_to_draw():
    with pytest.raises(ValueError, match="and this Linear has none"), sampling(nn.Linear(2, 2)):
        pass
    model = Net().eval()
    with pytest.raises(ValueError, match="this Linear has none"), sampling(model, nn.Linear(2, 2)):
        pass
    assert not draws(model, X)
    with pytest.raises(TypeError, match=r"sampling takes torch.nn.Modules, got 3 of type int"):
        sampling(3).__enter__()
    with pytest.raises(TypeError, match=r"the models whose modules are to draw: sampling\(model\)"):
        sampling().__enter__()
