"""Calls with tensors whose storage was shrunk.

``python -m tests.helpers.shrunk_storage`` makes and prints them.
Each line is the name of a call, then what came of it. A process of its own, for a read outside of a
storage may end it; ``tests/ops/test_shrunk_storage.py`` reads the lines.
"""

import torch

import fused_reparam as fr
from fused_reparam import noise
from tests.helpers import op_calls
from tests.helpers.interpreter import patch_once_a_launch
from tests.helpers.public_cases import CASES, given_noise, given_noise_params, leaves

PARTS = {"empty": 0.0, "half": 0.5}


def shrunk(t, part=0.0):
    """The tensor with only a part of its memory, as a sharded model leaves its parameters."""
    storage = t.untyped_storage()
    storage.resize_(int(part * storage.nbytes()))
    return t


def transposed(t):
    """The same numbers in another memory order."""
    return t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()


def attempt(name, call):
    print(name, end=" -> ", flush=True)
    try:
        call()
        print("nothing", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


def of_parameters():
    layouts = {"contiguous": lambda t: t, "transposed": transposed}
    for name, case in CASES.items():
        for at, parameter in enumerate(case.names):
            if "_of_" in parameter:  # of which the table itself makes another
                continue
            for part, share in PARTS.items():
                for layout, laid in layouts.items():
                    params = [laid(p) for p in case.params()]
                    shrunk(params[at], share)
                    attempt(f"{name}: {parameter} {part} {layout}", lambda: case(*params))


def of_noise():
    for name, case in CASES.items():
        if case.noisy:
            key = shrunk(noise.key(1))
            attempt(f"{name}: key", lambda: case(*case.params(), key=key))
    for at in (2, 3):
        given = given_noise_params()
        shrunk(given[at], 0.5)
        attempt(f"eps {at}", lambda: given_noise(*given))
    x = torch.zeros(3, 4)
    attempt("beta", lambda: fr.gaussian_kl(x, x, beta=shrunk(torch.ones(()))))
    for dtype in (torch.float32, torch.float64):
        attempt(f"noise.normal {dtype}", lambda: noise.normal(shrunk(noise.key(1)), 5, dtype=dtype))
    attempt(
        "noise.normal of a shard", lambda: noise.normal(shrunk(noise.key(1)), 5, index_offset=3)
    )
    attempt("noise.normal on a device", lambda: noise.normal(shrunk(noise.key(1)), 5, device="cpu"))


def of_ops():
    """Calls of the ops by hand, as a compiled model makes them; a tuple is a tensor's shape."""
    key, shape = noise.key(1), (4, 6)
    dense = op_calls.elementwise("gaussian", [shape, shape], key, reduction="sum")
    apart = op_calls.elementwise(
        "log_prob", [shape, (6,)], None, (3, *shape), samples=3, reduction="sample", order=[1, 0]
    )
    halves = op_calls.elementwise("gaussian", [(4, 12), None], key, split=1)
    rows = op_calls.softmax(mode=1, want_soft=True, reduction="none")
    needs = op_calls.needs
    calls = (
        ("elementwise", dense),
        ("elementwise", apart),
        ("elementwise", halves),
        ("elementwise_backward", [shape, (), None, *dense, needs(0, 1)]),
        ("elementwise_backward", [(3, *shape), (3, 4), (3, 4), *apart, needs(0, 1, 4)]),
        ("elementwise_backward", [shape, None, None, *halves, needs(0)]),
        ("gumbel_softmax", [shape, key, None, None, *rows]),
        ("gumbel_softmax", [shape, None, shape, (), *rows]),
        ("gumbel_softmax", [shape, key, None, (4, 1), *rows]),
        ("gumbel_softmax_backward", [shape, shape, (4,), shape, shape, None, *rows, [True, False]]),
        ("normal", [key, [3, 4], [], torch.float32]),
        ("base_noise", [key, [3, 4], [], torch.float32, "gumbel", 0.0]),
    )
    for name, args in calls:
        op = getattr(torch.ops.fused_reparam, name)
        for at, arg in enumerate(args):
            if isinstance(arg, (tuple, torch.Tensor)):
                given = [torch.ones(a) if isinstance(a, tuple) else a for a in args]
                op(*given)  # with its memory it is right
                given[at] = shrunk(given[at].clone())
                attempt(f"op {name}: argument {at}", lambda: op(*given))


def ours(t):
    """Whether a gradient comes to this package's code at once."""
    return "Fused" in t.grad_fn.name()


def of_gradients():
    for name, case in CASES.items():
        for broadcast in (False, True):
            params = case.params()
            if broadcast and len(params) == 2:
                params[1] = leaves(case.names, params[1].shape[1:])[1]
            outputs = [t for t in case(*params) if t.requires_grad and ours(t)]
            for at, output in enumerate(outputs):
                for create_graph in (False, True):
                    kwargs = {
                        "retain_graph": True,
                        "create_graph": create_graph,
                        "allow_unused": True,
                    }
                    grad = shrunk(torch.ones_like(output))
                    attempt(
                        f"{name}: gradient {at} {broadcast} {create_graph}",
                        lambda: torch.autograd.grad(output, params, grad, **kwargs),
                    )


if __name__ == "__main__":
    patch_once_a_launch()
    of_parameters()
    of_noise()
    of_ops()
    of_gradients()
