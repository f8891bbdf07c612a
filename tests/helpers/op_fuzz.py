"""Mutated calls of the package's ops.

``python -m tests.helpers.op_fuzz SEED FIRST LAST`` makes them.
Call ``i`` of FIRST .. LAST - 1 depends on the seed and on ``i`` alone. It is written before it is
made, so that what killed the process is known; ``tests/ops/test_fuzz.py`` reads it.
"""

from __future__ import annotations

import os
import random
import sys
import warnings

import torch

from fused_reparam import noise
from fused_reparam.backends import cpu
from fused_reparam.core import reductions
from fused_reparam.families import FAMILIES

ALLOWED = (TypeError, ValueError, RuntimeError, NotImplementedError)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ODD_DTYPES = (torch.int64, torch.bool, torch.complex64, torch.uint64, torch.float8_e4m3fn)
INTEGERS = (
    -(2**63), -(2**31) - 1, -7, -1, 0, 1, 2, 3, 5, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**58, 2**59,
    2**61, 2**62, 2**63 - 1,
)  # fmt: skip
NUMBERS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    1e-300,
    1e38,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
)
STRINGS = (
    "",
    "sum",
    "none",
    "mean",
    "batchmean",
    "sample",
    "last",
    "gaussian",
    "x" * 300,
    "\0",
    "ä",
)


def term_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def tensor(rng, shape, dtype):
    made = torch.empty(shape, dtype=torch.float32)
    made.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    return made.to(dtype)


def key(rng):
    made = noise.key(rng.randrange(2**64), rng.randrange(2**64))
    return made if rng.random() < 0.5 else made.view(torch.int64)


def term_shape(shape, reduction):
    """The shape of a reduced value."""
    return shape[: reductions.kept_dims(len(shape), reduction or "sum")]


def elementwise(rng, backward, name=None):
    name, dtype = name or rng.choice(list(FAMILIES)), rng.choice(DTYPES)
    family, shape = FAMILIES[name], rng.choice(([3, 4], [7], [2, 3, 6], [], [64, 33]))
    params = [tensor(rng, shape, dtype).abs() + 0.5 for _ in range(family.parameters)]
    split = -1
    if len(params) > 1 and shape and rng.random() < 0.3:
        split = rng.randrange(len(shape))
        params[:2] = [torch.cat(params[:2], split), None]
    samples, given = rng.choice((0, 0, 1, 3)), rng.random() < 0.3
    of_z = [samples, *shape] if samples else shape
    reduction = rng.choice((None, "keep1", "keep2", *reductions.OF_OPS))
    args = [
        *params, *[None] * (4 - len(params)), None if given else key(rng),
        tensor(rng, of_z, dtype) if given else None, rng.choice((None, [])), name,
        rng.randrange(5), rng.randrange(5),
        [rng.uniform(0.2, 2.0) for _ in range(family.constants)], samples, True, reduction, split,
    ]  # fmt: skip
    if not backward:
        return "elementwise", args
    value = term_shape(shape, reduction)
    value = [samples, *value] if family.sampled and samples else value
    count = family.terms if reduction else 0
    grads = [tensor(rng, value, term_dtype(dtype)) for _ in range(count)]
    needs = [p is not None for p in args[:4]] + [given and rng.random() < 0.5]
    return "elementwise_backward", [
        tensor(rng, of_z, dtype), *grads, *[None] * (2 - count), *args, needs
    ]  # fmt: skip


