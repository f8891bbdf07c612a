"""The element-wise draws: numbers, noise, layouts and arguments, on every backend."""

import pytest
import torch
from draw_cases import (
    FAMILIES,
    QUICK,
    cotangents,
    formula,
    gradients,
    noise_for,
    params,
    results,
    spec,
)
from formulas import within_twice_the_error

from fused_reparam import noise
from fused_reparam.backends import select
from fused_reparam.ops import draw_short
from fused_reparam.ops.draw import DrawSpec, draw
from fused_reparam.ops.draw_spec import kept
from fused_reparam.streams import BASES

OP = torch.ops.fused_reparam.draw


# Families that between them have every base.
OF_BASES = list({family.base: name for name, family in FAMILIES.items()}.values())


@pytest.fixture
def key(device):
    return noise.key(7, 2**40, device=device)


def compare(p, s, key, *, grads=None, rtol=2e-5, atol=2e-5):
    """A draw and its gradients against the formula in float64 with the same noise."""
    eps = noise_for(key, p, s).double()
    got, want = results(p, s, key), formula(p, eps, s)
    grads = cotangents(got) if grads is None else grads(got)
    of_got, of_want = gradients(got, p, grads), gradients(want, p, [g.double() for g in grads])
    for g, w in zip((*got, *of_got), (*want, *of_want), strict=True):
        assert g.shape == w.shape
        torch.testing.assert_close(g.double(), w.double(), rtol=rtol, atol=atol)
    return got


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
@QUICK
def test_numbers(device, key, family, dtype):
    """Given noise, so that nothing but the arithmetic differs."""
    p = params(family, (5, 7), dtype, device)
    exact = [t.detach().double().requires_grad_() for t in p]
    for samples in (0, 3):
        s = spec(family, samples)
        bound = 2 if family == "log_normal" else 20
        eps = noise_for(key, p, s).clamp(-bound, bound).to(dtype)
        got, want, plain = results(p, s, eps=eps), formula(exact, eps, s), formula(p, eps, s, dtype)
        grads = [g.to(dtype) for g in cotangents(want)]  # what every dtype holds
        outcomes = [
            (*outputs, *gradients(outputs, of, [g.to(o.dtype) for g, o in zip(grads, outputs)]))  # noqa: B905
            for outputs, of in ((got, p), (want, exact), (plain, p))
        ]
        for g, w, h in zip(*outcomes, strict=True):
            assert within_twice_the_error(g, w, h)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_backend_has_every_family(device, key, family):
    compare(params(family, (3, 5), device=device), spec(family, 2), key)


@pytest.mark.parametrize("family", ["gaussian", "log_prob", "laplace", "relaxed_bernoulli"])
@QUICK
def test_reductions(device, key, family):
    p = params(family, (3, 4, 5), device=device)
    for keep in (0, 1, 2, 3, -1):
        for samples in (0, 2):
            compare(p, spec(family, samples, keep), key)


@pytest.mark.parametrize("family", ["gaussian", "tanh_normal"])
@QUICK
def test_one_sample_has_a_dim_where_asked(device, key, family):
    p = params(family, (4, 3), device=device)
    without, one = (results(p, spec(family, samples), key) for samples in (0, 1))
    for a, b, name in zip(without, one, ("z", "value"), strict=True):
        leading = name == "z" or family == "tanh_normal"
        assert torch.equal(a[None] if leading else a, b)


@pytest.mark.parametrize("family", OF_BASES)
@QUICK
def test_noise_is_the_bases_stream(device, key, family):
    """One definition for every family: the stream in streams.py, in memory order."""
    base = FAMILIES[family].base
    for samples in (0, 3):
        for order in ([], [1, 0]):
            s = spec(family, samples, order=order)
            p = [t.detach() for t in params(family, (3, 7), device=device)]
            number = s.numbers[0] if family == "student_t" else 0.0
            flat = BASES[base](key.cpu(), 21 * max(samples, 1), torch.float32, number)
            # Sample after sample, each in its order.
            eps = flat.view(*(samples,) * (samples > 0), *(7, 3) if order else (3, 7))
            eps = (eps.transpose(-1, -2) if order else eps).to(device)
            made = noise_for(key, p, s)
            torch.testing.assert_close(made, eps, rtol=4e-6, atol=4e-6)
            for got, want in zip(results(p, s, key), results(p, s, eps=made), strict=True):
                torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


