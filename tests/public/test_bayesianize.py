"""A trained network made Bayesian in place, and one layer made of another."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as old_weight_norm

import fused_reparam as fr
from fused_reparam import bayesianize, kl_divergence, sampling
from tests.helpers.bayes_layers import TABLE, converted, leaves, ours, theirs

EACH = pytest.mark.parametrize("name", TABLE)
pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections:UserWarning", "ignore:.*weight_norm.* is deprecated"
)
X = torch.tensor([[0, 4, 4], [2, 5, 1]])


class Net(nn.Module):
    """One of each layer, one twice, and two that share a weight."""

    def __init__(self):
        super().__init__()
        self.words, self.lstm = nn.Embedding(6, 4), nn.LSTM(4, 4, batch_first=True)
        self.conv = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Tanh())
        self.again = self.conv
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x):
        h = self.lstm(self.words(x))[0].mT
        return self.out((h + self.again(self.conv(h))).mT)


@EACH
def test_a_layer_made_of_another(name):
    plain, args = theirs(name)
    plain.eval()
    next(plain.parameters()).requires_grad_(False)
    plain.register_forward_hook(lambda *_: 1 / 0)
    layer = converted(plain, prior_std=0.5, rho_init=-3.0)
    plain._forward_hooks.clear()
    assert (layer.prior_std, layer.training) == (0.5, False)
    for word, p in plain.named_parameters():
        mu, rho = (getattr(layer, f"{word}_{part}") for part in ("mu", "rho"))
        assert torch.equal(mu, p)
        assert mu.data_ptr() != p.data_ptr()
        assert mu.requires_grad == rho.requires_grad == p.requires_grad
        assert rho.unique().item() == -3.0
    for got, want in zip(leaves(layer(*args)), leaves(plain(*args)), strict=True):
        assert torch.equal(got, want)
    with sampling(layer):
        assert not torch.equal(leaves(layer(*args))[0], leaves(plain(*args))[0])
    assert repr(layer) == repr(ours(name, prior_std=0.5, rho_init=-3.0)[0])


@EACH
def test_a_layer_loads_both_formats(name):
    plain, args = theirs(name)
    torch.manual_seed(5)
    kind, sizes, options = TABLE[name][1:4]
    layer = kind(*sizes, **options, rho_init=-3.0)
    for assign in (False, True):
        state = {n: t.clone() for n, t in plain.state_dict().items()}
        assert layer.load_state_dict(state, assign=assign) == ([], [])
        assert all((p == -3.0).all() for n, p in layer.named_parameters() if n.endswith("rho"))
        for got, want in zip(leaves(layer.eval()(*args)), leaves(plain(*args)), strict=True):
            assert torch.equal(got, want)
    other = kind(*sizes, **options)
    assert other.load_state_dict(layer.state_dict()) == ([], [])
    for p, q in zip(other.parameters(), layer.parameters(), strict=True):
        assert torch.equal(p, q)


def test_states_that_fit_neither_format():
    layer = fr.BayesianLinear(2, 3)
    state = nn.Linear(2, 3).state_dict()
    del state["bias"]
    assert layer.load_state_dict(state, strict=False).missing_keys == ["bias_mu", "bias_rho"]
    both = layer.state_dict() | nn.Linear(2, 3).state_dict()
    assert set(layer.load_state_dict(both, strict=False).unexpected_keys) == {"weight", "bias"}
    with pytest.raises(RuntimeError, match="size mismatch for weight_mu"):
        layer.load_state_dict(nn.Linear(3, 3).state_dict())


def test_a_trained_network():
    torch.manual_seed(0)
    plain = Net().eval()
    model = copy.deepcopy(plain)
    words, weight, state = model.words, model.words.weight, plain.state_dict()
    assert bayesianize(model, prior_std=0.5, rho_init=-3.0) is model
    kinds = [type(m).__name__ for m in model.modules() if hasattr(m, "kl")]
    assert kinds == ["BayesianEmbedding", "BayesianLSTM", "BayesianConv1d", "BayesianLinear"]
    assert model.words is words
    assert model.words.weight_mu is model.out.weight_mu is weight
    assert model.words.weight_rho is model.out.weight_rho
    assert model.again is model.conv
    torch.testing.assert_close(model(X), plain(X), rtol=0, atol=0)
    fresh = bayesianize(Net(), rho_init=-3.0)
    assert fresh.load_state_dict(state) == ([], [])
    assert fresh.load_state_dict(model.state_dict()) == ([], [])
    torch.testing.assert_close(fresh.eval()(X), plain(X), rtol=0, atol=0)
    assert [p.shape for p in model.parameters()] == [p.shape for p in fresh.parameters()]
    optimizer = torch.optim.SGD(model.train().parameters(), 0.1)
    (model(X).square().mean() + kl_divergence(model) / 1000).backward()
    optimizer.step()
    assert all(p.grad.ne(0).any() for p in model.parameters())
    assert model.out.weight_mu is model.words.weight_mu
    assert not torch.equal(model(X), model(X))


def test_shared_weights_are_counted_once():
    model = bayesianize(Net(), prior_std=0.5)
    for _ in range(2):
        layers = model.words, model.lstm, model.conv[0]
        torch.testing.assert_close(kl_divergence(model), sum(m.kl() for m in layers))
        model(X)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    bayesianize(tied)
    alone = fr.BayesianLinear(1, 3)
    alone.load_state_dict({"weight": torch.zeros(3, 1), "bias": tied[1].bias_mu})
    zero = fr.BayesianLinear(1, 3, bias=False)
    zero.load_state_dict({"weight": torch.zeros(3, 1)})
    want = tied[0].kl() + alone.kl() - zero.kl()
    torch.testing.assert_close(kl_divergence(tied), want)


def test_a_row_for_padding_that_another_layer_draws_is_in_the_kl():
    for order in (1, -1):
        words, out = nn.Embedding(6, 4, padding_idx=2), nn.Linear(4, 6, bias=False)
        out.weight = words.weight
        model = bayesianize(nn.Sequential(*[words, out][::order]))
        torch.testing.assert_close(kl_divergence(model), out.kl(), rtol=0, atol=0)
        out(words(X))
        kl_divergence(model).backward()
        assert out.weight_rho.grad[2].ne(0).all()


def test_layers_made_bayesian_one_after_another_share_scales():
    model = Net()
    bayesianize(model, filter=lambda name, _: name == "words")
    bayesianize(model)
    assert model.out.weight_mu is model.words.weight_mu
    assert model.out.weight_rho is model.words.weight_rho
    # Of two scales, each has its KL, although the means are one parameter.
    model.out.weight_rho = nn.Parameter(model.out.weight_rho.detach() + 1.0)
    want = sum(layer.kl() for layer in (model.words, model.lstm, model.conv[0], model.out))
    torch.testing.assert_close(kl_divergence(model), want)


def test_hooks_modes_and_other_attributes_stay():
    layer, calls = nn.Linear(2, 3).eval(), []
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    layer.tag = "mine"
    kept = [layer]  # as a model keeps layers that it does not register
    assert bayesianize(layer) is layer
    kept[0](torch.zeros(1, 2))
    assert (calls, layer.tag, layer.training) == ([1], "mine", False)
    handle.remove()
    layer(torch.zeros(1, 2))
    assert calls == [1]


def test_frozen_layers_have_frozen_scales():
    model = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 1))
    bayesianize(model)
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 4


def test_a_filter():
    seen = []
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Sequential(nn.Conv2d(1, 1, 1), nn.Tanh())})
    bayesianize(model, filter=lambda name, layer: seen.append((name, type(layer))) or name == "a")
    assert seen == [("a", nn.Linear), ("b.0", nn.Conv2d)]
    assert type(model["b"][0]) is nn.Conv2d
    bayesianize(model)
    assert type(model["b"][0]) is fr.BayesianConv2d


class Special(nn.Linear):
    pass


def test_subclasses_and_bayesian_layers_are_left_alone():
    special, done = Special(2, 2), fr.BayesianLinear(2, 2, prior_std=0.3)
    attention = nn.MultiheadAttention(4, 2)
    bound = parametrizations.weight_norm(fr.BayesianLinear(2, 2), "weight_mu")
    model = nn.ModuleList([special, done, attention, bound, nn.Linear(2, 2)])
    bayesianize(model, prior_std=0.7)
    assert type(special) is Special
    assert done.prior_std == 0.3
    assert not any(isinstance(m, fr.BayesianLinear) for m in attention.modules())
    assert type(model[-1]) is fr.BayesianLinear


@pytest.mark.parametrize("fast", [True, False])
def test_a_transformer(fast):
    """PyTorch's fast path reads its layers' weights."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=fast).eval()
    x = torch.randn(3, 5, 8)
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        with torch.no_grad():
            want = model(x)
            bayesianize(model, rho_init=-1.0)
            torch.testing.assert_close(model(x), want)
            with sampling(model):
                assert not torch.allclose(model(x), model(x))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def pruned():
    layer = nn.Linear(2, 2)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


