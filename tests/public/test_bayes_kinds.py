"""Every kind of Bayesian layer beside PyTorch's own with the same weights."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fused_reparam as fr
from fused_reparam import sample_weight
from tests.helpers.bayes_layers import TABLE, converted, leaves, ours, theirs

EACH = pytest.mark.parametrize("name", TABLE)
SMALL = pytest.mark.parametrize("name", ["1-d", "3-d", "embedding", "lstm"])
PRIOR = {"prior_mean": 0.1, "prior_std": 0.4, "rho_init": -1.0}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")


def names_of(layer):
    return [n.removesuffix("_mu") for n, _ in layer.named_parameters() if n.endswith("_mu")]


@EACH
def test_it_starts_as_pytorchs_and_calls_it_in_eval(name):
    plain, args = theirs(name)
    layer, _ = ours(name, rho_init=-3.0)
    weights = dict(plain.named_parameters())
    assert names_of(layer) == [*weights]
    for word, p in weights.items():
        assert torch.equal(getattr(layer, f"{word}_mu"), p)
        assert getattr(layer, f"{word}_rho").unique().item() == -3.0
    for got, want in zip(leaves(layer.eval()(*args)), leaves(plain(*args)), strict=True):
        assert torch.equal(got, want)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_pytorchs_with_weights_drawn(name, dtype):
    """Values and gradients, those of the KL too, by a layer with the weights written out."""
    plain, args = theirs(name, dtype)
    layer, _ = ours(name, dtype, **PRIOR)
    torch.manual_seed(7)
    found = leaves(layer(*args))
    torch.manual_seed(7)
    weights, kl = {}, 0.0
    for word in names_of(layer):
        mu, rho = (getattr(layer, f"{word}_{part}") for part in ("mu", "rho"))
        sigma = F.softplus(rho)
        eps = ((sample_weight(mu, rho, 0.1, 0.4)[0] - mu) / sigma).detach()
        weights[word] = mu + sigma * eps
        kl = kl + kl_divergence(Normal(mu, sigma), Normal(0.1, 0.4)).sum()
    want = leaves(functional_call(plain, weights, args))
    same = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
    for got, right in zip(found, want, strict=True):
        torch.testing.assert_close(got, right, **same)
    torch.testing.assert_close(layer.kl().to(dtype), kl, **same)
    parameters = [*layer.parameters()]
    losses = (sum(t.sin().sum() for t in ts) + k / 9 for ts, k in ((found, layer.kl()), (want, kl)))
    grads = [torch.autograd.grad(loss, parameters) for loss in losses]
    for got, right in zip(*grads, strict=True):
        torch.testing.assert_close(got, right, **same)


@EACH
def test_the_kl_is_of_the_pass_and_can_be_had_without_one(name):
    layer, args = ours(name, **PRIOR)
    want = layer.kl().item()
    (leaves(layer(*args))[0].sum() + layer.kl()).backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert abs(layer.kl().item() / want - 1.0) < 1e-6
    assert abs(layer.eval().kl().item() / want - 1.0) < 1e-6
    mixed, _ = ours(name, mixture=(0.5, 1.0, 0.1))
    assert mixed.kl() != mixed.kl()
    mixed(*args)
    assert mixed.kl() == mixed.kl()


@SMALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_pytorchs(name, dtype):
    layer, args = ours(name, dtype)
    plain, _ = theirs(name, dtype)
    assert leaves(layer(*args))[0].dtype == dtype
    assert layer.kl().dtype == torch.float32
    for got, want in zip(leaves(layer.eval()(*args)), leaves(plain(*args)), strict=True):
        assert torch.equal(got, want)


@SMALL
def test_a_checkpoint_draws_the_same_weights_again(name):
    found = []
    for keep in (True, False):
        layer, args = ours(name, rho_init=-1.0)
        torch.manual_seed(2)
        y = layer(*args) if keep else checkpoint(layer, *args, use_reentrant=False)
        (leaves(y)[0].square().sum() + layer.kl()).backward()
        found.append([p.grad for p in layer.parameters()])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@SMALL
def test_compiled(name):
    """In training, and in eval with one draw more; an LSTM between two graphs, as PyTorch's."""
    if name == "lstm" and torch.__version__ < (2, 13):
        pytest.skip("PyTorch 2.11 can't train an LSTM between two graphs")
    torch._dynamo.reset()
    layer, args = ours(name, **PRIOR)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=name != "lstm")
    y = leaves(compiled(*args))[0]
    assert not torch.equal(y, leaves(compiled(*args))[0])
    (y.square().sum() + layer.kl()).backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.eval()
    torch.testing.assert_close(leaves(compiled(*args))[0], leaves(layer(*args))[0])
    if name == "lstm":
        torch._dynamo.reset()
        whole = torch.compile(layer, backend="aot_eager", fullgraph=True)
        with pytest.raises(torch._dynamo.exc.Unsupported):
            whole(*args)