def test_base_noise_rejects_what_it_does_not_know():
    op = torch.ops.fused_reparam.base_noise
    with pytest.raises(ValueError, match=r"base must be one of normal, .*got 'levy'"):
        op(noise.key(0), [3], [], torch.float32, "levy", 0.0)
    assert op(noise.key(0), [0, 3], [], torch.float64, "gumbel", 0.0).shape == (0, 3)
    torch.testing.assert_close(
        op(noise.key(0), [9], [], torch.float32, "normal", 0.0), noise.normal(noise.key(0), 9)
    )


VIEWS = {
    "halves": lambda t: torch.cat((t, t), 1).chunk(2, 1)[0],
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda t: t[:1].expand_as(t),
    "no rows": lambda t: t.permute(2, 0, 1).contiguous().permute(1, 2, 0).flip(0),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("samples", [0, 1, 3])
@QUICK
def test_views(device, key, view, samples):
    for family in ("tanh_normal", "gaussian_prior"):
        leaves = params(family, (3, 4, 5), device=device)
        views = [VIEWS[view](leaves[0]), *leaves[1:]]
        for p in (views, [*views[1:], views[0]]):
            for keep in (1, 3):
                compare(p, spec(family, samples, keep), key)


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("family", ["gaussian", "tanh_normal"])
@QUICK
def test_memory_orders(device, key, family, samples):
    """channels_last and its like: kept dims outermost in memory, or not."""
    for order in ([0, 2, 3, 1], [3, 2, 1, 0]):
        back = [order.index(d) for d in range(4)]
        shape = (2, 3, 4, 5)
        p = params(family, [shape[d] for d in order], device=device)
        p = [t.permute(back) for t in p]
        for keep in (1, 2, 4):
            z, value = compare(p, spec(family, samples, keep, order=order), key)
            assert z[0].stride() == p[0].stride() if samples else z.stride() == p[0].stride()
            if keep == 4:
                last = value[0] if value.dim() == 5 else value
                assert last.stride() == p[0].stride()
        # Given noise in its own order, and gradients in theirs.
        s = spec(family, samples, 1, order=order)
        eps = noise_for(key, p, s).contiguous()
        torch.testing.assert_close(results(p, s, eps=eps), results(p, s, key))


@QUICK
def test_broadcasting(device, key):
    for shapes in (((4, 3), (3,), (), (4, 1)), ((), (2, 3), (2, 1), (3,)), ((), (), (), ())):
        for samples in (0, 3):
            p = [params("gaussian_prior", s, device=device)[i] for i, s in enumerate(shapes)]
            for keep in {0, min(1, len(torch.broadcast_shapes(*shapes)))}:
                compare(p, spec("gaussian_prior", samples, keep), key)
    p = [params("log_prob", s, torch.bfloat16, device)[i] for i, s in enumerate(((64, 3), (3,)))]
    compare(p, spec("log_prob", 2), key, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("kind", range(5))
@QUICK
def test_scale_kinds(device, key, kind):
    for family in ("gaussian_prior", "log_prob", "tanh_normal"):
        p = params(family, (3, 5), device=device)
        p = [t.detach().abs().add(0.2).requires_grad_() if i % 2 else t for i, t in enumerate(p)]
        compare(p, spec(family, kind=kind), key)


@QUICK
def test_gradients_that_are_expanded_or_missing(device, key):
    for family in ("tanh_normal", "log_prob"):
        for samples in (0, 2):
            p, s = params(family, device=device), spec(family, samples)
            compare(p, s, key, grads=lambda out: [o.new_ones(()).expand(o.shape) for o in out])
            eps = noise_for(key, p, s)
            for i in range(1 + FAMILIES[family].values):
                got, want = (f[i] for f in (results(p, s, key), formula(p, eps, s)))
                (grad,) = cotangents([got])
                for g, w in zip(
                    gradients([got], p, [grad]), gradients([want], p, [grad.double()]), strict=True
                ):
                    torch.testing.assert_close(g, w, rtol=2e-5, atol=2e-5)


def test_only_what_is_needed_is_written(device, key, monkeypatch, no_host_path):
    module = select.pick(device)
    asked = []
    original = module.draw_backward
    monkeypatch.setattr(
        module,
        "draw_backward",
        lambda *a: asked.append([g is not None for g in a[-1]]) or original(*a),
    )
    for needs in ((True, False), (False, True)):
        p = [t.detach().requires_grad_(n) for t, n in zip(params("log_normal"), needs, strict=True)]
        p = [t.to(device) for t in p]
        (draw(p, key, None, spec("log_normal"))[0]).sum().backward()
        assert asked.pop() == list(needs)
    # The gradient of a loc that is added to the rest is the sample's.
    p = params("laplace", device=device)
    for given in ((key, None), (None, torch.ones_like(p[0]))):
        z = draw(p, *given, spec("laplace"))[0]
        (grad,) = cotangents([z])
        to_loc, to_scale = torch.autograd.grad(z, p, grad)
        assert asked.pop() == [False, True]
        assert to_loc.data_ptr() == grad.data_ptr()
        assert to_loc.shape == to_scale.shape == p[0].shape
    for both, written in ((True, [[False, True]]), (False, [])):
        p[1].requires_grad_(both)
        (z,) = draw_short.draw(p, "laplace", 0, 0, (), None, 0, key, None)
        (to_loc,) = torch.autograd.grad(z, p[0], grad)
        assert asked == written
        assert to_loc.data_ptr() == grad.data_ptr()
        asked.clear()


def test_values_alone(device, key):
    p = params("gaussian", device=device)
    compare(p, spec("gaussian", sample=False), key)
    z, (kl,) = draw(p, None, None, spec("gaussian", sample=False))
    assert z.numel() == 0
    assert torch.equal(kl, results(p, spec("gaussian"), key)[1])
    compare(params("mixture", device=device), spec("mixture", 2, sample=False), key)


@pytest.mark.parametrize("samples", [0, 2])
@QUICK
def test_nothing_to_draw(device, key, samples):
    p = [torch.zeros(n, 0, 3, device=device, requires_grad=True) for n in (1, 4)]
    for family in ("tanh_normal", "gaussian"):
        for keep, shape in ((0, ()), (1, (4,)), (3, (4, 0, 3))):
            z, (value,) = draw(p, key, None, spec(family, samples, keep))
            leading = (samples,) if samples else ()
            assert z.shape == (*leading, 4, 0, 3)
            assert value.shape == (*(leading if family == "tanh_normal" else ()), *shape)
            assert value.eq(0).all()
            for t, grad in zip(p, gradients((z, value), p, cotangents((z, value))), strict=True):
                assert grad.shape == t.shape
    assert draw(p, key, None, spec("gaussian", 0, 0, float("nan")))[1][0].isnan()


@pytest.mark.parametrize("reduction", [None, "none", "sample", "sum", "mean", "batchmean", "last"])
@pytest.mark.parametrize("family", ["tanh_normal", "gaussian"])
@QUICK
def test_the_short_way_agrees(device, key, family, reduction):
    p = params(family, (4, 6), device=device)
    for samples in (0, 1, 3):
        s = spec(family, samples)
        keep, weight = kept((4, 6), reduction)
        s = s._replace(keep=keep, weight=weight)
        short = draw_short.draw(
            p, family, s.kind, s.prior_kind, tuple(s.numbers), reduction, samples, key, None
        )
        assert short is not None
        got, want = short, results(p, s, key)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)
        for grads in (cotangents(got), [torch.ones_like(o[..., :1]).expand_as(o) for o in got]
                      if reduction != "sum" and got[-1].dim() else cotangents(got)):  # fmt: skip
            for a, b in zip(
                torch.autograd.grad(got, p, grads, retain_graph=True),
                torch.autograd.grad(want, p, grads, retain_graph=True),
                strict=True,
            ):
                torch.testing.assert_close(a, b)


def test_the_short_way_declines(device, key):
    a, b = (t.detach() for t in params("laplace", (4, 6), device=device))
    call = ("laplace", 0, 0, (), "sum", 0, key, None)
    assert draw_short.draw((a, b), *call) is not None
    declined = (
        (a, b.double()), (a, b[:2]), (a.t(), b.t()), (a, 1.0), (1.0, b), (a[:0], b[:0]),
        (a.int(), b), (a.to_sparse(), b), (a, torch.zeros_like(b, device="meta")),
    )  # fmt: skip
    for p in declined:
        assert draw_short.draw(p, *call) is None


def test_reductions_by_name():
    assert kept((4, 5), None) == (-1, 1.0)
    assert kept((4, 5), "none") == (2, 1.0)
    assert kept((4, 5), "sample") == (1, 1.0)
    assert kept((4, 5), "last") == (1, 1.0)
    assert kept((4, 5), "sum") == (0, 1.0)
    assert kept((4, 5), "mean") == (0, 0.05)
    assert kept((4, 5), "batchmean") == (0, 0.25)
    assert kept((), "sample") == kept((), "last") == (0, 1.0)


A, KEY = torch.ones(2, 3), noise.key(0)
GOOD = ([], "laplace", 0, 0, [], 0, True, 1, 1.0)


def changed(**fields):
    return DrawSpec(*GOOD)._replace(**fields)


@pytest.mark.parametrize(
    ("inputs", "s", "error", "match"),
    [
        ((A, A), changed(family="levy"), ValueError, "family must be one of gaussian, .*'levy'"),
        ((A,), changed(), ValueError, "laplace takes 2 parameters, got 1"),
        ((A, A.double()), changed(), TypeError, "one dtype and device, got torch.float32 on cpu "),
        ((A, A[:, :2]), changed(), RuntimeError, "match|broadcast|size"),
        ((A, A), changed(order=[0]), ValueError, "order must be a permutation"),
        ((A, A), changed(keep=3), ValueError, "keep must be at most 2 dims, got 3"),
        ((A, A), changed(keep=-2), ValueError, "keep must be at least -1, got -2"),
        ((A, A), changed(kind=5), ValueError, r"kind must be in \[0, 5\), got 5"),
        ((A, A), changed(prior_kind=-1), ValueError, r"prior_kind must be in \[0, 5\), got -1"),
        ((A, A), changed(samples=-1), ValueError, "samples must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_of_the_op(inputs, s, error, match):
    padded = (*inputs, *(None,) * (4 - len(inputs)))
    with pytest.raises(error, match=match):
        OP(*padded, KEY, None, *s)


def test_wrong_tensors_of_the_op():
    p = (A, A, None, None)
    for key, eps, s, error, match in (
        (None, None, changed(), ValueError, "takes a key or eps, got neither"),
        (None, A[0], changed(), ValueError, r"eps must have shape \(2, 3\), got \(3,\)"),
        (None, A, changed(samples=2), ValueError, r"eps must have shape \(2, 2, 3\)"),
        (None, A.half(), changed(), TypeError, "eps torch.float16"),
        (KEY.view(torch.int64).float(), None, changed(), TypeError, "uint64"),
        (KEY[:1], None, changed(), ValueError, r"shape \(2,\)"),
    ):
        with pytest.raises(error, match=match):
            OP(*p, key, eps, *s)
    back = torch.ops.fused_reparam.draw_backward
    needs = [True, True, False, False, False]
    for grads, match in (
        ((A[0], None, None), "grad_z must have shape"),
        ((None, A, None), "gradient of value 0 must have shape"),
        ((None, A[:, 0].double(), None), "gradient of value 0 must have shape"),
        ((None, None, A[:, 0]), "has no value 1"),
    ):
        with pytest.raises(ValueError, match=match):
            back(*grads, *p, KEY, None, *changed(), needs)
    empty = back(None, None, None, *p, KEY, None, *changed(), needs)
    assert [g.tolist() for g in empty] == [[[0.0] * 3] * 2] * 2 + [[]] * 3
