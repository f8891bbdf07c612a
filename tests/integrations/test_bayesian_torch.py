"""bayesian_torch's layers, patched, against what they were."""

import pytest
import torch

from fused_reparam import integrations

pytest.importorskip("bayesian_torch", reason="bayesian_torch is not installed")
from bayesian_torch import layers
from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn, get_kl_loss

from fused_reparam.integrations.bayesian_torch import LAYERS

NAMES = [layer.name for layer in LAYERS]
NEAR = {"rtol": 1e-5, "atol": 2e-6}


def made(name, **options):
    """A layer, and an input of it."""
    torch.manual_seed(0)
    dims = next((int(d) for d in "123" if f"{d}d" in name), 0)
    if dims:
        options["kernel_size"] = (3,) * dims if dims > 1 else 3
    # Of the transposed Flipout layers, the original can make those with as many channels out as in.
    size = 128 if "Flipout" in name else 4
    out = size if "Transpose" in name else 2 * size
    layer = getattr(layers, name)(
        size, out, posterior_mu_init=0.0, posterior_rho_init=-3.0, **options
    )  # fmt: skip
    return layer, torch.randn(2, size, *(3,) * dims)


def both(call, rng="torch"):
    """What a call gives unpatched and patched, of the same noise, and the report."""
    torch.manual_seed(1)
    old = call()
    torch.manual_seed(1)
    with integrations.patch("bayesian_torch", rng=rng) as report:
        new = call()
    return old, new, report


def test_every_target_is_replaced():
    with integrations.patch("bayesian_torch") as report:
        assert {row.status for row in report.rows} == {"replaced"}
    kinds = ("Reparameterization", "Flipout")
    every = {n for n in vars(layers) if n.endswith(kinds) and not n.startswith("Quantized")}
    assert every == {*NAMES, "LSTMReparameterization", "LSTMFlipout"}