@pytest.mark.parametrize("name", ["1-d", "3-d", "embedding"])
def test_an_ensemble_by_vmap(name):
    layers = [ours(name, **PRIOR)[0] for _ in range(2)]
    params, buffers = stack_module_state(layers)
    args = ours(name)[1]

    def run(p):
        return functional_call(layers[0], (p, buffers), args)

    ys = vmap(run, randomness="different")(params)
    assert ys.shape == (2, *layers[0](*args).shape)
    assert not torch.equal(ys[0], ys[1])
    layers[0].eval()
    torch.testing.assert_close(vmap(run)(params)[1], layers[0](*args))


def test_parameters_made_on_meta_are_reset_as_pytorchs():
    for name in ("1-d", "embedding", "deep lstm", "projected lstm"):
        plain, _ = theirs(name)
        kind, sizes, options = TABLE[name][1:4]
        layer = kind(*sizes, **options, rho_init=-2.0, device="meta").to_empty(device="cpu")
        torch.manual_seed(0)
        layer.reset_parameters()
        for word, p in plain.named_parameters():
            assert torch.equal(getattr(layer, f"{word}_mu"), p)
            assert (getattr(layer, f"{word}_rho") == -2.0).all()


def test_memory_format_and_weights_of_a_layer():
    """What reads ``layer.weight`` gets what a forward pass would take."""
    layer = fr.BayesianConv2d(3, 4, 2, rho_init=0.0).to(memory_format=torch.channels_last)
    assert not torch.equal(layer.weight, layer.weight)
    layer.eval()
    assert layer.weight is layer.weight_mu
    assert layer.bias is layer.bias_mu
    with fr.sampling(layer):
        assert not torch.equal(layer.bias, layer.bias)
    assert fr.BayesianLinear(2, 2, bias=False).bias is None


def test_the_row_for_padding():
    """It is its mean, which nothing changes; the KL is of the other rows."""
    for padding, rows in ((0, 5), (2, 5), (-1, 5), (0, 1)):
        layer = fr.BayesianEmbedding(rows, 3, padding_idx=padding, rho_init=0.0, prior_std=0.3)
        at = padding % rows
        x = torch.arange(rows)
        y = layer(x)
        assert (y[at] == 0).all()
        assert (y.detach().sum(1) != 0).sum() == rows - 1
        others = [i for i in range(rows) if i != at]
        sigma = F.softplus(layer.weight_rho[others].double())
        want = kl_divergence(Normal(layer.weight_mu[others].double(), sigma), Normal(0.0, 0.3))
        torch.testing.assert_close(layer.kl().double(), want.sum(), rtol=1e-6, atol=0.0)
        (y.sum() + layer.weight.sin().sum() + layer.kl()).backward()
        for p in layer.parameters():
            assert (p.grad[at] == 0).all()
            assert p.grad[others].ne(0).all()
        assert torch.equal(layer.eval()(x), layer.weight_mu)
        assert layer.padding_idx == nn.Embedding(rows, 3, padding).padding_idx


