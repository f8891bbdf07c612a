"""A module's own prior: numbers, a distribution or tensors, which are held, moved and learned."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Laplace, Normal, kl_divergence
from torch.nn import functional as F

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers.bayes_layers import ours

KEY = noise.key(5)
BAYESIAN = ["linear", "1-d same", "2-d", "embedding", "projected lstm"]
ONE_WEIGHT = ["no bias", "1-d same", "embedding"]
MU, LOGVAR = torch.linspace(-1.0, 1.0, 12).view(2, 6), torch.linspace(-2.0, 1.0, 12).view(2, 6)
MEAN, STD = torch.linspace(-0.5, 0.5, 6), torch.linspace(0.5, 1.5, 6)


def parameter(t):
    return nn.Parameter(t.clone())


def by_the_formula(layer, mean, std):
    """The KL of a layer's weights, in float64."""
    mean, std = (torch.as_tensor(t, dtype=torch.float64) for t in (mean, std))
    rhos = {n[:-4]: p for n, p in layer.named_parameters() if n.endswith("_rho")}
    return sum(
        kl_divergence(
            Normal(layer.get_parameter(f"{name}_mu").double(), F.softplus(rho.double())),
            Normal(mean, std),
        ).sum()
        for name, rho in rhos.items()
    )


def check(layer, args, mean, std):
    """The KL that comes with drawn weights and the one of eval, and the prior's gradients."""
    want = by_the_formula(layer, mean, std)
    learned = [t for t in (mean, std) if isinstance(t, torch.Tensor) and t.requires_grad]
    wanted = torch.autograd.grad(want, learned) if learned else ()
    layer.train()(*args)
    for kl in (layer.kl(), layer.eval().kl()):
        torch.testing.assert_close(kl.double(), want, rtol=1e-5, atol=0.0)
        found = torch.autograd.grad(kl, learned) if learned else ()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BAYESIAN)
def test_a_bayesian_layer_takes_a_normal(name):
    """Of numbers, which stay numbers, and of tensors: parameters are learned, others buffers."""
    layer, args = ours(name, prior=Normal(0.25, 0.5), rho_init=-1.0)
    assert repr(layer) == repr(ours(name, prior_mean=0.25, prior_std=0.5, rho_init=-1.0)[0])
    assert not any("prior" in key for key in layer.state_dict())
    check(layer, args, 0.25, 0.5)
    mean, std = parameter(torch.tensor(0.25)), torch.tensor([0.5])
    layer, args = ours(name, prior=Independent(Normal(mean, std), 1), rho_init=-1.0)
    assert layer.prior_mean is mean
    assert any(p is mean for p in layer.parameters())
    assert torch.equal(layer.get_buffer("prior_std"), std)
    check(layer, args, mean, std)


@pytest.mark.parametrize("name", ONE_WEIGHT)
def test_a_prior_around_trained_weights(name):
    layer, args = ours(name)
    mean, std = layer.weight_mu.detach().sin(), parameter(layer.weight_mu.detach().exp())
    for prior in ({"prior": Normal(mean, std)}, {"prior_mean": mean, "prior_std": std}):
        check(ours(name, **prior, rho_init=-1.0)[0], args, mean, std)


def test_a_prior_around_the_rows_of_a_table_with_one_for_padding():
    mean, std = torch.linspace(-1.0, 1.0, 5)[:, None], parameter(torch.linspace(0.5, 1.0, 3))
    for at in (0, 2, 4):
        layer = fr.BayesianEmbedding(5, 3, at, prior=(mean, std), rho_init=0.0)
        others = [i for i in range(5) if i != at]
        rest = fr.BayesianEmbedding(4, 3, prior=(mean[others], std), rho_init=0.0)
        with torch.no_grad():
            rest.weight_mu.copy_(layer.weight_mu[others])
        for kl in (layer.kl(), layer(torch.arange(5)).sum() * 0 + layer.kl()):
            torch.testing.assert_close(kl, rest.kl())
        mixture = fr.BayesianEmbedding(5, 3, at, mixture=(0.5, mean.exp(), 0.1))
        mixture(torch.arange(5))
        assert mixture.kl().isfinite()