@pytest.mark.parametrize("prior", ["numbers", "tensors"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_layer(name, bias, prior):
    layer, x = made(name, bias=bias, prior_mean=0.5, prior_variance=0.25)
    if prior == "tensors":
        layer.prior_weight_mu = torch.randn_like(layer.prior_weight_mu)
        layer.prior_weight_sigma.uniform_(0.1, 2.0)

    def call():
        out, kl = layer(x)
        grads = torch.autograd.grad(out.square().sum() + 100 * kl, list(layer.parameters()))
        return [kl, out, layer.kl_loss(), *grads, torch.rand(())]

    old, new, report = both(call)
    assert report.calls == {"fused": 2}
    assert [t.dtype for t in new] == [t.dtype for t in old]
    torch.testing.assert_close(new[0], old[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(new[2], old[2], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(new, old, strict=True):
        most = theirs.detach().abs().max().clamp_min(1.0).item()
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-5 * most)
    assert new[-1] == old[-1]  # the generator is where it was


@pytest.mark.parametrize("name", ["LinearReparameterization", "LinearFlipout"])
def test_a_weight_is_within_units_in_the_last_place(name):
    layer, _ = made(name)
    x = torch.eye(layer.in_features)
    old, new, _ = both(lambda: layer(x, return_kl=False))
    torch.testing.assert_close(new, old, rtol=1e-6, atol=2e-7)


def test_double_precision():
    layer, x = made("LinearReparameterization")
    layer, x = layer.double(), x.double()
    old, new, report = both(lambda: layer(x))
    assert report.calls == {"fused": 1}
    for ours, theirs in zip(new, old, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["Reparameterization", "Flipout"])
def test_an_lstm(kind):
    layer, _ = made(f"LSTM{kind}")
    x = torch.randn(2, 3, layer.in_features)

    def call():
        h, (_, c), kl = layer(x)
        return h, c, kl, *torch.autograd.grad(h.sum() + kl, layer.hh.rho_weight)

    old, new, report = both(call)
    # The original's noise of an earlier step is overwritten before its backward pass.
    for ours, theirs in zip(new[:3], old[:3], strict=True):
        torch.testing.assert_close(ours, theirs, **NEAR)
    assert report.calls == {"fused": 6}


@pytest.mark.parametrize("kind", ["Reparameterization", "Flipout"])
def test_a_network_that_was_made_bayesian(kind):
    torch.manual_seed(0)
    options = {
        "prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -3.0,
        "type": kind, "moped_enable": True, "moped_delta": 0.5,
    }  # fmt: skip
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    dnn_to_bnn(net, options)
    x = torch.randn(5, 4)

    def call():
        out, kl = net(x), get_kl_loss(net)
        return kl, out, *torch.autograd.grad(out.sum() + kl, list(net.parameters()))

    old, new, report = both(call)
    assert report.calls["fused"] == (2 if kind == "Flipout" else 4)  # it has few weights
    for ours, theirs in zip(new, old, strict=True):
        torch.testing.assert_close(ours, theirs, **NEAR)


@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_gradients_are_of_the_noise_of_each_pass(rng):
    """The original reads, for every pass, the noise of the last one."""
    layer, x = made("LinearReparameterization", bias=False)
    with integrations.patch("bayesian_torch", rng=rng):
        torch.manual_seed(1)
        alone = torch.autograd.grad(layer(x)[0].sum(), layer.rho_weight)[0]
        torch.manual_seed(1)
        first = layer(x)[0].sum()
        second = layer(x)[0].sum()
        assert first != second
        assert torch.equal(torch.autograd.grad(first, layer.rho_weight)[0], alone)


def test_the_prior_is_read_at_each_call():
    layer, x = made("LinearReparameterization", bias=False)
    with integrations.patch("bayesian_torch"):
        layer(x)
        layer.prior_weight_mu.data.fill_(3.0)  # no version counter shows it
        assert layer(x)[1] > 4.0
        layer.prior_weight_mu.data[0, 0] = 50.0
        assert layer(x)[1] > 40.0


def test_calls_that_go_to_the_original():
    class Halved(layers.LinearReparameterization):
        def kl_div(self, *given):
            return super().kl_div(*given) / 2

    torch.manual_seed(0)
    with integrations.patch("bayesian_torch") as report:
        Halved(4, 6)(torch.randn(2, 4))
        layer, x = made("Conv2dReparameterization")
        layer.prepare()
        layer(x)
        layer, x = made("LinearReparameterization")
        layer.prior_weight_mu = torch.zeros(4)
        layer(x)
        assert report.calls == {
            "fallback: a subclass with a KL of its own": 1,
            "fallback: prepared for quantization": 1,
            "fallback: a prior or a scale of another shape than the mean": 1,
        }


@pytest.mark.parametrize("name", ["LinearReparameterization", "LinearFlipout"])
def test_an_instance_with_a_kl_of_its_own_keeps_it(name):
    layer, x = made(name)
    layer.kl_div = lambda *given: torch.tensor(42.0)
    with integrations.patch("bayesian_torch") as report:
        assert layer(x)[1] == 84.0  # of the weight and of the bias
        assert layer.kl_loss() == 84.0
    assert report.calls == {"fallback: an instance with a KL of its own": 2}


@pytest.mark.parametrize("name", ["LinearReparameterization", "LinearFlipout"])
def test_a_prior_that_is_a_plain_number_goes_to_the_original(name):
    layer, x = made(name)
    del layer.prior_weight_mu  # a buffer takes no number
    layer.prior_weight_mu = 0.3
    old, new, report = both(lambda: (*layer(x), layer.kl_loss()))
    assert all(torch.equal(*pair) for pair in zip(new, old, strict=True))
    assert report.calls == {"fallback: a prior or a scale of another shape than the mean": 2}


def test_compiles_to_one_graph():
    layer, x = made("Conv2dReparameterization")
    with integrations.patch("bayesian_torch") as report:
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        first, second = compiled(x), compiled(x)
        assert not torch.equal(first[0], second[0])
        (first[0].sum() + first[1]).backward()
        assert report.calls == {"compiled: fused": 1}