def test_a_bound_on_the_norm_of_rows():
    layer = fr.BayesianEmbedding(5, 3, max_norm=0.5, rho_init=0.0)
    x = torch.tensor([1, 1, 3])
    y = layer(x)
    assert torch.equal(y[0], y[1])
    assert (y.norm(dim=1) <= 0.5001).all()
    (y.sum() + layer.kl()).backward()
    assert (layer.eval()(x).norm(dim=1) <= 0.5001).all()


def test_networks_that_flatten_an_lstms_parameters_stay_as_they_are():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4)

        def forward(self, x):
            self.lstm.flatten_parameters()
            return self.lstm(x)[0]

    model, x = Net().eval(), torch.randn(5, 2, 3)
    want = model(x)
    assert torch.equal(fr.bayesianize(model)(x), want)


def test_an_lstms_weights_are_drawn_once():
    """Two sequences and all steps share them: equal inputs give equal outputs."""
    layer = fr.BayesianLSTM(3, 4, rho_init=0.0)
    x = torch.randn(6, 1, 3)
    y, (h, c) = layer(x.expand(6, 2, 3))
    torch.testing.assert_close(y[:, 0], y[:, 1])
    torch.testing.assert_close(h[0], y[-1])
    assert c.shape == h.shape


WRONG = [
    (lambda: fr.BayesianLSTM(3, 4)(torch.zeros(2, 5)), r"input_size=3 .* shape \(2, 1, 5\)"),
    (lambda: fr.BayesianLSTM(3, 4)(torch.zeros(3)), r"two dims .* or three.* shape \(3,\)"),
    (lambda: fr.BayesianLSTM(3, 4)(torch.zeros(2, 1, 3).double()), "dtype torch.float32, got .*64"),
    (
        lambda: fr.BayesianLSTM(3, 4)(torch.zeros(5, 2, 3), (torch.zeros(1, 2, 3),) * 2),
        r"h0 must be of shape \(1, 2, 4\), got .* \(1, 2, 3\)",
    ),
    (lambda: fr.BayesianLSTM(3, 4)(torch.zeros(5, 2, 3), (None, None)), r"two tensors \(h0, c0\)"),
    (
        lambda: fr.BayesianLSTM(3, 4)(torch.zeros(5, 3), (torch.zeros(1, 4),)),
        r"two tensors \(h0, c0\), got \(a tensor of shape \(1, 4\)",
    ),
    (lambda: fr.BayesianLSTM(3, 4)([1.0]), "takes a tensor or a packed sequence, got .* list"),
    (lambda: fr.BayesianLSTM(3, 4, proj_size=4), "proj_size has to be smaller"),
    (lambda: fr.BayesianLSTM(3, 0), "hidden_size must be greater than zero"),
    (lambda: fr.BayesianEmbedding(4, 2, padding_idx=4), "padding_idx must be one of 4 rows, got 4"),
    (lambda: fr.BayesianEmbedding(4, 2, sparse=True), "unexpected keyword argument 'sparse'"),
    (lambda: fr.BayesianConv1d(3, 4, 2, groups=2), "in_channels must be divisible by groups"),
    (lambda: fr.BayesianConv3d(3, 4, "2"), "kernel_size must be an integer, got '2'"),
    (lambda: fr.BayesianConv1d(3, 4, 2, prior_std=0.0), "prior_std must be positive, got 0.0"),
    (
        lambda: fr.BayesianEmbedding.from_embedding(nn.Embedding(4, 2, sparse=True)),
        "it has sparse gradients",
    ),
    (lambda: converted(nn.LSTM(3, 4), prior=1.0), r"prior must be None, \(mean, std\) of numbers"),
    (lambda: fr.BayesianLinear.from_linear(nn.Conv1d(1, 1, 1)), "itself, got a Conv1d"),
    (lambda: fr.BayesianLinear.from_linear(3), "must be a torch.nn.Linear, got 3 of type int"),
    (lambda: fr.BayesianLSTM.from_lstm(nn.GRU(3, 4)), "itself, got a GRU"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), WRONG)
def test_what_is_wrong(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()
