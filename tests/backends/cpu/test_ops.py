"""The ops under ``torch.ops.fused_reparam``: in C++ what they are in Python, errors included."""

import math
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fused_reparam import categorical_latent, gaussian_latent, noise, tanh_normal_rsample
from fused_reparam.backends import cpu
from fused_reparam.backends.cpu import extension
from fused_reparam.core.reductions import REDUCTIONS
from fused_reparam.families.categorical import HARD, ONE_HOT, SOFT
from fused_reparam.ops import elementwise, softmax
from fused_reparam.ops.elementwise_spec import Spec, count
from fused_reparam.ops.softmax_call import Spec as OfSoftmax
from fused_reparam.rng import keys as rng_keys
from tests.helpers.elementwise_cases import FAMILIES, params, spec
from tests.helpers.loops import where

cpu.info()  # loads it
pytestmark = pytest.mark.skipif(
    extension.module is None,
    reason=f"the extension is not at hand: {extension.reason}",
)
OPS = torch.ops.fused_reparam
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16]
)
KEY = noise.key(5, 3)
FREE = (-math.inf, math.inf)
IN_PYTHON = {
    OPS.elementwise: elementwise._op._autograd,
    OPS.elementwise_backward: elementwise._op._autograd_backward,
    OPS.gumbel_softmax: softmax._op._autograd,
    OPS.gumbel_softmax_backward: softmax._op._autograd_backward,
}


def in_python(call):
    """What the call returns, and the functions of the ops in Python that it came by."""
    seen = []

    def watch(frame, event, _):
        if event == "call" and "/ops/" in frame.f_code.co_filename:
            seen.append(frame.f_code.co_name)

    sys.setprofile(watch)
    try:
        found = call()
    finally:
        sys.setprofile(None)
    return found, seen


def assert_same(op, args, taken=True):
    with torch.no_grad():
        got, seen = in_python(lambda: op(*args))
        want = IN_PYTHON[op](*args)
    assert (not seen) == taken, seen
    got, want = ((t,) if isinstance(t, torch.Tensor) else t for t in (got, want))
    for a, b in zip(got, want, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert torch.equal(a, b)
    given = {t.data_ptr() for t in args if isinstance(t, torch.Tensor)}
    mine = [t.data_ptr() for t in got if t.numel()]
    assert not given & set(mine)
    assert len(set(mine)) == len(mine)
    return got


def gaussian(kind=0, bounds=FREE, reduction="sum", **changed):
    """The spec of a Gaussian and its KL to N(0, 1)."""
    constants = [*bounds, 0.0, 1.0, -math.inf]
    return Spec(None, "gaussian", kind, 0, constants, 0, True, reduction)._replace(**changed)


def args_of(loc, scale, s, key=KEY, eps=None):
    return loc, scale, None, None, key, eps, *s


def operands(layout="dense", dtype=torch.float32):
    """loc, scale (None: moments), the dim of the split, and a gradient of z."""
    g = torch.Generator().manual_seed(1)
    if layout == "moments":
        moments = torch.randn(5, 6, 7, generator=g).to(dtype)
        return moments, None, 1, torch.randn(5, 3, 7, generator=g).to(dtype)
    loc, scale = torch.randn(2, 5, 14, generator=g).to(dtype).mul(0.5).unbind()
    if layout == "strided":
        loc, scale = loc[:, ::2], scale[:, 3:10]
    elif layout == "transposed":
        loc, scale = loc.t(), scale.t()
    elif layout == "one row":
        scale = scale[:1]
    elif layout == "number":
        scale = scale[0, 0]
    elif layout == "column and row":
        loc, scale = loc[:, :1], scale[:1]
    return loc, scale, -1, torch.randn(loc.broadcast_to(5, 14).shape
                                       if layout == "column and row" else loc.shape,
                                       generator=g).to(dtype)  # fmt: skip


LAYOUTS = ["dense", "strided", "transposed", "one row", "number", "column and row", "moments"]


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaussian(layout, dtype):
    for kind in range(5):
        with where(kind):
            loc, scale, split, grad_z = operands(layout, dtype)
            if kind in (2, 3):  # std and var
                loc, scale = loc.abs() + 0.1, None if scale is None else scale.abs() + 0.1
            second = [split < 0, False, False, False]
            for bounds in (FREE, (0.2, 0.9)):
                for reduction in (None, "last", *REDUCTIONS):
                    args = args_of(loc, scale, gaussian(kind, bounds, reduction, split=split))
                    _, kl, _ = assert_same(OPS.elementwise, args)
                    grad_kl = torch.linspace(-1, 1, kl.numel(), dtype=kl.dtype).view(kl.shape)
                    grad_kl = grad_kl if reduction else None
                    strided = grad_z.mT.contiguous().mT, grad_kl
                    for grads in ((grad_z, grad_kl), (grad_z, None), (None, grad_kl), strided):
                        for of_scale in {False, split < 0}:
                            needs = [True, of_scale, *second[2:], False]
                            assert_same(OPS.elementwise_backward, (*grads, None, *args, needs))


def test_options_of_the_gaussian():
    loc, x, _, grad_z = operands()
    for s in (
        gaussian(order=[1, 0]), gaussian(sample=False), gaussian(reduction=None),
        gaussian(samples=1), gaussian(samples=3, reduction="none"), gaussian(order=[]),
    ):  # fmt: skip
        assert_same(OPS.elementwise, args_of(loc, x, s))
        eps = torch.randn(*[s.samples] * (s.samples > 0), 5, 14)
        assert_same(OPS.elementwise, args_of(loc, x, s, None, eps))
        assert_same(OPS.elementwise, args_of(loc, x, s, None, eps.mT.contiguous().mT))
    needs = [False, True, False, False, False]
    args = args_of(loc, x, gaussian(), None, grad_z)
    assert_same(OPS.elementwise_backward, (grad_z, torch.tensor(0.7), None, *args, needs))
    assert_same(OPS.elementwise_backward, (None, None, None, *args, needs))


@DTYPES
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, dtype):
    for samples in [0, 3]:
        with where(samples):
            p = [t.detach() for t in params(family, dtype=dtype)]
            for reduction in ("sample", "last", None):
                s = spec(family, samples, reduction)
                args = (*p, *[None] * (4 - len(p)), KEY, None, *s)
                z, *terms = assert_same(OPS.elementwise, args)
                grads = [torch.randn_like(t) for t in terms[: count(s)]]
                absent = [None] * (2 - len(grads))
                for of_z in (torch.randn_like(z), None):
                    for of_terms in (grads, [None] * len(grads)):
                        for needs in ([True] * 4, [True, False, True, False]):
                            given = [n and t is not None for n, t in zip(needs, args, strict=False)]
                            rest = (of_z, *of_terms, *absent, *args, [*given, False])
                            assert_same(OPS.elementwise_backward, rest)


