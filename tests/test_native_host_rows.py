"""The host path of relaxed categories: what it keeps, what it declines, and its graph.

That its results are those of Python is in ``test_native_host.py``, with all public functions.
"""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fused_reparam
from fused_reparam import categorical_latent, gumbel_softmax, noise, one_hot_categorical
from fused_reparam.backends import native, native_host

native.info()  # loads it
pytestmark = pytest.mark.skipif(
    native_host.module is None, reason=f"the host path is in Python: {native_host.reason}"
)
KEY = noise.key(2)
CALLS = {
    "soft": lambda logits, **o: (gumbel_softmax(logits, 0.7, **o),),
    "hard": lambda logits, **o: (gumbel_softmax(logits, 0.7, hard=True, **o),),
    "one-hot": lambda logits, **o: (one_hot_categorical(logits, 0.1, **o),),
    "soft, kl": lambda logits, **o: categorical_latent(logits, 0.7, reduction="none", **o),
    "hard, kl": lambda logits, **o: categorical_latent(logits, 2, True, reduction="none", **o),
}
EACH = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def made_by_host(t):
    return native_host.spent(t) is not None


def leaf(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(4)).requires_grad_()


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@EACH
def test_when_it_is_taken(call):
    logits = leaf(3, 5, 4)
    for options in ({}, {"key": KEY}, {"dim": 1}, {"generator": torch.Generator()}):
        outputs = call(logits, **options)
        assert all(map(made_by_host, outputs))
        assert {t.grad_fn.name() for t in outputs} == {"FusedCategoriesBackward"}
    for other in (logits[:, ::2], logits[:0], logits.mT):
        assert not any(map(made_by_host, call(other)))
    assert not call(logits.detach())[0].requires_grad
    with fused_reparam.backend("reference"):
        assert not made_by_host(call(logits)[0])
    with Mode():
        assert not made_by_host(call(logits)[0])


@EACH
def test_each_gradient_alone_and_again(call):
    logits = leaf(3, 5)
    outputs = call(logits, key=KEY)
    grads = [torch.randn_like(t) for t in outputs]
    want = torch.autograd.grad(outputs, logits, grads, retain_graph=True)[0]
    parts = [
        torch.autograd.grad(t, logits, g, retain_graph=True)[0]
        for t, g in zip(outputs, grads, strict=True)
    ]
    torch.testing.assert_close(sum(parts), want, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.autograd.grad(outputs, logits, grads)[0], want)
    assert native_host.spent(outputs[0]) is True
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(outputs, logits, grads)


@pytest.mark.parametrize("name", ["soft", "one-hot"])
def test_what_is_changed_in_place_is_noticed(name):
    """Of y, where the gradient reads it; of the logits, where it reads those."""
    logits = leaf(3, 5)
    (y,) = CALLS[name](logits)
    with torch.no_grad():
        (y if name == "soft" else logits).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    (y,) = CALLS["hard"](logits)
    y.data.mul_(2)  # it reads the soft values
    y.sum().backward()


@EACH
@pytest.mark.parametrize("change", [torch.Tensor.double, lambda t: t.t().contiguous().t()])
def test_hooks_on_saved_tensors(call, change):
    found = []
    for unpack in (lambda t: t, change):
        logits = leaf(4, 4)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            outputs = call(logits, key=KEY)
            loss = sum((t * t).sum() for t in outputs)
            found.append(torch.autograd.grad(loss, logits)[0])
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@EACH
def test_nothing_holds_itself(call):
    """A node keeps outputs of its own: they must not keep the node."""
    gc.disable()  # which would find such a circle where Python takes part in it
    try:
        logits = leaf(3, 5)
        outputs = call(logits)
        gone = weakref.ref(logits)
        del logits
        assert gone() is not None  # the graph holds it
        del outputs
        assert gone() is None
    finally:
        gc.enable()


@torch._dynamo.config.patch(compiled_autograd=True)
def test_compiled_autograd():
    """Its tracer runs through the node, with tensors that are not real."""

    @torch.compile(backend="aot_eager")
    def backward(loss):
        loss.backward()

    for name in ("soft", "hard, kl"):
        logits = leaf(3, 5)
        loss = sum((t * t).sum() for t in CALLS[name](logits, key=KEY))
        (want,) = torch.autograd.grad(loss, logits, retain_graph=True)
        backward(loss)
        torch.testing.assert_close(logits.grad, want)
