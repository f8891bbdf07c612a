"""The ops' kernels in C++ (a compiled model's calls): the same as their kernels in Python."""

import math
import sys

import pytest
import torch
from draw_cases import FAMILIES, params, spec
from torch.utils._python_dispatch import TorchDispatchMode

from fused_reparam import categorical_latent, gaussian_latent, noise, tanh_normal_rsample
from fused_reparam.backends import native, native_host
from fused_reparam.backends.reference.rows import HARD, ONE_HOT, SOFT
from fused_reparam.ops import draw, gaussian, rows
from fused_reparam.ops.draw_spec import count
from fused_reparam.ops.gaussian_call import Spec

native.info()  # loads it
pytestmark = pytest.mark.skipif(
    native_host.module is None, reason=f"the host path is in Python: {native_host.reason}"
)
OPS = torch.ops.fused_reparam
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16]
)
KEY = noise.key(5, 3)
FREE = (-math.inf, math.inf)


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


def assert_same(op, kernel, args, taken=True):
    """Called twice, so that the second call has its plan."""
    with torch.no_grad():
        first = op(*args)
        got, seen = in_python(lambda: op(*args))
        want = kernel(*args)
    assert (not seen) == taken, seen
    assert len(got) == len(want)
    for a, b, c in zip(got, first, want, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (c.dtype, c.shape, c.stride())
        assert torch.equal(a, c)
        assert torch.equal(b, c)
    given = {t.data_ptr() for t in args if isinstance(t, torch.Tensor)}
    mine = [t.data_ptr() for t in got if t.numel()]
    assert not given & set(mine)
    assert len(set(mine)) == len(mine)


def gaussian_operands(layout, dtype):
    """loc, scale (None: moments), dim, and a gradient of z."""
    g = torch.Generator().manual_seed(1)
    if layout == "moments":
        moments = torch.randn(5, 6, 7, generator=g).to(dtype)
        return moments, None, 1, torch.randn(5, 3, 7, generator=g).to(dtype)
    loc, scale = torch.randn(2, 5, 14, generator=g).to(dtype).mul(0.5).unbind()
    if layout == "rows":
        loc, scale = loc[:, ::2], scale[:, 3:10]
    return loc, scale, -1, torch.randn(loc.shape, generator=g).to(dtype)


@DTYPES
@pytest.mark.parametrize("layout", ["dense", "rows", "moments"])
@pytest.mark.parametrize("kind", range(4))
def test_gaussian(layout, kind, dtype):
    loc, scale, dim, grad_z = gaussian_operands(layout, dtype)
    grad_kl = torch.tensor(0.7, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    if kind >= 2:  # std and var
        loc, scale = loc.abs() + 0.1, None if scale is None else scale.abs() + 0.1
    for low, high in (FREE, (0.2, 0.9)):
        for reduction in (None, "sum", "mean", "batchmean"):
            rest = (loc, scale, KEY, None, *Spec([], kind, low, high, reduction, True, dim))
            assert_same(OPS.gaussian_latent.default, gaussian._forward_autograd, rest)
            assert_same(
                OPS.gaussian_latent_backward.default,
                gaussian._backward_autograd,
                (grad_z, grad_kl if reduction else None, *rest, [True, True, False]),
                taken=reduction is not None,
            )


@DTYPES
@pytest.mark.parametrize("samples", [0, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_draw(family, samples, dtype):
    s = spec(family, samples)
    p = [t.detach() for t in params(family, dtype=dtype)]
    args = (*p, *[None] * (4 - len(p)), KEY, None, *s)
    with torch.no_grad():
        z, *values = OPS.draw(*args)
    assert_same(OPS.draw.default, draw._forward_autograd, args)
    grads = [torch.randn_like(t) for t in values[: count(s)]]
    absent = [None] * (2 - len(grads))
    for of_z in (torch.randn_like(z), None):
        for of_values in (grads, [None] * len(grads)):
            if of_z is None and not any(g is not None for g in of_values):
                continue
            for needs in ([True] * 4, [True, False, True, False]):
                assert_same(
                    OPS.draw_backward.default,
                    draw._backward_autograd,
                    (of_z, *of_values, *absent, *args, [*needs, False]),
                )


@DTYPES
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("mode", [SOFT, HARD, ONE_HOT])
def test_categories(mode, dim, dtype):
    g = torch.Generator().manual_seed(3)
    logits, grad_y = torch.randn(2, 3, 4, 5, generator=g).to(dtype).unbind()
    unimix = 0.1 if mode == ONE_HOT else 0.0
    for want_soft in {False, mode == HARD}:
        for want_kl in (False, True):
            s = ([], mode, 0.7, unimix, dim, True, want_soft, want_kl)
            args = (logits, KEY, None, *s)
            assert_same(OPS.relaxed_categories.default, rows._forward_autograd, args)
    y, soft, kl = OPS.relaxed_categories(*args)
    soft = {SOFT: y, HARD: soft, ONE_HOT: None}[mode]
    op, kernel = OPS.relaxed_categories_backward.default, rows._backward_autograd
    for of_y in (grad_y, None):
        for of_kl in (torch.randn_like(kl), None):
            taken = of_y is not None or of_kl is not None
            assert_same(op, kernel, (of_y, of_kl, logits, soft, *s), taken)
    if mode != ONE_HOT:
        assert_same(op, kernel, (grad_y, None, None, soft, *s))
    strided = grad_y.transpose(0, 2).contiguous().transpose(0, 2)
    assert_same(op, kernel, (strided, None, logits, soft, *s), taken=False)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_what_goes_through_python():
    loc, x, _, grad_z = gaussian_operands("dense", torch.float32)
    grad_kl = torch.tensor(1.0)
    negative = torch.complex(x, x).conj().imag
    assert negative.is_neg()
    usual = Spec([], 0, *FREE, "sum", True, -1)

    def latent(loc=loc, scale=x, key=KEY, eps=None, spec=usual):
        return (loc, scale, key, eps, *spec)

    for args in (
        latent(scale=negative), latent(loc[:0], x[:0]),
        latent(key=None, eps=x), latent(spec=usual._replace(reduction="none")),
        latent(spec=usual._replace(sample=False)), latent(spec=usual._replace(order=[1, 0])),
        latent(loc, None, spec=usual._replace(dim=-1)), latent(scale=x[:1]), latent(loc.mT, x.mT),
    ):  # fmt: skip
        assert_same(OPS.gaussian_latent.default, gaussian._forward_autograd, args, taken=False)
    needs = [True, True, False]
    for args in (
        (grad_z.mT.contiguous().mT, grad_kl, *latent(), needs), (None, grad_kl, *latent(), needs),
        (grad_z, grad_kl, *latent(), [False, True, False]), (grad_z, None, *latent(), needs),
        (grad_z, grad_kl, *latent(key=None, eps=x), [True, True, True]),
    ):  # fmt: skip
        op, kernel = OPS.gaussian_latent_backward.default, gaussian._backward_autograd
        assert_same(op, kernel, args, taken=False)
    for mode in (Mode(), torch.inference_mode()):
        with mode:
            got = OPS.gaussian_latent(*latent())
        assert all(torch.equal(a, b) for a, b in zip(got, OPS.gaussian_latent(*latent())))  # noqa: B905
    leaf = loc.clone().requires_grad_()
    z, kl = OPS.gaussian_latent(*latent(leaf))
    (got,) = torch.autograd.grad([z, kl], leaf, [grad_z, grad_kl])
    assert torch.equal(got, OPS.gaussian_latent_backward(grad_z, grad_kl, *latent(), needs)[0])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(loc, torch.ones_like(loc))
        with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
            OPS.gaussian_latent(*latent(dual))


@pytest.mark.parametrize("again", [False, True])
def test_errors_are_those_of_python(again):
    loc, x, _, grad_z = gaussian_operands("dense", torch.float32)
    usual = Spec([], 0, *FREE, "sum", True, -1)
    rest = (x, KEY, None, *usual)
    if again:  # with plans of what is right at hand
        for reduction in ("sum", None):
            OPS.gaussian_latent(loc, *rest[:3], *usual._replace(reduction=reduction))
    kernels = {
        OPS.gaussian_latent: gaussian._forward_autograd,
        OPS.gaussian_latent_backward: gaussian._backward_autograd,
        OPS.draw: draw._forward_autograd,
        OPS.relaxed_categories: rows._forward_autograd,
        OPS.relaxed_categories_backward: rows._backward_autograd,
    }
    soft = ([], SOFT, 1.0, 0.0, 1, True, False, True)
    good = (loc, x, None, None, KEY, None)
    laplace = spec("laplace", kind=0)
    needs = [True, True, False]
    for op, args in (
        (OPS.gaussian_latent, (loc, x.double(), *rest[1:])),
        (OPS.gaussian_latent, (loc, x, KEY[:1], None, *usual)),
        (OPS.gaussian_latent, (loc, x, KEY.int(), None, *usual)),
        (OPS.gaussian_latent, (loc, x, None, None, *usual)),
        (OPS.gaussian_latent, (loc, *rest[:3], *usual._replace(kind=9))),
        (OPS.gaussian_latent, (loc, *rest[:3], *usual._replace(reduction="most"))),
        (OPS.gaussian_latent, (loc, *rest[:3], *usual._replace(reduction=""))),
        (OPS.gaussian_latent, (loc[:, :7], None, KEY, None, *usual._replace(dim=1))),
        (OPS.gaussian_latent, (loc[:3].clone(), None, KEY, None, *usual._replace(dim=0))),
        (OPS.gaussian_latent_backward, (grad_z[:2], torch.ones(()), loc, *rest, needs)),
        (OPS.gaussian_latent_backward, (grad_z.double(), torch.ones(()), loc, *rest, needs)),
        (OPS.gaussian_latent_backward, (grad_z, torch.ones(1), loc, *rest, needs)),
        (OPS.draw, (*good, *laplace._replace(family="none such"))),
        (OPS.draw, (loc, None, None, None, KEY, None, *laplace)),
        (OPS.draw, (*good, *laplace._replace(family="laplace\0x"))),
        (OPS.draw, (*good, *spec("student_t", kind=0)._replace(numbers=[]))),
        (OPS.draw, (loc, x.double(), None, None, KEY, None, *laplace)),
        (OPS.relaxed_categories, (loc, KEY, None, [], 3, 1.0, 0.0, 1, True, False, False)),
        (OPS.relaxed_categories, (loc, KEY, None, [], 0, 0.0, 0.0, 1, True, False, False)),
        (OPS.relaxed_categories, (loc, KEY, None, [], 0, math.nan, 0.0, 1, True, False, False)),
        (OPS.relaxed_categories, (loc, KEY, None, [], 0, 1.0, 1.0, 1, True, False, False)),
        (OPS.relaxed_categories, (loc, KEY, None, [], 0, 1.0, 0.0, -1, True, False, False)),
        (OPS.relaxed_categories, (loc, None, None, [], 0, 1.0, 0.0, 1, True, False, False)),
        (OPS.relaxed_categories, (loc, KEY, None, [], 0, 1.0, 0.0, 1, True, True, False)),
        (OPS.relaxed_categories_backward, (grad_z, None, loc, None, *soft)),
        (OPS.relaxed_categories_backward, (grad_z[:3], None, loc, loc, *soft)),
        (OPS.relaxed_categories_backward, (None, grad_z, loc, loc, *soft)),
    ):
        said = []
        for call in (op, kernels[op]):
            with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
                call(*args)
            said.append((error.type, str(error.value)))
        assert said[0] == said[1]


class Own(torch.Tensor):
    pass


def test_a_plan_is_not_of_the_tensors_that_it_was_made_for():
    loc, x, _, _ = gaussian_operands("dense", torch.float32)
    s = spec("laplace", kind=0)._replace(weight=0.123)  # of no other test
    given = (x.abs(), None, None, KEY, None, *s)
    OPS.draw(loc.as_subclass(Own), *given)
    assert_same(OPS.draw.default, draw._forward_autograd, (loc, *given))


def test_a_plan_is_of_its_shape_and_options():
    """Calls that differ in one thing only, in turn."""
    loc, x, _, _ = gaussian_operands("dense", torch.float32)
    usual = Spec([], 0, *FREE, "mean", True, -1)
    calls = [
        (a, b, KEY, None, *s)
        for a, b in ((loc, x), (loc[:3], x[:3]), (loc[:, ::2], x[:, ::2]), (loc[:, :7], x[:, ::2]))
        for s in (
            usual,
            usual._replace(kind=1),
            usual._replace(high=0.1),
            usual._replace(reduction="batchmean"),
        )
    ]
    for _ in range(2):
        for args in calls:
            got, want = OPS.gaussian_latent(*args), gaussian._forward_autograd(*args)
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_keys_are_those_of_the_generator():
    torch.manual_seed(4)
    want = noise.random_bits("cpu", None).view(torch.uint64)
    torch.manual_seed(4)
    got = OPS.draw_key(torch.empty(0))
    assert got.dtype == torch.uint64
    assert torch.equal(got, want)
    assert not torch.equal(OPS.draw_key(torch.empty(0)), want)


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