@DTYPES
@pytest.mark.parametrize("mode", [SOFT, HARD, ONE_HOT])
def test_softmax(mode, dtype):
    for dim in [0, 1, 2]:
        with where(dim):
            g = torch.Generator().manual_seed(3)
            given = torch.randn(2, 3, 4, 5, generator=g).to(dtype)
            transposed = given.transpose(1, 3).contiguous().transpose(1, 3)
            for logits, grad_y in (given.unbind(), transposed.unbind(), (given[0], transposed[1])):
                for want_soft in {False, mode == HARD}:
                    for reduction in (None, *REDUCTIONS):
                        unimix = 0.1 if mode == ONE_HOT else 0.0
                        s = OfSoftmax(None, mode, 0.7, unimix, dim, True, want_soft, reduction)
                        y, soft, kl = assert_same(OPS.gumbel_softmax, (logits, KEY, None, None, *s))
                        assert_same(OPS.gumbel_softmax, (logits, None, grad_y, None, *s))
                        if mode == HARD and not want_soft:
                            continue
                        kept = logits, {SOFT: y, HARD: soft, ONE_HOT: None}[mode]
                        grad_kl = torch.randn_like(kl) if reduction else None
                        for of_y in (grad_y, None):
                            for of_kl in (grad_kl, None):
                                args = (
                                    of_y,
                                    grad_y if want_soft else None,
                                    of_kl,
                                    *kept,
                                    None,
                                    *s,
                                    [True, False],
                                )
                                assert_same(OPS.gumbel_softmax_backward, args)
                        if mode != ONE_HOT and reduction is None:
                            args = (grad_y, None, None, None, kept[1], None, *s, [True, False])
                            assert_same(OPS.gumbel_softmax_backward, args)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_what_goes_through_python():
    loc, x, _, grad_z = operands()
    negative = torch.complex(x, x).conj().imag
    assert negative.is_neg()
    for args in (args_of(loc, negative, gaussian()), args_of(loc[:0], x[:0], gaussian())):
        assert_same(OPS.elementwise, args, taken=False)
    usual = args_of(loc, x, gaussian())
    grads, needs = (grad_z, torch.tensor(1.0), None), [True, True, False, False, False]
    args = (*grads, *args_of(loc, x, gaussian(), None, x), [*needs[:4], True])
    assert_same(OPS.elementwise_backward, args, taken=False)  # the gradient of eps
    assert_same(OPS.gumbel_softmax, (negative, KEY, None, None, *OF_SOFTMAX), taken=False)
    for mode in (Mode(), torch.inference_mode()):
        with mode:
            got = OPS.elementwise(*usual)
        for a, b in zip(got, OPS.elementwise(*usual), strict=True):
            assert torch.equal(a, b)


