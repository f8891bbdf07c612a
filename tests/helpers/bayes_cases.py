"""A Bayesian network, and its KL by the formula, for tests of the layers."""

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from fused_reparam import BayesianConv2d, BayesianLinear

PRIOR = {"prior_mean": 0.1, "prior_std": 0.4}
MIXTURE = (0.3, 1.5, 0.05)
X = torch.linspace(-1.0, 1.0, 75).view(3, 1, 5, 5)
Y = torch.tensor([[0.5], [-1.0], [2.0]])


def network(**options):
    return nn.Sequential(
        BayesianConv2d(1, 2, 3, rho_init=-2.0, **options), nn.Tanh(), nn.Flatten(),
        BayesianLinear(18, 1, rho_init=-1.0, **options),
    )  # fmt: skip


def wanted(model, mean=0.1, std=0.4):
    """The KL and its gradients by the formula, in float64."""
    leaves = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}
    prior = Normal(*torch.tensor([mean, std], dtype=torch.float64))
    kl = sum(
        kl_divergence(Normal(mu, F.softplus(leaves[name[:-2] + "rho"])), prior).sum()
        for name, mu in leaves.items()
        if name.endswith("_mu")
    )
    return kl.detach(), torch.autograd.grad(kl, [*leaves.values()])


def check(kl, model):
    """A KL's value and gradient, which must have a graph of its own or one not yet used."""
    right, grads = wanted(model)
    torch.testing.assert_close(kl.detach().double(), right, rtol=2e-6, atol=0.0)
    found = torch.autograd.grad(kl, [*model.parameters()])
    for got, want in zip(found, grads, strict=True):
        error = max(1e-5, 2 * torch.finfo(got.dtype).eps)
        torch.testing.assert_close(got.double(), want, rtol=error, atol=1e-6)


def nll(y):
    return (y - Y).square().mean()


def gradients(model):
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def close(found, want, **options):
    for got, right in zip(found, want, strict=True):
        torch.testing.assert_close(got.double(), right.double(), **options)
