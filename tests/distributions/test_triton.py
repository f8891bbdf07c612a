"""Distributions whose samples Triton computes are those of the reference, with their gradients."""

import contextlib

import pytest
import torch

import fused_reparam
from fused_reparam import distributions as D
from fused_reparam import noise
from tests.helpers.distribution_cases import CASES, close
from tests.helpers.triton_truth import needs_backend

KEY = noise.key(9)


def everything(name):
    """Results and gradients of one row for the last parameter, and of a batch for the others."""
    case = CASES[name]
    params = case.params(torch.float32)
    last = case.names[-1]
    if "Categorical" not in name:
        params[last] = params[last].detach()[0].requires_grad_()
    d, prior = case.ours(**params), case.made(torch.float32, seed=1)
    found = [*d.rsample_and_log_prob((2,), key=KEY), d.rsample(key=KEY)]
    with contextlib.suppress(NotImplementedError):
        found += [*d.rsample_and_kl(prior, key=KEY), D.kl_divergence(d, prior)]
    loss = sum((t * torch.linspace(0.5, 1.5, t.numel()).view_as(t)).sum() for t in found)
    return *found, *torch.autograd.grad(loss, list(params.values()))


@needs_backend
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.parametrize(
    "name", ["Normal logvar", "Gumbel", "StudentT", "Weibull", "OneHotCategorical", "TanhNormal"]
)
def test_triton_gives_the_references(name):
    found = []
    for backend in ("triton", "reference"):
        with fused_reparam.backend(backend):
            found.append(everything(name))
    for got, want in zip(*found, strict=True):
        close(got, want, 1e-4)