def test_the_ops_have_gradients_themselves():
    loc, x, _, grad_z = operands()
    leaf, grad_kl = loc.clone().requires_grad_(), torch.tensor(0.7)
    z, kl, _ = OPS.elementwise(*args_of(leaf, x, gaussian()))
    (got,) = torch.autograd.grad([z, kl], leaf, [grad_z, grad_kl])
    needs = [True, True, False, False, False]
    args = args_of(loc, x, gaussian())
    assert torch.equal(got, OPS.elementwise_backward(grad_z, grad_kl, None, *args, needs)[0])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(loc, torch.ones_like(loc))
        z, kl, _ = OPS.elementwise(*args_of(dual, x, gaussian()))
        tangents = [torch.autograd.forward_ad.unpack_dual(o).tangent for o in (z, kl)]
    assert torch.equal(tangents[0], torch.ones_like(loc))
    torch.testing.assert_close(tangents[1], loc.sum())


OF_SOFTMAX = OfSoftmax([], SOFT, 1.0, 0.0, 1, True, False, "none")


def test_errors_are_those_of_python():
    loc, x, _, grad_z = operands()
    usual, laplace = gaussian(), spec("laplace", kind=0)
    needs, one = [True, True, False, False, False], torch.ones(())
    good = args_of(loc, x, usual)

    def softmax_backward(*tensors, **changed):
        s = OF_SOFTMAX._replace(**changed)
        return OPS.gumbel_softmax_backward, (*tensors, None, *s, [True, False])

    for op, args in (
        (OPS.elementwise, args_of(loc, x.double(), usual)),
        (OPS.elementwise, args_of(loc, x[:, :5], usual)),
        (OPS.elementwise, args_of(loc, x, usual, KEY[:1])),
        (OPS.elementwise, args_of(loc, x, usual, KEY.int())),
        (OPS.elementwise, args_of(loc, x, usual, None)),
        (OPS.elementwise, args_of(loc, x, usual, None, x[:2])),
        (OPS.elementwise, args_of(loc, x, usual, None, x.double())),
        (OPS.elementwise, args_of(loc, None, usual)),
        (OPS.elementwise, args_of(loc, x, usual._replace(kind=9))),
        (OPS.elementwise, args_of(loc, x, usual._replace(prior_kind=-1))),
        (OPS.elementwise, args_of(loc, x, usual._replace(reduction="most"))),
        (OPS.elementwise, args_of(loc, x, usual._replace(reduction=""))),
        (OPS.elementwise, args_of(loc, x, usual._replace(reduction="keep2"))),
        (OPS.elementwise, args_of(loc, x, usual._replace(reduction="keep-1"))),
        (OPS.elementwise, args_of(loc, x, usual._replace(reduction="keep99"))),
        (OPS.elementwise, args_of(loc, x, usual._replace(samples=-1))),
        (OPS.elementwise, args_of(loc, x, usual._replace(order=[0]))),
        (OPS.elementwise, args_of(loc, x, usual._replace(order=[0, 0]))),
        (OPS.elementwise, args_of(loc, x, usual._replace(split=1))),
        (OPS.elementwise, args_of(loc, None, usual._replace(split=-2))),
        (OPS.elementwise, args_of(loc, None, usual._replace(split=2))),
        (OPS.elementwise, args_of(loc[:, :7], None, usual._replace(split=1))),
        (OPS.elementwise, args_of(loc[:3], None, usual._replace(split=0))),
        (OPS.elementwise, args_of(loc, x, laplace._replace(family="none such"))),
        (OPS.elementwise, args_of(loc, x, laplace._replace(family="laplace\0x"))),
        (OPS.elementwise, args_of(loc, x, spec("student_t", kind=0)._replace(constants=[]))),
        (OPS.elementwise, (loc, x, x, None, None, loc, *spec("student_t_df", kind=0))),
        (OPS.elementwise_backward, (grad_z[:2], one, None, *good, needs)),
        (OPS.elementwise_backward, (grad_z.double(), one, None, *good, needs)),
        (OPS.elementwise_backward, (grad_z, torch.ones(1), None, *good, needs)),
        (OPS.elementwise_backward, (grad_z, one, one, *good, needs)),
        (OPS.elementwise_backward, (grad_z, one.double(), None, *good, needs)),
        (OPS.elementwise_backward, (grad_z, one, None, *good, needs[:4])),
        (OPS.elementwise_backward, (grad_z, one, None, *good, [True] * 5)),
        *(
            (OPS.gumbel_softmax, (loc, KEY, None, None, *OF_SOFTMAX._replace(**changed)))
            for changed in (
                {"mode": 3}, {"tau": 0.0}, {"tau": math.nan}, {"unimix": 1.0}, {"dim": -1},
                {"dim": 2}, {"want_soft": True}, {"reduction": "last"}, {"order": [1]},
                {"reduction": "keep1"}, {"reduction": "keep01"}, {"reduction": "keep-1"},
            )
        ),
        (OPS.gumbel_softmax, (loc, None, None, None, *OF_SOFTMAX)),
        (OPS.gumbel_softmax, (loc, None, loc[:2], None, *OF_SOFTMAX)),
        softmax_backward(grad_z, None, None, loc, None),
        softmax_backward(grad_z[:3], None, None, loc, loc),
        softmax_backward(None, None, grad_z, loc, loc),
        softmax_backward(None, None, grad_z[:, 0], None, loc),
        softmax_backward(None, None, grad_z[:, 0], loc, None, reduction=None),
        softmax_backward(None, None, None, None, None),
        softmax_backward(grad_z, None, None, None, loc, want_soft=True),
        softmax_backward(grad_z, None, None, None, loc, mode=HARD, want_y=False, want_soft=True),
    ):  # fmt: skip
        said = []
        for call in (op, IN_PYTHON[op]):
            with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
                call(*args)
            said.append((error.type, str(error.value)))
        assert said[0] == said[1]


