"""Hooks on saved tensors that return another tensor: an error, as PyTorch's own ops give one."""

import pytest
import torch

import fused_reparam
from fused_reparam import functional as F
from fused_reparam.ops import elementwise
from fused_reparam.ops.softmax_call import Spec as OfSoftmax
from tests.helpers.loops import where

SHAPE = (8, 128)


def leaf(*shape):
    return torch.rand(shape or SHAPE, requires_grad=True)


def ordered(t):
    """The same numbers in another memory order, which takes the general way."""
    return t.t().contiguous().t().detach().requires_grad_()


def op(name, *args):
    return getattr(torch.ops.fused_reparam, name)(*args)


KEY = fused_reparam.noise.key(3)
FREE = float("inf")
LATENT = elementwise.Spec(None, "gaussian", 0, 0, [-1.0, 1.0, 0.0, 1.0, -FREE], 0, True, "sum")
LAPLACE = elementwise.Spec([], "laplace", 0, 0, [], 0, True, "none")
SOFT = OfSoftmax([], 0, 0.7, 0.0, 1, True, False, "none")
CALLS = {
    "latent": lambda: F.gaussian_latent(leaf(), leaf()),
    "latent of moments": lambda: F.gaussian_latent_from_moments(leaf()),
    "latent in another order": lambda: F.gaussian_latent(ordered(leaf()), ordered(leaf())),
    "latent with eps": lambda: F.gaussian_latent(leaf(), leaf(), eps=leaf()),
    "latent of a row": lambda: F.gaussian_latent(leaf(), std=leaf()[:1]),
    "latent op": lambda: op("elementwise", leaf(), leaf(), None, None, KEY, None, *LATENT),
    "draw": lambda: [F.log_normal_rsample(leaf(), std=leaf())],
    "draw in another order": lambda: [F.log_normal_rsample(ordered(leaf()), std=ordered(leaf()))],
    "draws": lambda: F.gaussian_latent(leaf(), leaf(), num_samples=3),
    "log_prob": lambda: F.gaussian_rsample_log_prob(leaf(), leaf()),
    "draw op": lambda: op("elementwise", leaf(), leaf(), None, None, KEY, None, *LAPLACE),
    "soft categories": lambda: [F.gumbel_softmax(leaf())],
    "hard categories": lambda: [F.gumbel_softmax(leaf(), hard=True)],
    "categories with a KL": lambda: F.categorical_latent(leaf()),
    "categories in another order": lambda: F.categorical_latent(ordered(leaf())),
    "one-hot": lambda: [F.one_hot_categorical(leaf())],
    "categories op": lambda: op("gumbel_softmax", leaf(), KEY, None, None, *SOFT),
}


def run(call, swap, swap_key=None):
    """The backward pass of a call whose saved tensors a hook swaps; a key is another matter."""

    def unpack(t):
        return (swap if t.is_floating_point() else swap_key or (lambda k: k))(t)

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), unpack):
        outputs = [t for t in CALLS[call]() if t is not None and t.requires_grad]
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])


SWAPS = {
    "short": lambda t: t.reshape(-1)[:4].clone(),
    "one element": lambda t: t.reshape(-1)[:1].clone(),
    "empty": lambda t: t.new_empty(0),
    "flat": lambda t: t.reshape(-1),
    "wider": lambda t: torch.cat([t, t]),
    "other size": lambda t: t[:, :-2].contiguous(),
    "on meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "without storage": lambda t: (t.untyped_storage().resize_(0) and None) or t,
}


@pytest.mark.parametrize("call", CALLS)
def test_another_tensor_is_refused(way, call):
    for swap, change in SWAPS.items():
        with where(swap):
            with pytest.raises(RuntimeError, match="hook on saved tensors returned") as error:
                run(call, change)
            if swap in ("short", "flat", "wider"):
                assert "had been saved" in str(error.value)
                assert str(tuple(SHAPE))[1:-1] in str(error.value)  # what was expected


# Categories save no key, since their backward pass needs no noise.
KEYED = [n for n in CALLS if n.startswith(("latent", "draw", "log_")) and n != "latent with eps"]
KEY_SWAPS = {
    "one element": lambda k: k[:1].clone(),
    "empty": lambda k: k[:0].clone(),
    "wide": lambda k: torch.cat([k, k]),
    "float": lambda k: k.view(torch.int64).float(),
    "int32": lambda k: k.view(torch.int32)[:2],
    "on meta": lambda k: k.to("meta"),
    "without storage": lambda k: (k.untyped_storage().resize_(0) and None) or k,
}


@pytest.mark.parametrize("call", KEYED)
def test_another_key_is_refused(way, call):
    for swap, change in KEY_SWAPS.items():
        with where(swap), pytest.raises(RuntimeError, match="hook on saved tensors returned"):
            run(call, lambda t: t, change)


@pytest.mark.parametrize("dtype", [torch.uint64, torch.int64])
def test_the_error_names_the_dtype_of_the_key_that_was_saved(way, dtype):
    def unpack(t):
        return t if t.is_floating_point() else t[:1]

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        key = KEY.view(dtype)  # the op takes both
        z, _, _ = op("elementwise", leaf(), leaf(), None, None, key, None, *LAPLACE)
        with pytest.raises(RuntimeError, match=f"{dtype} on cpu had been saved"):
            z.sum().backward()


@pytest.mark.parametrize("call", CALLS)
def test_another_dtype_other_strides_and_an_int64_key_are_allowed(way, call):
    for dtype in (torch.bfloat16, torch.float64):
        with where(dtype):
            run(call, lambda t, dtype=dtype: t.to(dtype))

    def swap(t):
        return t.t().contiguous().t() if t.dim() == 2 else t

    run(call, swap, lambda k: k.view(torch.int64) if k.dtype == torch.uint64 else k)


def run_compiled(call, swap, swap_key=None):
    """``run`` with a backward pass that compiled autograd records with stand-ins."""

    def unpack(t):
        return (swap if t.is_floating_point() else swap_key or (lambda k: k))(t)

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), unpack):
        outputs = CALLS[call]()
    loss = sum(t.sum() for t in outputs if t is not None and t.requires_grad)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda: loss.backward(), backend="eager")()


# One of each kind of node.
NODES = ["latent", "draw", "soft categories", "latent with eps", "draw in another order"]


@pytest.mark.parametrize("swap", ["flat", "without storage"])
@pytest.mark.parametrize("call", NODES)
def test_another_tensor_is_refused_in_a_compiled_backward(call, swap):
    with pytest.raises(RuntimeError, match="hook on saved tensors returned"):
        run_compiled(call, SWAPS[swap])


@pytest.mark.parametrize("call", ["latent", "draw"])
def test_another_key_is_refused_in_a_compiled_backward(call):
    with pytest.raises(RuntimeError, match="hook on saved tensors returned"):
        run_compiled(call, lambda t: t, KEY_SWAPS["one element"])


@pytest.mark.parametrize("call", ["latent", "soft categories"])
def test_another_dtype_alone_is_allowed_in_a_compiled_backward(call):
    run_compiled(call, lambda t: t.bfloat16())