def gumbel_softmax(rng, backward):
    dtype, shape = rng.choice(DTYPES), rng.choice(([3, 4], [7], [2, 3, 5], [64, 33], [1, 6, 4]))
    mode, dim = rng.randrange(3), rng.randrange(len(shape))
    reduction = rng.choice((None, None, *reductions.REDUCTIONS))
    logits, order = tensor(rng, shape, dtype), rng.choice((None, []))
    spec = [order, mode, 0.7, rng.choice((0.0, 0.01)), dim, True, mode == 1, reduction]
    each = [*shape[:dim], 1, *shape[dim + 1 :]]
    control = rng.choice((None, None, torch.tensor(0.6), torch.full(each, 0.6)))
    control = control if control is None else control.to(term_dtype(dtype))
    if not backward:
        given = rng.random() < 0.3
        noises = (None, tensor(rng, shape, dtype)) if given else (key(rng), None)
        return "gumbel_softmax", [logits, *noises, control, *spec]
    kl = term_shape(shape[:dim] + shape[dim + 1 :], reduction)
    grad_kl = tensor(rng, kl, term_dtype(dtype)) if reduction else None
    grad_y, soft = tensor(rng, shape, dtype), tensor(rng, shape, dtype)
    grads = [grad_y, tensor(rng, shape, dtype) if mode == 1 and rng.random() < 0.5 else None]
    return "gumbel_softmax_backward", [
        *grads, grad_kl, logits, soft, control, *spec, [True, control is not None]
    ]  # fmt: skip


def of_noise(rng, which):
    shape, dtype = rng.choice(([3, 4], [7], [], [64, 33])), rng.choice(DTYPES)
    if which == 0:
        return "normal", [key(rng), shape, [], dtype]
    if which == 1:
        base = rng.choice(("normal", "gumbel", "laplace", "student_t", "uniform"))
        return "base_noise", [key(rng), shape, [], dtype, base, 2.5]
    if which == 2:
        return "draw_key", [torch.empty(0)]
    return "native", [key(rng), torch.zeros(shape, dtype=dtype)]


