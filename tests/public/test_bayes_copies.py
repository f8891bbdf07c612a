"""Copies, pickles and averages of Bayesian layers, whenever they are made."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fused_reparam as fr
from tests.helpers.module_cases import Outputs

LAYERS = {
    "linear": lambda: fr.BayesianLinear(4, 3),
    "mixture": lambda: fr.BayesianLinear(4, 3, mixture=(0.3, 1.5, 0.2)),
    "local": lambda: fr.BayesianLinear(4, 3, local_reparameterization=True),
    "conv": lambda: fr.BayesianConv2d(4, 3, 1),
    "embedding": lambda: fr.BayesianEmbedding(5, 3, padding_idx=1),
    "lstm": lambda: Outputs(fr.BayesianLSTM(4, 3)),
    "converted": lambda: fr.bayesianize(nn.Linear(4, 3)),
}
INPUTS = {
    "conv": lambda: torch.randn(2, 4, 3, 3),
    "embedding": lambda: torch.tensor([[0, 1, 4], [4, 2, 3]]),
}
PARAMETRIZED = {
    "plain": lambda layer: layer,
    "weight norm": lambda layer: parametrizations.weight_norm(layer, "weight_mu"),
    "spectral norm": lambda layer: parametrizations.spectral_norm(layer, "weight_mu"),
    "both": lambda layer: parametrizations.weight_norm(
        parametrizations.weight_norm(layer, "weight_mu"), "weight_rho"
    ),
}
every_layer = pytest.mark.parametrize("layer", LAYERS)
every_parametrization = pytest.mark.parametrize("how", PARAMETRIZED)
# Every layer, and every parametrization of one.
each = pytest.mark.parametrize(
    ("layer", "how"),
    [
        *((layer, "plain") for layer in LAYERS),
        *(("linear", how) for how in PARAMETRIZED if how != "plain"),
    ],
)
moments = pytest.mark.parametrize("when", ["forward", "kl", "backward", "eval", "deleted loss"])


def used(layer, how, when):
    model = nn.Sequential(PARAMETRIZED[how](LAYERS[layer]()))
    x = INPUTS.get(layer, lambda: torch.randn(2, 4))()
    loss = model(x).square().mean()
    if when != "forward":
        loss = loss + fr.kl_divergence(model)
    if when in ("backward", "eval"):
        loss.backward()
    if when == "eval":
        model.eval()
    if when == "deleted loss":
        del loss
    return model, x


def assert_same_model(copied, model, x):
    assert not any(p is q for p in copied.parameters() for q in model.parameters())
    torch.testing.assert_close(copied.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.manual_seed(3)
    want = model(x)
    torch.manual_seed(3)
    torch.testing.assert_close(copied(x), want, rtol=0, atol=0)
    (copied(x).sum() + fr.kl_divergence(copied)).backward()
    assert all(p.grad is not None for p in copied.parameters())


@each
@moments
def test_deepcopy(layer, how, when):
    model, x = used(layer, how, when)
    assert_same_model(copy.deepcopy(model), model, x)


@every_parametrization
@moments
def test_deepcopy_within_cached_parametrizations(how, when):
    with parametrize.cached():
        model, x = used("linear", how, when)
        copied = copy.deepcopy(model)
    assert_same_model(copied, model, x)


@every_layer
@moments
def test_pickle_and_torch_save(layer, when):
    model, x = used(layer, "plain", when)
    assert_same_model(pickle.loads(pickle.dumps(model)), model, x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert_same_model(torch.load(file, weights_only=False), model, x)


@each
@moments
def test_exponential_moving_average(layer, how, when):
    model, x = used(layer, how, when)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    ema.update_parameters(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    model(x)
    ema.update_parameters(model)
    assert ema.n_averaged == 2
    copy.deepcopy(ema)
    for p, q in zip(ema.module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q - 0.5)


def test_a_copy_has_a_kl_of_its_own():
    model, _ = used("linear", "weight norm", "forward")
    copied = copy.deepcopy(model)
    copied[0].kl().backward()
    assert all(p.grad is None for p in model.parameters())


def test_a_copy_leaves_the_kept_kl_of_the_original():
    model, x = used("linear", "weight norm", "forward")
    copy.deepcopy(model)
    (model(x).sum() + model[0].kl()).backward()
    assert all(p.grad is not None for p in model.parameters())