def test_a_mixture_of_tensors():
    """The function's estimate, of weights drawn for it, in train and in eval."""
    share, std1 = parameter(torch.tensor(0.3)), torch.full((3, 1), 1.5)
    layer = fr.BayesianLinear(4, 3, False, mixture=(share, std1, 0.2))
    assert {"mixture_share", "mixture_std1"} < layer.state_dict().keys()
    said = "requires grad, a tensor of shape (3, 1), torch.float32, "
    assert f"{said}0.2)" in repr(layer)
    for mode in (True, False):
        layer.train(mode)(torch.ones(2, 4))
        torch.manual_seed(1)
        found = torch.autograd.grad(layer.kl(), [share, layer.weight_rho])
        torch.manual_seed(1)
        pair = layer.weight_mu, layer.weight_rho
        want = fr.sample_weight(*pair, mixture=(share, std1, 0.2))[1]
        torch.testing.assert_close(found, torch.autograd.grad(want, [share, pair[1]]))
    layer.mixture = (0.5, torch.ones(1), 0.1)
    assert "mixture_share" not in layer.state_dict()
    layer.mixture = None
    check(layer, (torch.ones(2, 4),), 0.0, 1.0)


def test_a_kept_kl_is_of_the_prior_as_it_is():
    for std in (torch.tensor([0.5]), parameter(torch.tensor([0.5]))):
        layer = fr.BayesianLinear(4, 3, prior_std=std)
        layer(torch.ones(2, 4))
        assert layer.kl() == layer.kl()
        with torch.no_grad():
            layer.prior_std.mul_(2.0)
        torch.testing.assert_close(
            layer.kl().double(), by_the_formula(layer, 0.0, 1.0), rtol=1e-5, atol=0
        )


def made(kind):
    """A layer whose prior is a parameter and a buffer, and what it is called with."""
    prior = Normal(parameter(MEAN), STD)
    if kind == "latent":
        return fr.FusedGaussianLatent(prior=prior), (MU, LOGVAR)
    if kind == "logvar":
        prior = parameter(MEAN), {"logvar": 2 * STD.log()}
        return fr.FusedGaussianLatent(prior=prior), (MU, LOGVAR)
    return fr.BayesianLinear(6, 3, bias=False, prior=prior, rho_init=-1.0), (MU,)


def outputs(layer, args):
    torch.manual_seed(2)
    found = layer(*args)
    return found if isinstance(found, tuple) else (found, layer.kl())


EACH = pytest.mark.parametrize("kind", ["latent", "logvar", "linear"])


@EACH
def test_it_is_copied_moved_saved_and_loaded(kind):
    layer, args = made(kind)
    scale = "logvar" if kind == "logvar" else "std"
    assert {"prior_mean", f"prior_{scale}"} <= layer.state_dict().keys()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), made(kind)[0]):
        with torch.no_grad():
            layer.prior_mean.add_(0.5)
        assert not torch.equal(outputs(other, args)[1], outputs(layer, args)[1])
        other.load_state_dict(layer.state_dict())
        torch.testing.assert_close(outputs(other, args), outputs(layer, args))
        other.double()
        assert all(t.dtype == torch.float64 for t in other.state_dict().values())
        assert outputs(other, [t.double() for t in args])[1].dtype == torch.float64
        assert all(t.is_meta for t in other.to("meta").state_dict().values())


@EACH
def test_it_is_learned(kind):
    layer, args = made(kind)
    (mean,) = (p for n, p in layer.named_parameters() if n == "prior_mean")
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append(outputs(layer, args)[1])
        losses[-1].backward()
        optimizer.step()
    assert losses[2] < losses[0]
    assert not torch.equal(mean, MEAN)


@EACH
def test_it_compiles_and_traces(kind):
    layer, args = made(kind)
    torch._dynamo.reset()
    compiled = torch.compile(layer.eval(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*args), layer(*args))
    traced = torch.fx.symbolic_trace(layer.train())
    assert traced(*args)[0].shape == layer(*args)[0].shape
    if kind != "linear":
        torch.testing.assert_close(traced(*args)[1], layer(*args)[1])
        assert torch.autograd.grad(traced(*args)[1], traced.get_parameter("prior_mean"))


