"""Keys that are none, at every op and public function that takes one: an error that says why."""

from __future__ import annotations

import pytest
import torch

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers import op_calls
from tests.helpers.loops import where

OPS = torch.ops.fused_reparam
X = torch.full((3, 4), 0.5)


def leaf(t):
    return t.clone().requires_grad_()


def forward(key, x=X, **spec):
    constants = [-9.0, 9.0, 0.0, 1.0]
    args = op_calls.elementwise(
        "log_prob", [x, X], key, constants=constants, reduction="sum", **spec
    )
    return OPS.elementwise(*args)


def backward(key, x=X, grad=X):
    args = op_calls.elementwise("laplace", [x, X], key, reduction="sum")
    return OPS.elementwise_backward(grad, torch.ones(()), None, *args, op_calls.needs(0, 1))


def softmax(key, x=X):
    return OPS.gumbel_softmax(x, key, None, None, *op_calls.softmax(reduction="none"))


CALLS = {
    "forward": forward,
    "with a gradient": lambda k: forward(k, leaf(X)),
    "in another order": lambda k: forward(k, X.t().contiguous().t(), order=None),
    "of samples": lambda k: forward(k, samples=3),
    "of moments": lambda k: OPS.elementwise(
        *op_calls.elementwise("gaussian", [X, None], k, split=1)
    ),
    "backward": backward,
    "double backward": lambda k: backward(k, leaf(X), leaf(X)),
    "categories": softmax,
    "categories with a gradient": lambda k: softmax(k, leaf(X)),
    "normal": lambda k: OPS.normal(k, [3, 4], [], torch.float32),
    "base noise": lambda k: OPS.base_noise(k, [3, 4], [], torch.float32, "gumbel", 0.0),
}
FUNCTIONS = {
    "gaussian_latent": lambda k: fr.gaussian_latent(X, X, key=k),
    "gaussian_latent, general": lambda k: fr.gaussian_latent(X, X[0], key=k, reduction="sample"),
    "gaussian_latent, num_samples": lambda k: fr.gaussian_latent(X, X, key=k, num_samples=2),
    "gaussian_latent, prior": lambda k: fr.gaussian_latent(X, X, key=k, prior=(0.0, 2.0)),
    "gaussian_rsample": lambda k: fr.gaussian_rsample(leaf(X), std=1.0, key=k),
    "gaussian_latent_from_moments": lambda k: fr.gaussian_latent_from_moments(X, key=k),
    "gaussian_rsample_log_prob": lambda k: fr.gaussian_rsample_log_prob(X, X, key=k),
    "log_normal_rsample": lambda k: fr.log_normal_rsample(X, std=X, key=k),
    "tanh_normal_rsample": lambda k: fr.tanh_normal_rsample(X, std=X, key=k),
    "loc_scale_rsample": lambda k: fr.loc_scale_rsample(X, X, "laplace", key=k),
    "kumaraswamy_rsample": lambda k: fr.kumaraswamy_rsample(X, X, key=k),
    "relaxed_bernoulli": lambda k: fr.relaxed_bernoulli(X, key=k),
    "gumbel_softmax": lambda k: fr.gumbel_softmax(X, key=k),
    "categorical_latent": lambda k: fr.categorical_latent(leaf(X), key=k),
    "one_hot_categorical": lambda k: fr.one_hot_categorical(X.t(), key=k),
    "sample_weight": lambda k: fr.sample_weight(X, X, key=k),
    "noise.normal": lambda k: noise.normal(k, (3, 4)),
    "noise.normal, offset": lambda k: noise.normal(k, (3, 4), index_offset=5),
}


def emptied(k):
    k.untyped_storage().resize_(8)
    return k


def key():
    return noise.key(3, 5)


WRONG = {
    "one word": (lambda: key()[:1], ValueError, r"shape \(2,\).* got shape \(1,\)"),
    "no word": (lambda: key()[:0], ValueError, r"shape \(2,\).* got shape \(0,\)"),
    "three words": (lambda: torch.cat([key(), key()])[:3], ValueError, r"got shape \(3,\)"),
    "0-d": (lambda: key()[0], ValueError, r"got shape \(\)"),
    "a row": (lambda: key()[None], ValueError, r"got shape \(1, 2\)"),
    "float": (lambda: torch.zeros(2), TypeError, "dtype torch.uint64, got torch.float32"),
    "double": (lambda: torch.zeros(2).double(), TypeError, "got torch.float64"),
    "with a gradient": (lambda: torch.zeros(2, requires_grad=True), TypeError, "torch.float32"),
    "int32": (lambda: torch.zeros(2, dtype=torch.int32), TypeError, "got torch.int32"),
    "bool": (lambda: torch.zeros(2, dtype=torch.bool), TypeError, "got torch.bool"),
    "complex": (lambda: torch.zeros(2, dtype=torch.complex64), TypeError, "got torch.complex64"),
    "sparse": (lambda: key().view(torch.int64).to_sparse(), TypeError, "strided|uint64"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(1)]),
        TypeError,
        "strided|uint64",
    ),
    "without memory": (
        lambda: emptied(key()),
        ValueError,
        r"storage of (torch\.ops\..*'s )?key has 8 bytes",
    ),
    "on meta": (lambda: key().to("meta"), ValueError, "meta"),
}


# Which have no operand beside which a key could lie on another device.
ALONE = ("normal", "base noise", "noise.normal", "noise.normal, offset")


@pytest.mark.parametrize("call", CALLS)
def test_the_ops_say_what_is_wrong(way, call):
    for wrong, (make, kind, message) in WRONG.items():
        if wrong == "nested":
            kind, message = (TypeError, NotImplementedError), "strided|uint64|NestedTensor"
        if wrong != "on meta" or call not in ALONE:
            with where(wrong), pytest.raises(kind, match=message):
                CALLS[call](make())


@pytest.mark.parametrize("call", FUNCTIONS)
def test_the_functions_say_what_is_wrong(call):
    """They check a key before a backend has a say."""
    for wrong, (make, kind, message) in WRONG.items():
        if wrong != "on meta" or call not in ALONE:
            with where(wrong), pytest.raises(kind, match=message):
                FUNCTIONS[call](make())
    for wrong in (3, (1, 2), [1, 2], "key", True, 1.5):
        with where(wrong), pytest.raises(TypeError, match="must be a uint64 tensor of shape"):
            FUNCTIONS[call](wrong)


@pytest.mark.parametrize("call", [*CALLS, *FUNCTIONS])
def test_a_key_that_lies_elsewhere_gives_the_same(way, call):
    """Strided, between other words, expanded; for an op as int64 too."""
    run = CALLS.get(call) or FUNCTIONS[call]
    words = torch.arange(8).view(torch.uint64)
    pairs = [(words[1:6:4].clone(), words[1:6:4])]
    nine = torch.tensor([9]).view(torch.uint64)
    pairs += [(nine.repeat(2), nine.expand(2))]
    if call in CALLS:
        pairs += [(a, b.view(torch.int64)) for a, b in pairs]
    for plain, other in pairs:
        for a, b in zip(listed(run(plain)), listed(run(other)), strict=True):
            assert torch.equal(a, b)


def listed(found):
    return [found] if isinstance(found, torch.Tensor) else [t for t in found if t is not None]
