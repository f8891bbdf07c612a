"""What ``torch.profiler`` shows of a call, forward and backward, whatever computes it."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import fused_reparam as fr

CALLS = {
    "latent": (lambda x: fr.gaussian_latent(x, x)[0], "elementwise"),
    "moments": (lambda x: fr.gaussian_latent_from_moments(x)[0], "elementwise"),
    "laplace": (lambda x: fr.loc_scale_rsample(x, x.exp(), base="laplace"), "elementwise"),
    "kl": (fr.gaussian_kl, "elementwise"),
    "categories": (fr.gumbel_softmax, "gumbel_softmax"),
}
NODES = {"elementwise": "FusedElementwiseBackward", "gumbel_softmax": "FusedGumbelSoftmaxBackward"}


@pytest.mark.parametrize("name", CALLS)
def test_the_forward_has_its_ops_name_and_the_backward_its_nodes(device, name):
    assert_recorded(device, name)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_does_not_pass_the_dispatcher(name):
    """That of a device's tensors; on meta nothing is computed."""
    assert_recorded("meta", name)


def assert_recorded(device, name):
    call, op = CALLS[name]
    x = torch.zeros(4, 6, device=device, requires_grad=True)
    arguments = (x, x) if name == "kl" else (x,)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        y = call(*arguments)
        y.sum().backward()
    counts = {e.key: e.count for e in found.key_averages()}
    assert counts[f"fused_reparam::{op}"] == 1
    assert counts[NODES[op]] == 1
