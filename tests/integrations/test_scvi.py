"""scvi-tools draws from ``torch.distributions``, whose integration serves it."""

import pytest
import torch

from fused_reparam import integrations

pytest.importorskip("scvi", reason="scvi-tools is not installed", exc_type=ImportError)
import numpy as np
from scvi.module import VAE
from scvi.nn import Encoder


def both(call):
    """What a call gives unpatched and patched, of the same noise, and the report."""
    torch.manual_seed(1)
    old = call()
    torch.manual_seed(1)
    with integrations.patch("torch_distributions", rng="torch") as report:
        new = call()
    return old, new, report


@pytest.mark.parametrize("distribution", ["normal", "ln"])
def test_an_encoder(distribution):
    torch.manual_seed(0)
    encoder = Encoder(7, 3, distribution=distribution, return_dist=True).eval()
    x = torch.randn(6, 7)

    def step():
        q, z = encoder(x)
        grads = torch.autograd.grad(z.square().sum(), [*encoder.parameters()])
        return [q.loc, q.scale, z, *grads]

    old, new, report = both(step)
    assert report["Normal.rsample"].calls == {"fused": 1}
    torch.testing.assert_close(new[2], old[2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(new, old, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("library", [{}, {"use_observed_lib_size": False}])
def test_a_step(library):
    torch.manual_seed(0)
    if library:  # a second latent, of one element
        library |= {f"library_log_{name}": np.ones((1, 1)) for name in ("means", "vars")}
    model = VAE(n_input=20, n_batch=1, **library)
    tensors = {"X": torch.poisson(2 * torch.rand(8, 20))}
    tensors |= {name: torch.zeros(8, 1, dtype=torch.long) for name in ("batch", "labels")}

    def step():
        inferred, _, found = model.eval()(tensors)
        grads = torch.autograd.grad(found.loss, [*model.parameters()], allow_unused=True)
        kl = found.kl_local["kl_divergence_z"]
        return [kl, inferred["z"], found.loss, *(g for g in grads if g is not None)]

    old, new, report = both(step)
    assert report["Normal.rsample"].calls["fused"] == 1 + bool(library)
    assert report["_kl_normal_normal"].calls["fused"] == 1 + bool(library)
    torch.testing.assert_close(new[0], old[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(new, old, rtol=5e-5, atol=1e-5)
