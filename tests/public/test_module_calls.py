"""How modules are called: a scale by its keyword, moments in one tensor; and how they print."""

import copy

import pytest
import torch
from torch import fx, nn

import fused_reparam as fr
from fused_reparam import noise

KEY = noise.key(21)
SCALES = ("logvar", "log_std", "std", "var", "rho")
each_scale = pytest.mark.parametrize("kind", SCALES)
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def inputs():
    generator = torch.Generator().manual_seed(4)
    mu, x = torch.rand(2, 4, 6, generator=generator).unbind()
    return mu.requires_grad_(), (x + 0.2).requires_grad_()


def assert_same(got, want):
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)


@modes
@each_scale
def test_a_scale_by_its_keyword(kind, training):
    """Whatever the layer takes for its second argument."""
    mu, x = inputs()
    for layer, named in (
        (fr.FusedGaussianLatent(reduction="sample"), fr.FusedGaussianLatent(kind, "sample")),
        (fr.FusedGaussianLatent("rho", dim=1), fr.FusedGaussianLatent(kind)),
        (fr.FusedTanhNormal(low=-2.0), fr.FusedTanhNormal(kind, low=-2.0)),
        (fr.FusedTanhNormal("var"), fr.FusedTanhNormal(kind)),
    ):
        layer.train(training), named.train(training)
        for scale in (x, 0.5):
            want = named(mu, scale, key=KEY)
            assert_same(layer(mu, **{kind: scale}, key=KEY), want)
            assert_same(named(mu, **{kind: scale}, key=KEY), want)
            assert_same(named(mu, scale=scale, key=KEY), want)
            if kind == "std" and scale is x:
                # Or bounds that another layer has otherwise were tensors, which round otherwise.
                torch._dynamo.reset()
                compiled = torch.compile(layer, fullgraph=True, backend="eager")
                assert_same(compiled(mu, std=scale, key=KEY), want)
        graph = fx.symbolic_trace(layer)
        assert_same(graph(mu, **{kind: x}, key=KEY), layer(mu, **{kind: x}, key=KEY))


def test_a_scale_of_the_layers_own_kind_is_clamped():
    mu, x = inputs()
    for make in (fr.FusedGaussianLatent, fr.FusedTanhNormal):
        layer = make("log_std", clamp=(-0.5, 0.5))
        assert_same(layer(mu, log_std=x, key=KEY), layer(mu, x, key=KEY))
        with pytest.raises(ValueError, match=r"clamp=\(-0.5, 0.5\) bounds log_std, and .* logvar"):
            layer(mu, logvar=x)


@modes
def test_scales_that_are_too_many_or_too_few(training):
    mu, x = inputs()
    for layer in (fr.FusedGaussianLatent("std"), fr.FusedTanhNormal("std")):
        layer.train(training)
        said = r"give exactly one of scale \(here: std\), logvar, .*; got scale and log_std"
        with pytest.raises(ValueError, match=said):
            layer(mu, x, log_std=x)
        with pytest.raises(ValueError, match="got logvar and rho"):
            layer(mu, logvar=x, rho=x)
        with pytest.raises(TypeError, match="sigma"):
            layer(mu, sigma=x)
    with pytest.raises(ValueError, match=r"call layer\(mean, std\), or name the scale"):
        fr.FusedTanhNormal("std").train(training)(mu)


