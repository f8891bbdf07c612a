"""What a small call costs on a device other than the CPU, besides its launch.

A clock would judge the machine. What is counted instead are calls of the package's own Python
functions, with the launch replaced: a check made twice, or a layout found anew in each call, shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import fused_reparam
from fused_reparam import (
    gaussian_latent,
    gaussian_latent_from_moments,
    gaussian_rsample_log_prob,
    gumbel_softmax,
    loc_scale_rsample,
    sample_weight,
)
from fused_reparam.functional import sources
from fused_reparam.ops.differentiable import DifferentiableOp
from fused_reparam.ops.library import facts_of
from fused_reparam.rng import keys
from tests.helpers.triton_truth import needs_backend

PACKAGE = str(Path(fused_reparam.__file__).parent)


def prior(mu, scale):
    return mu[0].detach(), {"logvar": scale[0].detach()}


# By name: a call, and the most functions that it and its backward pass may call.
CALLS = {
    "latent": (lambda mu, s: gaussian_latent(mu, s), 54, 39),
    "moments": (lambda mu, s: gaussian_latent_from_moments(torch.cat((mu, s), 1), dim=1), 59, 38),
    "one row": (lambda mu, s: gaussian_latent(mu, log_std=s[0]), 61, 36),
    "a number": (lambda mu, s: gaussian_latent(mu, std=0.5), 60, 38),
    "each KL": (lambda mu, s: gaussian_latent(mu, s, reduction="none"), 54, 41),
    "prior": (lambda mu, s: gaussian_latent(mu, s, prior=prior(mu, s)), 118, 43),
    "log_prob": (lambda mu, s: gaussian_rsample_log_prob(mu, s), 51, 43),
    "laplace": (lambda mu, s: (loc_scale_rsample(mu, s.exp(), "laplace"),), 46, 38),
    "categories": (lambda mu, s: (gumbel_softmax(mu),), 51, 25),
    "weights": (lambda mu, s: sample_weight(mu, s), 64, 39),
}


@pytest.fixture
def elsewhere(monkeypatch):
    """A call of CPU tensors goes the way of those of a device, where nothing is launched."""
    from fused_reparam.backends.triton import launch

    monkeypatch.setattr(launch.Variant, "launch", lambda *_: None)
    monkeypatch.setattr(sources, "_drawn_key", lambda like, generator: keys.Fresh(generator))
    monkeypatch.setattr(
        DifferentiableOp, "__call__", lambda op, *call: op._directly(*call, facts_of(call[0]))
    )
    with fused_reparam.backend("triton"):
        yield


def functions_called(run) -> int:
    count = 0

    def note(frame, event, _):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


@needs_backend
@pytest.mark.parametrize("name", CALLS)
def test_few_functions_are_called(elsewhere, name):
    call, most_forward, most_backward = CALLS[name]
    mu, scale = (torch.linspace(-1, 1, 60).view(3, 20).requires_grad_() for _ in range(2))
    for _ in range(2):  # the first finds what the second looks up
        outputs = []
        forward = functions_called(lambda: outputs.extend(call(mu, scale)))
        loss = sum(o.sum() for o in outputs)
        backward = functions_called(loss.backward)
    assert forward <= most_forward
    assert backward <= most_backward