CANT = {
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(2, 2)), "computed of others"),
    "old weight norm": (lambda: old_weight_norm(nn.Conv1d(2, 2, 1)), "weight_g, weight_v"),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(2, 2)), "computed of"),
    "pruning": (pruned, "weight_orig"),
    "sparse": (lambda: nn.Embedding(3, 2, sparse=True), "sparse gradients"),
    "complex": (lambda: nn.Linear(2, 2, dtype=torch.complex64), "of a floating dtype, got"),
    "lstm": (lambda: old_weight_norm(nn.LSTM(2, 2), "weight_hh_l0"), "weight_hh_l0_g"),
}


@pytest.mark.parametrize(("make", "said"), CANT.values(), ids=CANT)
def test_what_cant_be_converted_is_told_and_nothing_is(make, said):
    model = nn.Sequential(nn.Linear(2, 2), make())
    with pytest.raises(TypeError, match=f"layer '1' can't become a Bayesian.*{said}.*filter="):
        bayesianize(model)
    assert type(model[0]) is nn.Linear
    bayesianize(model, filter=lambda name, _: name != "1")
    assert type(model[0]) is fr.BayesianLinear


def test_wrong_arguments():
    model = nn.Sequential(nn.Linear(2, 2))
    for call, error, said in (
        (lambda: bayesianize(3), TypeError, "model must be a torch.nn.Module, got 3 of type int"),
        (lambda: bayesianize(model, priors=1), TypeError, "unexpected keyword argument 'priors'"),
        (lambda: bayesianize(model, prior_std=-1.0), ValueError, "prior_std must be positive"),
        (
            lambda: bayesianize(model, filter="0"),
            TypeError,
            "filter must be a function of a layer's name and module, got '0' of type str",
        ),
        (lambda: bayesianize(nn.GRU(2, 2)), ValueError, "LSTM themselves, and this GRU has none"),
        (
            lambda: bayesianize(model, filter=lambda *_: False),
            ValueError,
            "this Sequential has none that filter lets through",
        ),
    ):
        with pytest.raises(error, match=said):
            call()
    assert type(model[0]) is nn.Linear
    bayesianize(model)
    with pytest.raises(ValueError, match="1 of its layers are Bayesian already"):
        bayesianize(model)


def test_a_compiled_model():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(1, 1, 1))
    model.forward = lambda x: model[1](model[0](x)[:, None])
    compiled = torch.compile(lambda x: model.forward(x), fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 2)
    want = compiled(x)
    bayesianize(model)
    assert not torch.equal(compiled(x), compiled(x))
    model.eval()
    torch.testing.assert_close(compiled(x), want)