def test_no_gradient_is_an_incoming_one():
    # Of a normal's rsample, the gradient of loc is that of z: an op's result has its own memory.
    loc, x, _, grad_z = operands()
    grad_z.requires_grad_()
    of_loc, needs = gaussian()._replace(reduction=None), [True, False, False, False, False]
    for op in (OPS.elementwise_backward, IN_PYTHON[OPS.elementwise_backward]):
        got = op(grad_z, None, None, *args_of(loc, x, of_loc), needs)[0]
        assert torch.equal(got, grad_z)
        assert got.data_ptr() != grad_z.data_ptr()


def test_keys_are_those_of_the_generator():
    """The very numbers of torch.randint, which also draws where PyTorch alone serves."""
    witness = torch.empty(0, requires_grad=True)
    for seed in range(20):
        torch.manual_seed(seed)
        want, then = rng_keys.random_bits("cpu", None).view(torch.uint64), torch.get_rng_state()
        torch.manual_seed(seed)
        got = OPS.draw_key(witness)
        assert torch.equal(torch.get_rng_state(), then)
        assert (got.dtype, got.requires_grad) == (torch.uint64, False)
        assert torch.equal(got, want)
        assert not torch.equal(OPS.draw_key(witness), want)


def test_a_compiled_model_takes_it():
    def model(loc, x):
        z, kl = gaussian_latent(loc, x)
        action, log_prob = tanh_normal_rsample(z, log_std=x)
        y, of_y = categorical_latent(z)
        return action.square().sum() + log_prob.sum() + kl + y.square().sum() + of_y

    compiled = torch.compile(model, fullgraph=True)
    loc, x = (t.clone().requires_grad_() for t in torch.randn(2, 6, 5))

    def step():
        torch.manual_seed(2)
        loss = compiled(loc, x)
        return loss, *torch.autograd.grad(loss, (loc, x))

    step()
    found, seen = in_python(step)
    assert not seen
    torch.manual_seed(2)
    loss = model(loc, x)
    # The key of a compiled call is drawn by the same op as that of any other.
    torch.testing.assert_close(found, (loss, *torch.autograd.grad(loss, (loc, x))))
