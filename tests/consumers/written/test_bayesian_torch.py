"""bayesian_torch's models and layers, of which the package itself has no tests.

Nothing here knows of an integration: as it is and patched, the same is to hold, with the noise that
PyTorch draws.
"""

import copy
import importlib
import pickle

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("bayesian_torch", reason="bayesian_torch is not installed")
from bayesian_torch import layers
from bayesian_torch.models.deterministic import resnet as deterministic
from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn, get_kl_loss
from bayesian_torch.utils.util import mutual_information, predictive_entropy

MODELS = {
    "simple CNN": ("bayesian.simple_cnn_variational", "SCNN", (2, 1, 28, 28)),
    "simple CNN, Flipout": ("flipout.simple_cnn", "SCNN", (2, 1, 28, 28)),
    "ResNet 20": ("bayesian.resnet_variational", "resnet20", (2, 3, 32, 32)),
    "ResNet 20, Flipout": ("bayesian.resnet_flipout", "resnet20", (2, 3, 32, 32)),
    "ResNet 18": ("bayesian.resnet_variational_large", "resnet18", (1, 3, 224, 224)),
    "ResNet 18, Flipout": ("bayesian.resnet_flipout_large", "resnet18", (1, 3, 224, 224)),
}
KINDS = ("Reparameterization", "Flipout")


def _model(name):
    """A model in evaluation mode, and an input of it."""
    module, function, shape = MODELS[name]
    torch.manual_seed(0)
    made = getattr(importlib.import_module(f"bayesian_torch.models.{module}"), function)()
    return made.eval(), torch.randn(shape)


def _seeded(call, seed=1):
    torch.manual_seed(seed)
    return call()


@pytest.mark.parametrize("name", MODELS)
def test_a_models_outputs_follow_the_seed(name):
    model, x = _model(name)
    with torch.no_grad():
        out, kl = _seeded(lambda: model(x))
        again, same = _seeded(lambda: model(x))
        other, _ = _seeded(lambda: model(x), 2)
    assert len(out) == len(x)
    assert torch.equal(out, again)
    assert torch.equal(kl, same)
    assert not torch.equal(out, other)
    assert kl > 0.0


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_gradient_and_a_step_lowers_the_kl(name):
    model, x = _model(name)
    bayesian = [p for n, p in model.named_parameters() if ".mu_" in n or ".rho_" in n]
    model.train()  # where batch normalization keeps what untrained layers give in bounds
    out, kl = _seeded(lambda: model(x))
    (1e-3 * F.cross_entropy(out, torch.zeros(len(x), dtype=torch.long)) + kl).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in bayesian)
    model.zero_grad()
    before = get_kl_loss(model)  # of all layers, some of which a model's own sum leaves out
    before.backward()
    torch.optim.SGD(bayesian, lr=1e-3).step()
    assert get_kl_loss(model) < before


@pytest.mark.parametrize("bias", [True, False])
def test_the_weights_of_a_linear_layer_are_those_that_the_generator_draws(bias):
    torch.manual_seed(0)
    layer = layers.LinearReparameterization(5, 3, 0.5, 2.0, bias=bias).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    out, kl = _seeded(lambda: layer(x))
    torch.manual_seed(1)
    drawn, expected = [], 0.0
    for part in ("weight", "bias")[: 1 + bias]:
        mu, std = (getattr(layer, f"{name}_{part}") for name in ("mu", "rho"))
        std = F.softplus(std)
        drawn.append(mu + std * torch.empty_like(mu).normal_())
        posterior = torch.distributions.Normal(mu, std)
        prior = torch.distributions.Normal(torch.full_like(mu, 0.5), torch.full_like(mu, 2.0))
        expected = expected + torch.distributions.kl_divergence(posterior, prior).mean()
    torch.testing.assert_close(out, F.linear(x, *drawn), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kl, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.kl_loss(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_output_of_a_convolution_is_that_of_the_mean_weight(kind, transposed, dims):
    torch.manual_seed(0)
    name = f"Conv{'Transpose' * transposed}{dims}d"
    size = (3,) * dims if dims > 1 else 3
    given = {"prior_mean": 0.0, "prior_variance": 1.0, "posterior_mu_init": 0.0}
    layer = getattr(layers, name + kind)(4, 4, size, **given, posterior_rho_init=-5.0)
    x = torch.randn(2, 4, *(6,) * dims)
    torch.manual_seed(1)
    with torch.no_grad():
        outputs = torch.stack([layer(x)[0] for _ in range(200)]).double()
    convolve = getattr(F, f"conv{'_transpose' * transposed}{dims}d")
    expected = convolve(x, layer.mu_kernel, layer.mu_bias).double()
    z = (outputs.mean(0) - expected) / outputs.std(0) * 200**0.5
    assert z.abs().max() < 6.0
    assert (outputs.std(0) > 0.0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_lstm(kind):
    torch.manual_seed(0)
    layer = getattr(layers, f"LSTM{kind}")(4, 6)
    x = torch.randn(2, 3, 4)
    hidden, (h, c), kl = _seeded(lambda: layer(x))
    assert hidden.shape[:2] == (2, 3)
    assert hidden.isfinite().all()
    assert h.shape == c.shape
    (hidden.square().sum() + kl).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    assert torch.equal(hidden, _seeded(lambda: layer(x))[0])


@pytest.mark.parametrize("moped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_is_made_bayesian(kind, moped):
    torch.manual_seed(0)
    net = deterministic.resnet20().eval()
    x = torch.randn(2, 3, 32, 32)
    given = {
        "prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -3.0,
        "type": kind, "moped_enable": moped, "moped_delta": 0.5,
    }  # fmt: skip
    dnn_to_bnn(net, given)
    out, kl = _seeded(lambda: net(x)), get_kl_loss(net)
    assert out.shape == (2, 10)
    (out.square().mean() + kl).backward()
    drawn = [p for n, p in net.named_parameters() if ".mu_" in n or ".rho_" in n]
    assert drawn
    assert all(p.grad.isfinite().all() for p in drawn)


@pytest.mark.parametrize("name", ["simple CNN", "ResNet 20, Flipout"])
def test_a_copy_draws_what_the_model_draws(name):
    model, x = _model(name)
    with torch.no_grad():
        out, kl = _seeded(lambda: model(x))
        fresh, _ = _model(name)
        fresh.load_state_dict(model.state_dict())
        copies = copy.deepcopy(model), fresh, *_pickled(model, name)
        for one in copies:
            found, same = _seeded(lambda: one(x))
            assert torch.equal(found, out)
            assert torch.equal(same, kl)


def _pickled(model, name):
    # The ResNets have lambdas, which can't be pickled.
    return [pickle.loads(pickle.dumps(model))] if "ResNet" not in name else []


def test_the_uncertainty_of_many_passes():
    model, x = _model("simple CNN")
    with torch.no_grad():
        found = torch.stack([_seeded(lambda: model(x), seed)[0].exp() for seed in range(8)])
    assert (predictive_entropy(found.numpy()) > 0.0).all()
    assert (mutual_information(found.numpy()) > 0.0).all()


def test_a_layer_that_is_prepared_for_quantization():
    torch.manual_seed(0)
    layer = layers.LinearReparameterization(4, 6)
    x = torch.randn(2, 4)
    before = _seeded(lambda: layer(x))
    layer.prepare()
    after = _seeded(lambda: layer(x))
    torch.testing.assert_close(after, before)
