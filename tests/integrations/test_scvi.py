"""scvi-tools: the likelihood of counts, patched, against what it was.

It draws from ``torch.distributions``, whose integration serves that.
"""

import pytest
import torch

from fused_reparam import integrations

pytest.importorskip("scvi", reason="scvi-tools is not installed", exc_type=ImportError)
import numpy as np
from scvi.distributions import NegativeBinomial, NegativeBinomialMixture
from scvi.distributions import ZeroInflatedNegativeBinomial as ZeroInflated
from scvi.distributions import _negative_binomial as stock
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


def leaves(dtype=torch.float32, cells=(9, 7), theta=(9, 7)):
    """Counts of which many are 0, means, dispersions and logits, the same in each dtype."""
    generator = torch.Generator().manual_seed(3)
    means = torch.logspace(-3, 2.5, cells[-1])
    x = torch.poisson(torch.rand(cells, generator=generator) * means, generator=generator)
    mu = (torch.rand(cells, generator=generator) + 0.05) * means
    theta = 4 * torch.rand(theta, generator=generator) + 0.1
    pi = torch.randn(cells, generator=generator)
    return [x.to(dtype), *(t.to(dtype).requires_grad_() for t in (mu, theta, pi))]


def negative_binomial(x, mu, theta, pi):
    return NegativeBinomial(mu=mu, theta=theta).log_prob(x) + 0 * pi


def zero_inflated(x, mu, theta, pi):
    return ZeroInflated(mu=mu, theta=theta, zi_logits=pi).log_prob(x)


def mixture(x, mu, theta, pi):
    return stock.log_mixture_nb(x, mu, 2 * mu + 1, theta, theta + 1, pi)


LIKELIHOODS = {
    "log_nb_positive": (negative_binomial, 1),
    "log_zinb_positive": (zero_inflated, 1),
    "a mixture": (mixture, 2),
}


def with_gradients(call, given):
    found = call(*given)
    incoming = torch.linspace(-1.0, 2.0, found.numel()).view(found.shape).to(found.dtype)
    return found, *torch.autograd.grad(found, given[1:], incoming)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("theta", [(9, 7), (7,)])
def test_a_likelihood_and_its_gradients(name, theta):
    """In float32 within 1e-6 of what scvi-tools makes in float64, and so in float64."""
    call, times = LIKELIHOODS[name]
    exact = with_gradients(call, leaves(torch.float64, theta=theta))
    for dtype in (torch.float32, torch.float64):
        with integrations.patch("scvi") as report:
            found = with_gradients(call, leaves(dtype, theta=theta))
        assert report.calls == {"fused": times}
        for ours, theirs in zip(found, exact, strict=True):
            assert ours.dtype == dtype
            # A sum over cells is judged by its largest.
            most = theirs.abs().amax().item() if ours.dim() == 1 else 1.0
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6 * most)


@pytest.mark.parametrize("name", ["log_nb_positive", "log_zinb_positive"])
def test_means_that_underflow_and_counts_that_are_no_integers(name):
    """A mean of 0 has the likelihood that the original's 1e-8 makes of it."""
    x = torch.tensor([[0.0, 3.0, 0.25, 17.5]])
    mu = torch.tensor([[0.0, 0.0, 1e-9, 2.0]])
    more = [torch.full((1, 4), 0.7)] if name == "log_zinb_positive" else []
    exact = getattr(stock, name)(*(t.double() for t in (x, mu, torch.full((1, 4), 2.0), *more)))
    with integrations.patch("scvi") as report:
        found = getattr(stock, name)(x, mu, torch.full((1, 4), 2.0), *more)
    assert report[name].calls == {"fused": 1}
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


def test_what_goes_to_the_original():
    x, mu, theta, pi = (t.detach() for t in leaves(theta=(7,)))
    reasons = {
        "torch.float16": lambda: stock.log_nb_positive(x.half(), mu.half(), theta.half()),
        "tensors of several dtypes or devices": lambda: stock.log_nb_positive(
            x.double(), mu, theta
        ),
        "another eps than 1e-8": lambda: stock.log_zinb_positive(x, mu, theta, pi, eps=1e-3),
        "a logarithm or gamma function of the caller's": lambda: stock.log_nb_positive(
            x, mu, theta, lgamma_fn=stock.torch_lgamma_mps
        ),
        "one cell, to which the original adds a dim": lambda: stock.log_zinb_positive(
            x[0], mu[0], theta, pi[0]
        ),
        "torch.int64": lambda: stock.log_zinb_positive(x.long(), mu, theta, pi),
    }
    for reason, call in reasons.items():
        old = call()
        with integrations.patch("scvi") as report:
            new = call()
        assert torch.equal(new, old)
        assert report.calls == {f"fallback: {reason}": 1}


def test_a_mixture_of_one_dispersion_is_left_alone():
    x, mu, theta, pi = leaves()
    law = NegativeBinomialMixture(mu1=mu, mu2=2 * mu, theta1=theta, mixture_logits=pi)
    old = law.log_prob(x)
    with integrations.patch("scvi") as report:
        assert torch.equal(law.log_prob(x), old)
    assert report.calls == {}


def test_every_likelihood_is_replaced_and_put_back():
    before = stock.log_nb_positive, stock.log_zinb_positive
    with integrations.patch("scvi") as report:
        assert [row.status for row in report.rows] == ["replaced", "replaced"]
    assert (stock.log_nb_positive, stock.log_zinb_positive) == before


@pytest.mark.parametrize("likelihood", ["zinb", "nb"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
def test_a_step_with_the_likelihood(likelihood, dispersion):
    torch.manual_seed(0)
    model = VAE(n_input=20, n_batch=1, gene_likelihood=likelihood, dispersion=dispersion).eval()
    tensors = {"X": torch.poisson(2 * torch.rand(8, 20))}
    tensors |= {name: torch.zeros(8, 1, dtype=torch.long) for name in ("batch", "labels")}

    def step():
        torch.manual_seed(1)
        found = model(tensors)[2]
        grads = torch.autograd.grad(found.loss, [*model.parameters()], allow_unused=True)
        reconstruction = found.reconstruction_loss["reconstruction_loss"]
        return [reconstruction, found.loss, *(g for g in grads if g is not None)]

    old = step()
    with integrations.patch("scvi") as report:
        new = step()
    assert report.calls == {"fused": 1}
    torch.testing.assert_close(new[:2], old[:2], rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(new, old, rtol=5e-5, atol=1e-5)