@modes
def test_one_tensor_needs_a_dim(training):
    """A forgotten scale split the time axis of (B, T, D) in silence."""
    layer = fr.FusedGaussianLatent("log_std").train(training)
    with pytest.raises(ValueError) as caught:
        layer(torch.zeros(8, 10, 4))
    said = str(caught.value)
    assert "got one tensor, a tensor of shape (8, 10, 4), torch.float32" in said
    assert "call layer(mu, log_std); or" in said
    assert "FusedGaussianLatent(dim=1)" in said
    for dim in (1, -1, 0):
        z, _ = fr.FusedGaussianLatent(dim=dim).train(training)(torch.zeros(8, 10, 4))
        assert z.shape == tuple(n // (1 + (i == dim % 3)) for i, n in enumerate((8, 10, 4)))
    with pytest.raises(TypeError, match="mu must be a floating tensor, got None"):
        layer(None)


# Of each module, one as it is by default and one with every option changed.
PRINTED = [
    (fr.FusedGaussianLatent(), "FusedGaussianLatent()"),
    (
        fr.FusedGaussianLatent(
            "log_std",
            "sum",
            (-5, 2),
            -1,
            "torch",
            prior=(0, 2),
            free_bits=0.5,
            free_bits_per="element",
            beta=torch.tensor(0.5),
            num_samples=2,
        ),
        "FusedGaussianLatent(scale='log_std', reduction='sum', clamp=(-5.0, 2.0), dim=-1, "
        "rng='torch', prior=(0.0, 2.0), free_bits=0.5, free_bits_per='element', "
        "beta=a tensor of shape (), torch.float32, num_samples=2)",
    ),
    (fr.FusedTanhNormal(), "FusedTanhNormal()"),
    (
        fr.FusedTanhNormal("logvar", -2, 3, (-1, 1)),
        "FusedTanhNormal(scale='logvar', low=-2.0, high=3.0, clamp=(-1.0, 1.0))",
    ),
    (fr.FusedRelaxedBernoulli(), "FusedRelaxedBernoulli()"),
    (fr.FusedRelaxedBernoulli(0.5, True), "FusedRelaxedBernoulli(tau=0.5, hard=True)"),
    (fr.FusedGumbelSoftmax(), "FusedGumbelSoftmax()"),
    (fr.FusedGumbelSoftmax(0.5, True, 1), "FusedGumbelSoftmax(tau=0.5, hard=True, dim=1)"),
    (fr.FusedCategoricalLatent(), "FusedCategoricalLatent()"),
    (
        fr.FusedCategoricalLatent(0.5, True, 1, "none"),
        "FusedCategoricalLatent(tau=0.5, hard=True, dim=1, reduction='none')",
    ),
    (fr.FusedOneHotCategorical(), "FusedOneHotCategorical()"),
    (fr.FusedOneHotCategorical(0.01, 1), "FusedOneHotCategorical(unimix=0.01, dim=1)"),
    (fr.BayesianLinear(4, 3), "BayesianLinear(in_features=4, out_features=3)"),
    (
        fr.BayesianLinear(
            4, 3, False, prior_mean=0.1, prior_std=0.5, rho_init=-3, local_reparameterization=True
        ),
        "BayesianLinear(in_features=4, out_features=3, bias=False, prior_mean=0.1, prior_std=0.5, "
        "rho_init=-3.0, local_reparameterization=True)",
    ),
    (
        fr.BayesianConv1d(2, 4, 3, mixture=(0.5, 1.0, 0.1)),
        "BayesianConv1d(in_channels=2, out_channels=4, kernel_size=(3,), mixture=(0.5, 1.0, 0.1))",
    ),
    (
        fr.BayesianConv2d(2, 4, 3, 2, "valid", (1, 2), 2, False, "circular"),
        "BayesianConv2d(in_channels=2, out_channels=4, kernel_size=(3, 3), stride=(2, 2), "
        "padding='valid', dilation=(1, 2), groups=2, bias=False, padding_mode='circular')",
    ),
    (
        fr.BayesianConv3d(2, 4, (1, 2, 3), padding=1),
        "BayesianConv3d(in_channels=2, out_channels=4, kernel_size=(1, 2, 3), padding=(1, 1, 1))",
    ),
    (fr.BayesianEmbedding(5, 3), "BayesianEmbedding(num_embeddings=5, embedding_dim=3)"),
    (
        fr.BayesianEmbedding(5, 3, 0, 1, 1, True),
        "BayesianEmbedding(num_embeddings=5, embedding_dim=3, padding_idx=0, max_norm=1.0, "
        "norm_type=1.0, scale_grad_by_freq=True)",
    ),
    (fr.BayesianLSTM(2, 3), "BayesianLSTM(input_size=2, hidden_size=3)"),
    (
        fr.BayesianLSTM(2, 3, 2, False, True, 0.1, True, 1),
        "BayesianLSTM(input_size=2, hidden_size=3, num_layers=2, bias=False, batch_first=True, "
        "dropout=0.1, bidirectional=True, proj_size=1)",
    ),
]


@pytest.mark.parametrize(("module", "printed"), PRINTED, ids=[p for _, p in PRINTED])
def test_what_is_printed(module, printed):
    before = torch.get_rng_state()
    assert repr(module) == printed
    assert f"(0): {printed}" in repr(nn.Sequential(module))
    assert repr(copy.deepcopy(module)) == printed
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn"


def test_a_subclass_prints_what_it_has_of_its_class():
    class Mine(fr.BayesianLinear):
        def __init__(self, size):
            super().__init__(size, size, prior_std=0.5)

    assert repr(Mine(3)) == "Mine(in_features=3, out_features=3, prior_std=0.5)"
    layer = fr.FusedGumbelSoftmax()
    layer.tau = 0.3
    assert repr(layer) == "FusedGumbelSoftmax(tau=0.3)"
