"""The families' modules: training and eval, state, copies, compilers, bad options."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fused_reparam import (
    BayesianConv2d,
    BayesianLinear,
    FusedCategoricalLatent,
    FusedGumbelSoftmax,
    FusedOneHotCategorical,
    FusedRelaxedBernoulli,
    FusedTanhNormal,
    categorical_latent,
    gumbel_softmax,
    kl_divergence,
    noise,
    one_hot_categorical,
    relaxed_bernoulli,
    tanh_normal_rsample,
)

KEY = noise.key(31)


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 6, 4, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def one_hot(x, dim):
    return torch.zeros_like(x).scatter_(dim, x.argmax(dim, keepdim=True), 1.0)


def kl_to_equal(x, dim):
    log_p = torch.log_softmax(x, dim)
    return (log_p.exp() * log_p).sum(dim) + math.log(x.shape[dim])


def quiet_density(x):
    """log N(0 | 0, 1) less the log-derivative of tanh at x: what eps = 0 has, scale 1."""
    slope = 2.0 * (math.log(2.0) - x.abs() - torch.log1p(torch.exp(-2.0 * x.abs())))
    return (-0.5 * math.log(2.0 * math.pi) - slope).sum(-1)


# Name: (module, what it calls in training, its outputs in eval, what eval's gradient is of, repr).
MODULES = {
    "gumbel": (
        FusedGumbelSoftmax(0.5, dim=1),
        lambda x, **k: gumbel_softmax(x, 0.5, dim=1, **k),
        lambda x: torch.softmax(x / 0.5, 1),
        lambda x: torch.softmax(x / 0.5, 1),
        "FusedGumbelSoftmax(tau=0.5, dim=1)",
    ),
    "hard gumbel": (
        FusedGumbelSoftmax(0.5, hard=True),
        lambda x, **k: gumbel_softmax(x, 0.5, hard=True, **k),
        lambda x: one_hot(x, -1),
        lambda x: torch.softmax(x / 0.5, -1),
        "FusedGumbelSoftmax(tau=0.5, hard=True)",
    ),
    "categorical": (
        FusedCategoricalLatent(0.7, dim=1, reduction="sample"),
        lambda x, **k: categorical_latent(x, 0.7, dim=1, reduction="sample", **k),
        lambda x: (torch.softmax(x / 0.7, 1), kl_to_equal(x, 1).sum(1)),
        lambda x: (torch.softmax(x / 0.7, 1), kl_to_equal(x, 1).sum(1)),
        "FusedCategoricalLatent(tau=0.7, dim=1, reduction='sample')",
    ),
    "hard categorical": (
        FusedCategoricalLatent(2.0, hard=True),
        lambda x, **k: categorical_latent(x, 2.0, hard=True, **k),
        lambda x: (one_hot(x, -1), kl_to_equal(x, -1).sum() / 3),
        lambda x: (torch.softmax(x / 2.0, -1), kl_to_equal(x, -1).sum() / 3),
        "FusedCategoricalLatent(tau=2.0, hard=True)",
    ),
    "one-hot": (
        FusedOneHotCategorical(0.1, dim=-2),
        lambda x, **k: one_hot_categorical(x, 0.1, dim=-2, **k),
        lambda x: one_hot(x, 1),
        lambda x: 0.9 * torch.softmax(x, 1),
        "FusedOneHotCategorical(unimix=0.1, dim=-2)",
    ),
    "tanh-normal": (
        FusedTanhNormal("std", low=-2.0, high=4.0),
        lambda x, **k: tanh_normal_rsample(x, std=1.0, low=-2.0, high=4.0, **k),
        lambda x: (1.0 + 3.0 * torch.tanh(x), quiet_density(x) - 4 * math.log(3.0)),
        lambda x: (1.0 + 3.0 * torch.tanh(x), quiet_density(x)),
        "FusedTanhNormal(scale='std', low=-2.0, high=4.0)",
    ),
    "bernoulli": (
        FusedRelaxedBernoulli(0.5, hard=True),
        lambda x, **k: relaxed_bernoulli(x, 0.5, hard=True, **k),
        lambda x: (x > 0).to(x.dtype),
        lambda x: torch.sigmoid(x / 0.5),
        "FusedRelaxedBernoulli(tau=0.5, hard=True)",
    ),
}
EACH = pytest.mark.parametrize("name", MODULES)


def call(module, x, **options):
    """The outputs in a tuple."""
    scale = (1.0,) if isinstance(module, FusedTanhNormal) else ()
    out = module(x, *scale, **options)
    return out if isinstance(out, tuple) else (out,)


def of(function, x, **options):
    out = function(x, **options)
    return out if isinstance(out, tuple) else (out,)


@EACH
def test_training_calls_the_function(name):
    module, function, *_ = MODULES[name]
    x = inputs()
    for got, want in zip(call(module, x, key=KEY), of(function, x, key=KEY), strict=True):
        assert torch.equal(got, want)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    drawn = call(module, x, generator=generators[0])[0]
    assert torch.equal(drawn, of(function, x, generator=generators[1])[0])
    assert not torch.equal(call(module, x)[0], call(module, x)[0]), "a new draw each time"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@EACH
def test_eval_has_no_noise(name, dtype):
    module, _, want, smooth, _ = MODULES[name]
    quiet = copy.deepcopy(module).eval()
    x = inputs(dtype)
    error = 2e-2 if dtype == torch.bfloat16 else 1e-5
    close = {"rtol": error, "atol": error}
    before = torch.get_rng_state()
    got = call(quiet, x)
    for a, b in zip(got, of(want, x.double()), strict=True):
        torch.testing.assert_close(a.double(), b, **close)
    assert got[0].dtype == dtype
    found = torch.autograd.grad(sum((o * o.detach().cos()).sum() for o in got), x)[0]
    leaf = x.detach().double().requires_grad_()
    values = zip(of(smooth, leaf), got, strict=True)
    right = torch.autograd.grad(sum((v * g.detach().double().cos()).sum() for v, g in values), leaf)
    torch.testing.assert_close(found.double(), right[0], **close)
    for a, b in zip(got, call(quiet, x, key=KEY), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before), "no generator moves"
    assert call(quiet.train(), x)[0].ne(got[0]).any()


@EACH
def test_repr_state_and_copies(name):
    module, *_, shown = MODULES[name]
    assert repr(module) == shown
    assert module.state_dict() == {}
    assert not list(module.parameters())
    assert not list(module.buffers())
    x = inputs()
    loaded = pickle.loads(pickle.dumps(module))
    for other in (copy.deepcopy(module), loaded, module.to("cpu").half()):
        assert repr(other) == shown
        assert torch.equal(call(other, x, key=KEY)[0], call(module, x, key=KEY)[0])


@EACH
def test_compiled_in_training(name):
    torch._dynamo.reset()
    module = copy.deepcopy(MODULES[name][0])
    network = torch.compile(lambda x: call(module, 2.0 * x), fullgraph=True, backend="aot_eager")
    x = inputs()
    torch.manual_seed(2)
    got, other = network(x), network(x)
    assert not torch.equal(got[0], other[0])
    torch.manual_seed(2)
    for a, b in zip(network(x), got, strict=True):
        assert torch.equal(a, b)
    found = torch.autograd.grad(sum(o.square().sum() for o in got), x)[0]
    assert found.abs().sum() > 0


@EACH
def test_compiled_and_exported_in_eval(name):
    torch._dynamo.reset()
    module = copy.deepcopy(MODULES[name][0]).eval()
    wrapped = Wrapped(module)
    x = inputs().detach()
    want = call(module, x)
    compiled = torch.compile(wrapped, fullgraph=True, backend="aot_eager")
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(wrapped, (x,), dynamic_shapes=({0: batch},))
    for got in (compiled(x), exported.module()(x)):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)
    more = torch.cat((x, x.flip(1)))
    for a, b in zip(exported.module()(more), call(module, more), strict=True):
        torch.testing.assert_close(a, b)


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return call(self.module, x)


def test_annealing():
    x = inputs()
    for module, function in (
        (FusedGumbelSoftmax(), gumbel_softmax),
        (FusedRelaxedBernoulli(), relaxed_bernoulli),
        (FusedCategoricalLatent(), lambda *a, **k: categorical_latent(*a, **k)[0]),
    ):
        for tau in (1.0, 0.5, 0.25):
            module.tau = tau
            assert torch.equal(call(module, x, key=KEY)[0], function(x, tau, key=KEY))
        torch._dynamo.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for tau in (1.0, 0.5, 0.25):
            module.tau = tau
            got = compiled(x, key=KEY)
            got = got[0] if isinstance(got, tuple) else got
            torch.testing.assert_close(got, function(x, tau, key=KEY))
        module.tau = 0.0
        with pytest.raises(ValueError, match="tau must be positive, got 0"):
            module(x)
        module.tau = torch.nn.Parameter(torch.tensor(0.5))
        call(module, x, key=KEY)[0].square().sum().backward()
        assert float(module.tau.grad) != 0.0
        assert "tau=a tensor of shape ()" in repr(module)


@EACH
def test_float16_and_autocast(name):
    """Half-precision logits give half-precision results, rounded once; autocast changes nothing."""
    module, function, *_ = MODULES[name]
    x = inputs(torch.float16).detach()
    got = call(module, x, key=KEY)
    want = of(function, x.float(), key=KEY)
    assert got[0].dtype == torch.float16
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=2e-3, atol=2e-3)
        assert a is got[0] or a.dtype == torch.float32, "a KL or log-density is not rounded"
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(call(module, x.float(), key=KEY), want, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    "layer",
    [
        BayesianLinear(6, 3, rho_init=-1.0),
        BayesianConv2d(2, 3, (3, 2), padding=1, rho_init=-1.0),
    ],
)
def test_bayesian_layers_have_the_mean_and_variance_of_their_weights(layer):
    """Over 4,000 draws of the weights, within four standard errors."""
    conv = isinstance(layer, BayesianConv2d)
    x = torch.randn((1, 2, 4, 4) if conv else (6,))
    with torch.no_grad():
        drawn = torch.stack([layer(x) for _ in range(4000)])
        quiet = copy.deepcopy(layer).eval()
        sigmas = [F.softplus(rho) ** 2 for rho in (layer.weight_rho, layer.bias_rho)]
        variance = F.conv2d(x**2, *sigmas, padding=1) if conv else F.linear(x**2, *sigmas)
        assert ((drawn.mean(0) - quiet(x)).abs() < 4.5 * (variance / 4000).sqrt()).all()
        assert ((drawn.var(0) / variance - 1.0).abs() < 4.5 * math.sqrt(2 / 4000)).all()


def test_one_draw_serves_the_batch_but_for_local_reparameterization():
    x = torch.randn(1, 6).expand(5, 6)
    shared = BayesianLinear(6, 3, rho_init=0.0)(x)
    assert torch.equal(shared, shared[:1].expand_as(shared))
    own = BayesianLinear(6, 3, rho_init=0.0, local_reparameterization=True)(x)
    assert len({tuple(row) for row in own.tolist()}) == 5


def test_local_reparameterizations_gradients_vary_less():
    """What it is for: the same mean gradient, of less variance over a batch."""
    torch.manual_seed(0)
    x = 1.0 + torch.randn(64, 6)
    plain = BayesianLinear(6, 3, bias=False, rho_init=-1.0)
    local = BayesianLinear(6, 3, bias=False, rho_init=-1.0, local_reparameterization=True)
    local.load_state_dict(plain.state_dict())
    found = []
    for layer in (plain, local):
        draws = [torch.autograd.grad(layer(x).sum(), layer.weight_rho)[0] for _ in range(600)]
        found.append(torch.stack(draws))
    means = [g.mean(0) for g in found]
    errors = [g.std(0) / 600**0.5 for g in found]
    assert ((means[0] - means[1]).abs() < 4.5 * (errors[0] ** 2 + errors[1] ** 2).sqrt()).all()
    assert found[1].var(0).mean() < 0.1 * found[0].var(0).mean()


def test_kl_divergence_collects_nested_layers_once():
    layer = BayesianLinear(4, 4, prior_std=0.5)
    twice = nn.Sequential(layer, nn.ReLU(), layer)
    network = nn.ModuleDict({"a": twice, "b": BayesianLinear(4, 2)})
    network["b"](network["a"](torch.ones(2, 4)))
    want = layer.kl() + network["b"].kl()
    torch.testing.assert_close(kl_divergence(network), want)
    network["b"].weight_mu.requires_grad_(False)
    kl_divergence(network).backward()
    assert network["b"].weight_mu.grad is None
    assert network["b"].bias_mu.grad is not None
    half = copy.deepcopy(network).double()
    assert kl_divergence(half.eval()).dtype == torch.float64
    torch.testing.assert_close(kl_divergence(half).float(), kl_divergence(network.eval()))


def test_bayesian_layers_move_between_dtypes_and_devices():
    layer = BayesianConv2d(1, 2, 3)
    x = torch.randn(1, 1, 5, 5)
    layer(x)
    moved = copy.deepcopy(layer).double()
    assert moved(x.double()).dtype == moved.kl().dtype == torch.float64
    meta = copy.deepcopy(layer).to("meta")
    assert meta(x.to("meta")).shape == (1, 2, 3, 3)
    assert meta.kl().device.type == "meta"
    empty = BayesianConv2d(1, 2, 3, device="meta").to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty.eval()(x), layer.eval()(x))
    torch.testing.assert_close(empty.kl(), layer.kl())
