"""A prior is the layer's own, and one that is refused or replaced leaves nothing half done."""

import copy

import pytest
import torch
from torch import nn

import fused_reparam as fr

X = torch.ones(2, 4)


def parameter(t):
    return nn.Parameter(t.clone())


def test_a_prior_around_the_weights_stays_where_they_were():
    layer = nn.Linear(4, 3, bias=False)
    start = layer.weight.detach().clone()
    fr.bayesianize(layer, prior_mean=layer.weight.detach(), prior_std=0.1)
    with torch.no_grad():
        layer.weight_mu.add_(1.0)
    assert torch.equal(layer.prior_mean, start)


def test_each_layer_has_buffers_of_its_own():
    std = torch.ones(1)
    net = fr.bayesianize(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), prior_std=std)
    assert len({t.data_ptr() for t in (std, net[0].prior_std, net[1].prior_std)}) == 3
    share = torch.full((1,), 0.5)
    layer = fr.BayesianLinear(4, 3, mixture=(share, 1.0, 0.1))
    assert layer.mixture_share.data_ptr() != share.data_ptr()


def test_loading_a_latent_leaves_the_callers_tensor():
    given = torch.ones(4)
    latent = fr.FusedGaussianLatent(prior=(0.0, given))
    latent.load_state_dict({"prior_std": torch.full((4,), 2.0)})
    assert torch.equal(given, torch.ones(4))
    assert latent.prior_std[0] == 2.0


@pytest.mark.parametrize(
    "options",
    [
        {"prior_std": torch.full((4,), 0.5)},
        {"mixture": (torch.full((4,), 0.5), 1.0, 0.1)},
        {"prior_mean": parameter(torch.zeros(1, 4))},
    ],
)
def test_a_prior_that_does_not_fit_the_last_layer_converts_none(options):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    before, said, state = net(X), repr(net), copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="must broadcast to the layer's"):
        fr.bayesianize(net, **options)
    assert repr(net) == said
    assert net.state_dict().keys() == state.keys()
    assert torch.equal(net(X), before)


def test_a_parameter_of_a_dtype_that_does_not_fit_the_last_layer_converts_none():
    net = nn.Sequential(nn.Linear(4, 4).double(), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"fit into torch\.float32"):
        fr.bayesianize(net, prior_std=parameter(torch.ones(1).double()))
    assert [type(layer) for layer in net] == [nn.Linear, nn.Linear]


def the_same(layer):
    """A copy, which has no KL that was kept."""
    return copy.deepcopy(layer)


@pytest.mark.parametrize("value", [0.05, torch.full((1,), 0.05), parameter(torch.tensor(0.05))])
@pytest.mark.parametrize("name", ["prior_mean", "prior_std"])
def test_a_kept_kl_is_not_that_of_another_prior(name, value):
    layer = fr.BayesianLinear(4, 3)
    layer(X)
    old = layer.kl()
    setattr(layer, name, value)
    assert layer.kl() != old
    torch.testing.assert_close(layer.kl(), the_same(layer).kl())


def test_a_kept_kl_is_not_that_of_another_mixture():
    layer = fr.BayesianLinear(4, 3)
    layer(X)
    for mixture in ((0.5, 1.0, 0.01), (0.5, torch.ones(1), 0.5), None):
        layer.mixture = mixture
        torch.manual_seed(1)
        kl = layer.kl()
        torch.manual_seed(1)
        assert kl == the_same(layer).kl()
        layer(X)


def test_a_mixture_that_is_refused_leaves_the_old_one():
    old = (0.5, torch.ones(1), 0.1)
    layer = fr.BayesianLinear(4, 3, mixture=old)
    for wrong in ((0.5, torch.ones(1), torch.ones(5)), (torch.ones(5), 1.0, 0.1), (2.0, 1.0)):
        with pytest.raises((TypeError, ValueError)):
            layer.mixture = wrong
        assert layer.mixture == old
        assert "mixture_std1" in layer.state_dict()


def test_a_layer_that_draws_outputs_takes_no_mixture_later():
    layer = fr.BayesianLinear(4, 3, local_reparameterization=True)
    with pytest.raises(ValueError, match="give one of local_reparameterization and mixture="):
        layer.mixture = (0.5, 1.0, 0.1)
    assert layer.mixture is None
    layer.mixture = None


@pytest.mark.parametrize("name", ["prior_mean", "prior_std"])
def test_a_tensor_over_a_number_is_held(name):
    layer = fr.BayesianLinear(3, 4, bias=False)
    given = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    setattr(layer, name, given)
    assert layer.get_buffer(name).data_ptr() != given.data_ptr()
    assert torch.equal(layer.state_dict()[name], given)
    assert getattr(layer.double(), name).dtype == torch.float64
    learned = parameter(given.double())
    setattr(layer, name, learned)
    assert layer.get_parameter(name) is learned
    setattr(layer, name, 0.5)
    assert name not in layer.state_dict()
    assert f"{name}=0.5" in repr(layer)


def test_a_number_that_is_refused_leaves_the_old_one():
    layer = fr.BayesianLinear(4, 3, prior=(torch.ones(1), torch.ones(1)))
    history = parameter(torch.ones(1)).exp()
    for name, wrong, said in (
        ("prior_mean", torch.ones(5), "must broadcast to the layer's weight"),
        ("prior_mean", history, "with a history"),
        ("prior_std", -1.0, "must be positive"),
        ("prior_std", torch.ones(1).double().requires_grad_(), r"fit into torch\.float32"),
    ):
        with pytest.raises(ValueError, match=said):
            setattr(layer, name, wrong)
        assert torch.equal(layer.state_dict()[name], torch.ones(1))
    layer = fr.BayesianLinear(4, 3, mixture=(0.5, 1.0, 0.1))
    with pytest.raises(ValueError, match="mixture"):
        layer.prior_std = 2.0
    assert layer.prior_std == 1.0