def mutated_tensor(rng, t):
    which = rng.randrange(21)
    shape = list(t.shape)
    if t.is_quantized:  # PyTorch itself dies of some that are made of one
        return t
    if which == 0:
        return None
    if which == 1:
        return t.to("meta")
    if which == 2:
        return t.to(rng.choice(DTYPES if rng.random() < 0.5 else ODD_DTYPES))
    if which == 3:
        return torch.zeros(
            rng.choice(([], [0], [1], [2], [1, 1], [*shape, 1], shape[:-1])), dtype=t.dtype
        )
    if which == 4:
        return torch.zeros([s + rng.choice((-1, 1)) if s else s for s in shape], dtype=t.dtype)
    if which == 5:  # one element seen as many
        return t.reshape(-1)[:1].reshape([1] * len(shape)).expand(shape) if t.numel() else t
    if which == 6:
        return t.to_sparse()
    if which == 7:
        return torch.zeros([2 * s for s in shape], dtype=t.dtype)[
            tuple(slice(0, None, 2) for _ in shape)
        ]
    if which == 8:
        # Of 2^40, a sum that is right would take hours; of 2^59 there are too many.
        return t.expand(rng.choice((2, 2**14, 2**59)), *shape)
    if which == 9:
        emptied = t.clone()
        emptied.untyped_storage().resize_(rng.choice((0, emptied.nbytes // 2)))
        return emptied
    if which == 10:
        return torch.nested.nested_tensor([t.float(), t.float()])
    if which == 11:
        return t.transpose(0, -1) if shape else t
    if which == 12:
        return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)
    if which == 13:
        return torch._neg_view(t)
    if which == 14:
        return torch.full_like(t, rng.choice(NUMBERS)) if t.is_floating_point() else t
    if which == 15:
        return torch._efficientzerotensor(shape, dtype=t.dtype)
    if which == 16:
        return rng.choice((3, 1.5, "x", [t], (), object()))
    if which == 17:
        return torch.zeros([0, *shape[1:]], dtype=t.dtype)
    if which == 18:
        return torch.nested.nested_tensor([t.float(), t.float()], layout=torch.jagged)
    if which == 19:
        return t.unsqueeze(0).transpose(0, -1)
    return t.to_mkldnn()


def mutated(rng, value):
    if isinstance(value, torch.Tensor):
        return mutated_tensor(rng, value)
    if value is None:
        dtype, shape = rng.choice(DTYPES), rng.choice(([], [1], [3, 4], [7], [64, 33]))
        return rng.choice(
            (tensor(rng, shape, dtype), key(rng), "sum", 1, torch.zeros(3, device="meta"))
        )
    if isinstance(value, bool):
        return rng.choice((not value, None, 2, "yes"))
    if isinstance(value, int):
        return rng.choice((*INTEGERS, None, "1", 1.5))
    if isinstance(value, float):
        return rng.choice((*NUMBERS, None, "1"))
    if isinstance(value, str):
        return rng.choice((*STRINGS, *FAMILIES, None, 3))
    if isinstance(value, list):
        return rng.choice((
            [], [0], [0, 0], [1, 0], [0, 1, 2], [2, 0, 1], [-1, 0], [0] * 70, [2**31], [-(2**63)],
            [2**31, 2**31], [2**63 - 1, 3], [2**62, 4], [True] * 2, [False] * 3, [False] * 5, [1.0],
            [float("nan")] * 3, None, 5, value[:-1], [*value, *value],
        ))  # fmt: skip
    return rng.choice(
        (torch.int64, torch.complex64, torch.float32, torch.uint64, None, 77, "float")
    )


MAKERS = (
    *[lambda rng, b=b: elementwise(rng, b, "gaussian") for b in (False, True)],
    *[lambda rng, b=b: elementwise(rng, b) for b in (False, True) * 2],
    *[lambda rng, b=b: gumbel_softmax(rng, b) for b in (False, True)],
    lambda rng: of_noise(rng, rng.randrange(4)),
)


def call(seed, i):
    """The op and the arguments of call i."""
    rng = random.Random(f"{seed} {i}")
    name, args = MAKERS[i % len(MAKERS)](rng)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        at = rng.randrange(len(args))
        try:
            args[at] = mutated(rng, args[at])
        except (RuntimeError, NotImplementedError, ValueError):  # PyTorch has no such tensor
            continue
    if rng.random() < 0.03:
        args = args[:-1] if rng.random() < 0.5 else [*args, None]
    for t in args:
        if (
            isinstance(t, torch.Tensor)
            and t.is_leaf
            and t.is_floating_point()
            and rng.random() < 0.3
        ):
            t.requires_grad_()
    return name, args


def shown(value):
    if not isinstance(value, torch.Tensor):
        return repr(value)[:80]
    try:
        size = value.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError):
        size = "no"
    shape = "nested" if value.is_nested else tuple(value.shape)
    return f"{value.dtype}{shape} {value.layout} {value.device}, {size} bytes"


def make(name, args, rng):
    """Call an op, and the backward pass of what it returns."""
    if name == "native":
        torch.ops.fused_reparam_native.normal(*args)
        return
    found = getattr(torch.ops.fused_reparam, name)(*args)
    outputs = [found] if isinstance(found, torch.Tensor) else list(found)
    assert all(isinstance(t, torch.Tensor) for t in outputs), outputs
    loss = [t for t in outputs if t.requires_grad]
    if loss:
        grads = [
            torch.ones((), dtype=t.dtype, device=t.device).expand(t.shape) if rng.random() < 0.5
            else torch.ones_like(t)
            for t in loss
        ]  # fmt: skip
        torch.autograd.backward(loss, grads)


def main(seed, first, last):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cpu.info()
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        # A huge tensor is refused and not filled: the sanitizer has a way of its own.
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    for i in range(first, last):
        name, args = call(seed, i)
        print(f"{i} {name}({', '.join(map(shown, args))})", flush=True)
        try:
            make(name, args, random.Random(i))
            print("ok", flush=True)
        except ALLOWED as error:
            text = str(error)
            bad = not text.strip() or "INTERNAL ASSERT" in text
            print(
                f"{'BAD' if bad else 'raised'} {type(error).__name__}: {text[:400]!r}", flush=True
            )
        except BaseException as error:
            print(f"BAD {type(error).__name__}: {str(error)[:400]!r}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
