"""pythae's models, patched, against what they were."""

import pytest
import torch

from fused_reparam import integrations

pytest.importorskip("pythae", reason="pythae is not installed", exc_type=ImportError)
from pythae import models

from fused_reparam.integrations.pythae import SAMPLING

NEAR = {"rtol": 2e-6, "atol": 2e-6}
STANDARD = ["VAE", "BetaVAE", "DisentangledBetaVAE", "MSSSIM_VAE"]


def both(call):
    """What a call gives unpatched and patched, of the same noise, and the report."""
    torch.manual_seed(1)
    old = call()
    torch.manual_seed(1)
    with integrations.patch("pythae", rng="torch") as report:
        new = call()
    return old, new, report


def made(name, size=(1, 8, 8), **options):
    torch.manual_seed(0)
    config = getattr(models, f"{name}Config")(input_dim=size, latent_dim=3, **options)
    return getattr(models, name)(config)


def test_every_class_that_samples_is_served():
    every = {c for c in vars(models).values() if isinstance(c, type) and "_sample_gauss" in vars(c)}
    with integrations.patch("pythae") as report:
        assert {c.__name__ for c in every} == {name for _, name in SAMPLING}
        assert {row.status for row in report.rows} == {"replaced"}


@pytest.mark.parametrize("name", [name for _, name in SAMPLING])
def test_sample_gauss(name):
    mu, std = torch.randn(2, 5, 3, requires_grad=True).abs()
    model = getattr(models, name)

    def sample():
        z, eps = model._sample_gauss(None, mu, std)
        return z, eps, *torch.autograd.grad(z.square().sum(), (mu, std))

    old, new, report = both(sample)
    assert report[f"{name}._sample_gauss"].calls == {"fused": 1}
    assert all(torch.equal(*pair) for pair in zip(new[:2], old[:2], strict=True))
    for ours, theirs in zip(new, old, strict=True):
        torch.testing.assert_close(ours, theirs, **NEAR)


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_a_step(name, loss):
    size = (1, 28, 28) if name == "MSSSIM_VAE" else (1, 8, 8)
    model = made(name, size, reconstruction_loss=loss)
    x = torch.rand(6, *size)

    def step():
        out = model({"data": x}, epoch=3)
        grads = torch.autograd.grad(out.loss, list(model.parameters()))
        return [*(out[k] for k in ("loss", "recon_loss", "reg_loss", "z", "recon_x")), *grads]

    old, new, report = both(step)
    assert report.calls == {"fused": 1}
    for ours, theirs in zip(new, old, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(new[2], old[2], rtol=1e-6, atol=1e-6)  # the KL


def test_a_model_with_a_loss_of_its_own_keeps_it():
    class VAE(models.VAE):
        def loss_function(self, *given):
            return given[-1].sum(), given[-1].mean(), given[-1].mean()

    torch.manual_seed(0)
    model = VAE(models.VAEConfig(input_dim=(1, 8, 8), latent_dim=3))
    with integrations.patch("pythae") as report:
        out = model({"data": torch.rand(4, 1, 8, 8)})
    assert torch.equal(out.loss, out.z.sum())
    assert report.calls == {
        "fused": 1,  # the sample
        "fallback: a subclass with a sample or a loss of its own": 1,
    }


@pytest.mark.parametrize("part", ["loss_function", "_sample_gauss"])
def test_an_instance_with_a_part_of_its_own_keeps_it(part):
    model = made("VAE")
    own = {
        "loss_function": lambda *given: (given[-1].sum(), given[-1].mean(), given[-1].mean()),
        "_sample_gauss": lambda mu, std: (torch.full_like(mu, 7.0), mu),
    }
    setattr(model, part, own[part])
    with integrations.patch("pythae") as report:
        out = model({"data": torch.rand(4, 1, 8, 8)})
    if part == "loss_function":
        assert torch.equal(out.loss, out.z.sum())
    else:
        assert torch.equal(out.z, torch.full((4, 3), 7.0))
    assert report["VAE.forward"].calls == {
        "fallback: an instance with a sample or a loss of its own": 1
    }


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("other", ["shape", "dtype"])
def test_an_encoder_whose_outputs_the_op_does_not_take(name, other):
    size = (1, 28, 28) if name == "MSSSIM_VAE" else (1, 8, 8)
    model = made(name, size)
    inner, runs = model.encoder, []

    class Encoder(torch.nn.Module):
        def forward(self, x):
            runs.append(1)
            out = inner(x)
            logvar = out.log_covariance
            out["log_covariance"] = logvar[:, :1] if other == "shape" else logvar.double()
            return out

    if other == "dtype":
        decode = model.decoder.forward
        model.decoder.forward = lambda z: decode(z.float())
    model.encoder = Encoder()
    x = torch.rand(4, *size)
    old, new, _ = both(lambda: model({"data": x}, epoch=3))
    assert len(runs) == 2  # once as it was, and once patched
    for key in ("loss", "recon_loss", "reg_loss", "z", "recon_x"):
        assert torch.equal(new[key], old[key])