@pytest.mark.parametrize("training", [True, False])
def test_the_latents_prior_is_the_one_of_a_call(training):
    for prior in (
        Normal(MEAN, STD), (MEAN, STD), (0.5, STD), (MEAN, 0.5), (MEAN, {"rho": STD}),
        (0.5, {"logvar": 1.0}),
    ):  # fmt: skip
        layer = fr.FusedGaussianLatent(prior=prior).train(training)
        want = fr.FusedGaussianLatent().train(training)(MU, LOGVAR, prior=prior, key=KEY)
        torch.testing.assert_close(layer(MU, LOGVAR, key=KEY), want, rtol=0, atol=0)
        layer.prior = (0.5, 2.0)  # another one may be set
        assert not layer.state_dict()
        assert repr(layer) == "FusedGaussianLatent(prior=(0.5, 2.0))"
        layer.prior = prior
        torch.testing.assert_close(layer(MU, LOGVAR, key=KEY), want, rtol=0, atol=0)
    said = "prior=(0.5, {'std': a tensor of shape (6,), torch.float32})"
    assert repr(fr.FusedGaussianLatent(prior=(0.5, STD))) == f"FusedGaussianLatent({said})"


def test_a_network_is_made_bayesian_with_one_prior_that_is_learned():
    std = parameter(torch.tensor(0.5))
    net = nn.Sequential(nn.Linear(6, 3), nn.LSTM(3, 2))
    state = copy.deepcopy(net.state_dict())
    fr.bayesianize(net, prior=Normal(torch.zeros(1), std))
    assert sum(p is std for p in net.parameters()) == 1
    assert torch.autograd.grad(fr.kl_divergence(net), std)[0] != 0
    assert str(net.load_state_dict(state)) == "<All keys matched successfully>"


HISTORY = (torch.ones((), requires_grad=True) * 2).exp()
WRONG = [
    ({"prior": Normal(torch.zeros(3, 1), 1.0)}, "prior_mean must broadcast to the layer's bias"),
    ({"prior_std": torch.ones(2, 3, 4)}, r"layer's weight of shape \(3, 4\), got shape \(2, 3, 4"),
    ({"prior": Laplace(0.0, 1.0)}, "or a torch.distributions.Normal; got .* Laplace"),
    ({"prior": (0.0, {"logvar": torch.zeros(4)})}, "distributions.Normal, got .* logvar"),
    ({"prior": Normal(0.0, HISTORY)}, r"prior_std must be .* got a tensor of .* with a history"),
    ({"prior": (0.0, -1.0)}, "prior std must be positive, got -1.0"),
    ({"prior": (0.0, torch.tensor(-1.0))}, "prior_std must be positive, got -1.0"),
    ({"prior": (0.0, 1.0), "prior_std": 2.0}, "give prior or prior_std, got .* prior_std=2.0"),
    ({"prior": Normal(0.0, 1.0), "mixture": (0.5, 1.0, 0.1)}, "give prior or mixture, got"),
    ({"prior_std": torch.ones(1, dtype=torch.long)}, "prior_std must be float32, .* got torch.int"),
    ({"prior_std": nn.Parameter(torch.ones(1).double())}, "prior_std must .* fit into torch.float"),
    ({"prior_std": torch.ones(1), "mixture": (0.5, 1.0, 0.1)}, "give prior_std or mixture, got"),
    ({"mixture": (torch.ones(5), 1.0, 0.1)}, "mixture_share must broadcast to the layer's weight"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_what_no_layer_can_hold(options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        fr.BayesianLinear(4, 3, **options)


def test_what_no_latent_can_hold():
    layer = fr.FusedGaussianLatent(prior=(MEAN, STD))
    for prior, said in (
        (Laplace(0.0, 1.0), "or a torch.distributions.Normal; got .* Laplace"),
        (Normal(0.0, HISTORY), "prior std must be .* with a history"),
        ((0.0, {"logvar": "1"}), "prior logvar must be a number, got '1'"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            fr.FusedGaussianLatent(prior=prior)
        with pytest.raises((TypeError, ValueError), match=said):
            layer.prior = prior
        assert torch.equal(layer.prior[0], MEAN)
