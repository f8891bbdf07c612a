"""What ``torch.profiler`` shows of a call, forward and backward, by the native host path."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import fused_reparam as fr
from fused_reparam.backends import native, native_host

native.info()  # loads it
CALLS = {
    "gaussian_latent": (lambda x: fr.gaussian_latent(x, x)[0], "FusedGaussianLatentBackward"),
    "draw": (lambda x: fr.loc_scale_rsample(x, x.exp(), base="laplace"), "FusedDrawBackward"),
    "relaxed_categories": (fr.gumbel_softmax, "FusedCategoriesBackward"),
}


@pytest.mark.skipif(native_host.module is None, reason="needs the native host path")
@pytest.mark.parametrize("name", CALLS)
def test_the_forward_has_its_ops_name_and_the_backward_its_nodes(name):
    call, node = CALLS[name]
    x = torch.zeros(4, 3, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        y = call(x)
        y.sum().backward()
    assert y.grad_fn.name() == node
    counts = {e.key: e.count for e in found.key_averages()}
    assert counts[f"fused_reparam::{name}"] == 1
    assert counts[node] == 1
