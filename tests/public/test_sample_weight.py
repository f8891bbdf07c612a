"""Sampled weights: the function and the Bayesian layers."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fused_reparam
from fused_reparam import BayesianConv2d, BayesianLinear, gaussian_latent, noise, sample_weight

KEY = noise.key(8)
MIXTURE = (0.3, 1.5, 0.05)


def log_mixture(w, mean, mixture):
    share, *stds = mixture
    parts = Normal(w.new_full((2,), mean), w.new_tensor(stds))
    shares = Categorical(probs=w.new_tensor([share, 1.0 - share]))
    return MixtureSameFamily(shares, parts).log_prob(w)


def test_the_standard_prior_takes_the_gaussian_op():
    mu, rho = torch.randn(2, 30, 7)
    w, kl = sample_weight(mu, rho, key=KEY)
    z, want = gaussian_latent(mu, rho=rho, reduction="sum", key=KEY)
    assert torch.equal(w, z)
    assert torch.equal(kl, want)


def test_a_gaussian_prior():
    mu, rho = (torch.randn(30, 7, dtype=torch.float64).requires_grad_() for _ in range(2))
    w, kl = sample_weight(mu, rho, 0.2, 0.1, key=KEY)
    sigma = F.softplus(rho)
    prior = Normal(*torch.tensor([0.2, 0.1], dtype=torch.float64))
    want = kl_divergence(Normal(mu, sigma), prior).sum()
    torch.testing.assert_close(kl, want)
    drawn = mu + sigma * noise.normal(KEY, (30, 7), dtype=torch.float64)
    torch.testing.assert_close(w, drawn)
    found = torch.autograd.grad(w.sin().sum() + 0.1 * kl, (mu, rho))
    wanted = torch.autograd.grad(drawn.sin().sum() + 0.1 * want, (mu, rho))
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)


def test_a_mixture():
    mu, rho = (torch.randn(30, 7, dtype=torch.float64).requires_grad_() for _ in range(2))
    w, kl = sample_weight(mu, rho, 0.2, mixture=MIXTURE, reduction="none", key=KEY)
    sigma = F.softplus(rho)
    drawn = mu + sigma * noise.normal(KEY, (30, 7), dtype=torch.float64)
    want = Normal(mu, sigma).log_prob(drawn) - log_mixture(drawn, 0.2, MIXTURE)
    torch.testing.assert_close(kl, want)
    found = torch.autograd.grad(w.sin().sum() + 0.1 * kl.sum(), (mu, rho))
    wanted = torch.autograd.grad(drawn.sin().sum() + 0.1 * want.sum(), (mu, rho))
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)


def test_the_mixture_estimates_the_kl():
    """Equal parts are one Gaussian, whose KL is closed: 40,000 draws come within 4 errors."""
    n = 40_000
    mu, rho = torch.full((n,), 0.3), torch.full((n,), -1.0)
    _, kl = sample_weight(mu, rho, mixture=(0.5, 0.7, 0.7), reduction="none", key=KEY)
    want = kl_divergence(Normal(0.3, F.softplus(rho[0])), Normal(0.0, 0.7)).item()
    assert abs(kl.mean().item() - want) < 4 * kl.std().item() / math.sqrt(n)


@pytest.mark.parametrize("rho", [-1000.0, -110.0, -30.0, 0.0, 30.0, 110.0, 1000.0])
def test_any_rho_is_stable(rho):
    """Against float64 with the logarithm of softplus taken exactly."""
    mu = torch.full((8,), 0.25, requires_grad=True)
    x = torch.full((8,), rho, requires_grad=True)
    sigma = math.log1p(math.exp(rho)) if rho < 0 else rho + math.log1p(math.exp(-rho))
    log_sigma = rho if rho < -30 else math.log(sigma)
    for prior_std in (1.0, 0.5):
        w, kl = sample_weight(mu, x, prior_std=prior_std, key=KEY)
        r2 = ((0.25 / prior_std) ** 2) + (sigma / prior_std) ** 2
        want = 8 * 0.5 * (r2 - 1.0 - 2.0 * (log_sigma - math.log(prior_std)))
        assert math.isclose(kl.item(), want, rel_tol=1e-5)
        eps = noise.normal(KEY, 8).double()
        torch.testing.assert_close(w.double(), 0.25 + sigma * eps, rtol=1e-5, atol=1e-5)
        to_mu, to_rho = torch.autograd.grad(kl + w.sum(), (mu, x))
        slope = 1.0 / (1.0 + math.exp(-rho)) if rho > -700 else 0.0
        ratio = 1.0 if rho < -30 else slope / sigma
        kl_slope = sigma * slope / prior_std**2 - ratio
        torch.testing.assert_close(to_rho.double(), kl_slope + eps * slope, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(to_mu, torch.full((8,), 1.0 + 0.25 / prior_std**2))
    w, kl = sample_weight(mu, x, mixture=MIXTURE, reduction="none", key=KEY)
    log_q = -0.5 * eps**2 - log_sigma - 0.5 * math.log(2 * math.pi)
    want = log_q - log_mixture(0.25 + sigma * eps, 0.0, MIXTURE)
    torch.testing.assert_close(kl.double(), want, rtol=1e-4, atol=1e-4)
    assert torch.autograd.grad(kl.sum(), x)[0].isfinite().all()


def model(**options):
    return nn.Sequential(
        BayesianConv2d(1, 4, 3, padding=1, **options), nn.ReLU(), nn.Flatten(),
        BayesianLinear(100, 5, **options), nn.ReLU(), BayesianLinear(5, 2, bias=False, **options),
    )  # fmt: skip


X = torch.linspace(-1.0, 1.0, 75).view(3, 1, 5, 5)


def closed_kl(network, mean=0.0, std=1.0):
    total = 0.0
    for name, mu in network.named_parameters():
        if name.endswith("_mu"):
            rho = network.get_parameter(name[:-3] + "_rho")
            prior = Normal(torch.tensor(mean).double(), torch.tensor(std).double())
            posterior = Normal(mu.detach().double(), F.softplus(rho.detach().double()))
            total += kl_divergence(posterior, prior).sum().item()
    return total


@pytest.mark.parametrize("options", [{}, {"prior_mean": 0.1, "prior_std": 0.2}])
def test_a_model_draws_in_training_and_not_in_eval(options):
    network = model(**options)
    assert not torch.equal(network(X), network(X))
    want = closed_kl(network, *options.values())
    kl = fused_reparam.kl_divergence(network)
    assert math.isclose(kl.item(), want, rel_tol=1e-5)
    grads = torch.autograd.grad(kl, [*network.parameters()])
    assert all(g.abs().sum() > 0 for g in grads)
    network.eval()
    assert torch.equal(network(X), network(X))
    plain = F.conv2d(X, network[0].weight_mu, network[0].bias_mu, padding=1)
    assert torch.equal(network[0](X), plain)
    assert math.isclose(fused_reparam.kl_divergence(network).item(), want, rel_tol=1e-5)


def test_the_layers_weights_are_the_functions():
    layer = BayesianLinear(6, 4, prior_std=0.3, rho_init=0.0)
    torch.manual_seed(1)
    y = layer(X.view(-1)[:6])
    torch.manual_seed(1)
    w, kl_w = sample_weight(layer.weight_mu, layer.weight_rho, prior_std=0.3)
    b, kl_b = sample_weight(layer.bias_mu, layer.bias_rho, prior_std=0.3)
    assert torch.equal(y, F.linear(X.view(-1)[:6], w, b))
    assert torch.equal(layer.kl(), kl_w + kl_b)
    drawing = ({n for n, _ in layer.kl().grad_fn.next_functions} for _ in range(2))
    assert next(drawing) == next(drawing), "of the forward pass, not drawn again"


def test_a_mixture_prior_in_a_layer():
    layer = BayesianLinear(40, 30, mixture=MIXTURE, rho_init=-1.0)
    layer(torch.ones(2, 40))
    first = layer.kl()
    layer(torch.ones(2, 40))
    assert first.item() != layer.kl().item()
    layer.eval()
    fresh = torch.stack([layer.kl().detach() for _ in range(64)])
    assert fresh.unique().numel() > 1
    assert abs(fresh.mean() - first) < 5 * fresh.std()


def test_local_reparameterization_has_the_same_distribution():
    torch.manual_seed(0)
    plain = BayesianLinear(20, 3, rho_init=-1.0, prior_std=0.5)
    local = BayesianLinear(20, 3, rho_init=-1.0, prior_std=0.5, local_reparameterization=True)
    local.load_state_dict(plain.state_dict())
    x = torch.randn(20)
    # Each example has weights of its own with the local form, so that a batch is a sample of it.
    ours = local(x.expand(20_000, 20)).detach()
    mean = plain.eval()(x)
    variance = F.linear(x**2, F.softplus(plain.weight_rho) ** 2, F.softplus(plain.bias_rho) ** 2)
    assert ((ours.mean(0) - mean).abs() < 4 * (variance / 20_000).sqrt()).all()
    assert ((ours.var(0) / variance - 1.0).abs() < 4 * math.sqrt(2 / 20_000)).all()
    want = closed_kl(plain, 0.0, 0.5)
    assert math.isclose(local.kl().item(), want, rel_tol=1e-5)
    (local(x.expand(5, 20)).sum() + local.kl()).backward()
    assert all(p.grad.abs().sum() > 0 for p in local.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_local_reparameterization_in_16_bits_and_at_zero(dtype):
    layer = BayesianLinear(8, 4, bias=False, local_reparameterization=True).to(dtype)
    x = torch.ones(4000, 8, dtype=dtype)
    y = layer(x) - layer.eval()(x)
    want = math.sqrt(8) * math.log1p(math.exp(-5.0))
    assert abs(y.float().std().item() / want - 1.0) < 0.05, "sigma^2 does not underflow"
    layer.train()
    x = torch.zeros(2, 8, dtype=dtype, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.isfinite().all()
    assert layer.weight_rho.grad.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(torch.ones(2, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": (1, 2), "dilation": 2},
        {"kernel_size": (3, 2), "padding": "same", "padding_mode": "circular"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "bias": False},
        {"kernel_size": 1, "groups": 2, "padding": "valid"},
    ],
)
def test_convolutions_are_pytorchs(options):
    layer = BayesianConv2d(4, 6, **options).eval()
    theirs = nn.Conv2d(4, 6, **options)
    with torch.no_grad():
        theirs.weight.copy_(layer.weight_mu)
        if theirs.bias is not None:
            theirs.bias.copy_(layer.bias_mu)
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(layer(x), theirs(x))


def test_layers_start_as_pytorchs_do():
    layer = BayesianLinear(10_000, 20)
    assert 0.0099 < layer.weight_mu.abs().max().item() <= 0.01
    assert (layer.weight_rho == -5.0).all()
    assert BayesianConv2d(4, 6, 3, rho_init=-2.0).bias_rho.unique().item() == -2.0
    half = BayesianLinear(4, 2, device="meta", dtype=torch.float16)
    assert (half.weight_mu.device.type, half.bias_rho.dtype) == ("meta", torch.float16)


def test_copies_and_state():
    network = model(rho_init=-1.0)
    network(X).sum().backward()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other.eval()(X), network.eval()(X))
        network.train()
    assert len(network.state_dict()) == 10
    fresh = model()
    fresh.load_state_dict(network.state_dict())
    assert math.isclose(fused_reparam.kl_divergence(fresh).item(), closed_kl(network), rel_tol=1e-5)
    halved = network.to(torch.bfloat16)
    assert halved(X.bfloat16()).dtype == torch.bfloat16
    assert fused_reparam.kl_divergence(halved).dtype == torch.float32


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_draws_the_same_weights_again(reentrant):
    network = model(rho_init=-1.0)
    found = []
    for keep in (True, False):
        torch.manual_seed(2)
        x = X.clone().requires_grad_()
        y = network(x) if keep else checkpoint(network, x, use_reentrant=reentrant)
        loss = y.square().sum() + fused_reparam.kl_divergence(network)
        found.append(torch.autograd.grad(loss, [*network.parameters()]) if not reentrant else None)
        if reentrant:  # torch.autograd.grad is not for it
            network.zero_grad()
            loss.backward()
            found[-1] = [p.grad.clone() for p in network.parameters()]
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_compiled_model():
    network = nn.Sequential(BayesianLinear(4, 3, prior_std=0.5), BayesianLinear(3, 2))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.ones(2, 4)
    y = compiled(x)
    loss = y.sum() + fused_reparam.kl_divergence(compiled)
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in network.parameters())
    assert not torch.equal(y, compiled(x)), "a new draw"
    kl = closed_kl(network[:1], 0.0, 0.5) + closed_kl(network[1:])
    assert math.isclose(fused_reparam.kl_divergence(network).item(), kl, rel_tol=1e-5)


def test_training_reduces_the_loss_and_the_kl_stays_current():
    torch.manual_seed(0)
    network = nn.Sequential(BayesianLinear(2, 16), nn.Tanh(), BayesianLinear(16, 1))
    x = torch.randn(64, 2)
    y = (x[:, :1] * x[:, 1:]).tanh()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean() + fused_reparam.kl_divergence(network) / 1e5
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    with torch.no_grad():
        network(x)  # in training mode: the KL must be able to give a gradient all the same
    assert fused_reparam.kl_divergence(network).requires_grad
