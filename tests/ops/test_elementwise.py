"""The element-wise families: numbers, noise, layouts and arguments, on every backend."""

import pytest
import torch

from fused_reparam import noise
from fused_reparam.core import reductions
from fused_reparam.ops.elementwise import Spec, elementwise
from fused_reparam.rng.bases import BASES
from tests.helpers.elementwise_cases import (
    FAMILIES,
    GIVEN,
    QUICK,
    cotangents,
    formula,
    gradients,
    noise_for,
    params,
    results,
    spec,
)
from tests.helpers.formulas import within_twice_the_error
from tests.helpers.loops import where

OPS = torch.ops.fused_reparam
# Of values with a batch dim, of one number each, of each element, and none at all.
EVERY_REDUCTION = (*reductions.OF_OPS, "keep0", "keep2", None)

# Families that between them have every base.
OF_BASES = list({FAMILIES[name].base: name for name in GIVEN}.values())


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


@pytest.mark.parametrize("family", GIVEN)
@QUICK
def test_numbers(device, key, family):
    """Given noise, so that nothing but the arithmetic differs."""
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for samples in (0, 3):
            with where(dtype, samples):
                judge(params(family, (5, 7), dtype, device), spec(family, samples), key)


def judge(p, s, key):
    """At most twice the error of the formula in the same dtype in plain PyTorch."""
    dtype, exact = p[0].dtype, [t.detach().double().requires_grad_() for t in p]
    bound = 2 if s.family == "log_normal" else 20
    eps = noise_for(key, p, s).clamp(-bound, bound).to(dtype)
    got, want, plain = results(p, s, eps=eps), formula(exact, eps, s), formula(p, eps, s, dtype)
    of_z, *of_terms = cotangents(want)
    grads = [g.to(dtype) for g in (of_z, *(0.5 * g for g in of_terms))]  # in every dtype
    outcomes = [
        (*outputs, *gradients(outputs, of, [g.to(o.dtype) for g, o in zip(grads, outputs)]))  # noqa: B905
        for outputs, of in ((got, p), (want, exact), (plain, p))
    ]
    for g, w, h in zip(*outcomes, strict=True):
        # The continuous Bernoulli's slope is a difference over the logits; so is a std's gradient.
        slope = s.family.startswith("continuous_bernoulli") and dtype == torch.float64
        roundings = 128 if slope else {"mixture_density": 4}.get(s.family, 1)
        assert within_twice_the_error(g, w, h, roundings=roundings)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_backend_has_every_family(device, key, family):
    compare(params(family, (3, 5), device=device), spec(family, 2), key)


@pytest.mark.parametrize(
    "family", ["gaussian", "log_prob", "laplace", "tanh_normal", "relaxed_bernoulli"]
)
@QUICK
def test_reductions(device, key, family):
    for reduction in EVERY_REDUCTION:
        with where(reduction):
            for shape in ((3, 4, 5), (6,), ()):
                if reduction and not reductions.is_of_op(reduction, len(shape)):
                    continue
                p = params(family, shape, device=device)
                for samples in (0, 1, 2):
                    s = spec(family, samples, reduction)
                    compare(p, s, key)
                    compare(p, s, key, grads=expanded)


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
    """One definition for every family: the stream in rng/bases.py, in memory order."""
    base = FAMILIES[family].base
    for samples in (0, 3):
        for order in ([], [1, 0]):
            s = spec(family, samples, order=order)
            p = [t.detach() for t in params(family, (3, 7), device=device)]
            number = s.constants[0] if family == "student_t" else 0.0
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


def expanded(outputs):
    """Gradients whose last dim is one number, as those of a sum are."""
    return [g[..., :1].expand_as(g) if g.dim() else g for g in cotangents(outputs)]


VIEWS = {
    "halves": lambda t: torch.cat((t, t), 1).chunk(2, 1)[0],
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda t: t[:1].expand_as(t),
    "no rows": lambda t: t.permute(2, 0, 1).contiguous().permute(1, 2, 0).flip(0),
}


@pytest.mark.parametrize("view", VIEWS)
@QUICK
def test_views(device, key, view):
    for samples in [0, 1, 3]:
        with where(samples):
            for family in ("tanh_normal", "gaussian_prior"):
                leaves = params(family, (3, 4, 5), device=device)
                views = [VIEWS[view](leaves[0]), *leaves[1:]]
                for p in (views, [*views[1:], views[0]]):
                    for reduction in ("sample", "none"):
                        compare(p, spec(family, samples, reduction), key)


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("family", ["gaussian", "tanh_normal"])
@QUICK
def test_memory_orders(device, key, family, samples):
    """channels_last and its like: the dims that a value keeps outermost in memory, or not."""
    for order in ([0, 2, 3, 1], [3, 2, 1, 0]):
        back = [order.index(d) for d in range(4)]
        shape = (2, 3, 4, 5)
        p = params(family, [shape[d] for d in order], device=device)
        p = [t.permute(back) for t in p]
        for reduction in reductions.OF_OPS:
            z, term = compare(p, spec(family, samples, reduction, order=order), key)
            assert z[0].stride() == p[0].stride() if samples else z.stride() == p[0].stride()
            if reduction == "none":
                last = term[0] if term.dim() == 5 else term
                assert last.stride() == p[0].stride()
        # Given noise in its own order, and gradients in theirs.
        s = spec(family, samples, order=order)
        eps = noise_for(key, p, s).contiguous()
        torch.testing.assert_close(results(p, s, eps=eps), results(p, s, key))


@QUICK
def test_broadcasting(device, key):
    for shapes in (((4, 3), (3,), (), (4, 1)), ((), (2, 3), (2, 1), (3,)), ((), (), (), ())):
        for samples in (0, 3):
            p = [params("gaussian_prior", s, device=device)[i] for i, s in enumerate(shapes)]
            for reduction in ("sum", "sample"):
                compare(p, spec("gaussian_prior", samples, reduction), key)
    p = [params("log_prob", s, torch.bfloat16, device)[i] for i, s in enumerate(((64, 3), (3,)))]
    compare(p, spec("log_prob", 2), key, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("kind", range(5))
@QUICK
def test_scale_kinds(device, key, kind):
    for family in ("gaussian_prior", "log_prob", "tanh_normal"):
        p = params(family, (3, 5), device=device)
        p = [t.detach().abs().add(0.2).requires_grad_() if i % 2 else t for i, t in enumerate(p)]
        compare(p, spec(family, kind=kind), key)


@pytest.mark.parametrize("family", ["gaussian", "gaussian_prior", "tanh_normal", "student_t"])
@QUICK
def test_two_parameters_in_one_tensor(device, key, family):
    for samples in [0, 1, 3]:
        with where(samples):
            for dim in range(3):
                for reduction in ("none", "sample"):
                    first, second, *rest = p = params(family, (4, 2, 6), device=device)
                    joined = torch.cat((first, second), dim).detach().requires_grad_()
                    s = spec(family, samples, reduction)
                    want, got = (
                        results(p, s, key),
                        results((joined, *rest), s._replace(split=dim), key),
                    )
                    grads = cotangents(want)
                    of_first, of_second, *others = gradients(want, p, grads)
                    wants = *want, torch.cat((of_first, of_second), dim), *others
                    for g, w in zip(
                        (*got, *gradients(got, (joined, *rest), grads)), wants, strict=True
                    ):
                        torch.testing.assert_close(g, w)


@QUICK
def test_gradients_that_are_expanded_or_missing(device, key):
    for family in ("tanh_normal", "log_prob"):
        for samples in (0, 2):
            p, s = params(family, device=device), spec(family, samples)
            compare(p, s, key, grads=lambda out: [o.new_ones(()).expand(o.shape) for o in out])
            eps = noise_for(key, p, s)
            for i in range(1 + FAMILIES[family].terms):
                got, want = (f[i] for f in (results(p, s, key), formula(p, eps, s)))
                (grad,) = cotangents([got])
                for g, w in zip(
                    gradients([got], p, [grad]), gradients([want], p, [grad.double()]), strict=True
                ):
                    torch.testing.assert_close(g, w, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("family", ["log_normal", "gaussian", "log_prob"])
def test_only_what_is_needed_is_computed(device, key, family):
    p, s = params(family, device=device), spec(family, 2)
    grads = cotangents(results(p, s, key))
    padded = *grads, *(None,) * (3 - len(grads)), *(t.detach() for t in p), None, None
    both = OPS.elementwise_backward(*padded, key, None, *s, [True, True, False, False, False])
    for i in (0, 1):
        needs = [i == j for j in range(5)]
        found = OPS.elementwise_backward(*padded, key, None, *s, needs)
        assert [g.numel() > 0 for g in found] == needs
        torch.testing.assert_close(found[i], both[i])


def test_the_gradient_of_loc_is_the_samples(device, key):
    """Where z is loc and something that does not depend on it, it is the very tensor."""
    p = params("laplace", device=device)
    for given in ((key, None), (None, torch.ones_like(p[0]))):
        for both in (True, False):
            p[1].requires_grad_(both)
            z = elementwise(p, *given, spec("laplace"))[0]
            (grad,) = cotangents([z])
            to_loc, *to_scale = torch.autograd.grad(z, [t for t in p if t.requires_grad], grad)
            assert to_loc.data_ptr() == grad.data_ptr()
            assert all(g.shape == p[1].shape for g in (to_loc, *to_scale))


def test_values_alone(device, key):
    p = params("gaussian", device=device)
    compare(p, spec("gaussian", sample=False), key)
    z, (kl,) = elementwise(p, None, None, spec("gaussian", sample=False))
    assert z.numel() == 0
    assert torch.equal(kl, results(p, spec("gaussian"), key)[1])
    compare(params("mixture", device=device), spec("mixture", 2, sample=False), key)


@pytest.mark.parametrize("samples", [0, 2])
@QUICK
def test_nothing_to_draw(device, key, samples):
    p = [torch.zeros(n, 0, 3, device=device, requires_grad=True) for n in (1, 4)]
    for family in ("tanh_normal", "gaussian"):
        for reduction, shape in (("sum", ()), ("sample", (4,)), ("none", (4, 0, 3))):
            z, (term,) = elementwise(p, key, None, spec(family, samples, reduction))
            leading = (samples,) if samples else ()
            assert z.shape == (*leading, 4, 0, 3)
            assert term.shape == (*(leading if family == "tanh_normal" else ()), *shape)
            assert term.eq(0).all()
            for t, grad in zip(p, gradients((z, term), p, cotangents((z, term))), strict=True):
                assert grad.shape == t.shape
    assert elementwise(p, key, None, spec("gaussian", 0, "mean"))[1][0].isnan()


@pytest.mark.parametrize(
    ("reduction", "dims", "weight"),
    [
        ("none", 2, 1.0), ("sample", 1, 1.0), ("last", 1, 1.0), ("sum", 0, 1.0), ("mean", 0, 0.05),
        ("batchmean", 0, 0.25),
    ],
)  # fmt: skip
def test_reductions_by_name(reduction, dims, weight):
    assert reductions.kept_dims(2, reduction) == dims
    assert reductions.factor((4, 5), reduction) == weight
    assert reductions.kept_dims(0, reduction) == 0
    assert reductions.factor((), reduction) == 1.0


A, KEY = torch.ones(2, 3), noise.key(0)


def changed(**fields):
    good = Spec([], "laplace", 0, 0, [], 0, True, "sample")
    return good._replace(**fields)


@pytest.mark.parametrize(
    ("inputs", "s", "error", "match"),
    [
        ((A, A), changed(family="levy"), ValueError, "family must be one of .*gaussian, .*'levy'"),
        ((A,), changed(), ValueError, "laplace takes 2 parameters, .*, got 1"),
        ((A, None, A), changed(), ValueError, "the first of p0, p1, .*got 2, not the first"),
        ((A,), changed(split=0, constants=[1.0]), ValueError, "laplace takes 0 constants, got 1"),
        (
            (A, A),
            changed(split=1),
            ValueError,
            "takes 1 parameters, the first of p0, p2, p3, got 2",
        ),
        ((A,), changed(split=1), ValueError, r"even size .*got dim 1 of shape \(2, 3\)"),
        ((A,), changed(split=2), ValueError, r"even size .*got dim 2 of shape \(2, 3\)"),
        ((A,), changed(split=-2), ValueError, "split must be -1, or a dim .*got -2"),
        ((A, A.double()), changed(), TypeError, "one dtype and device, got torch.float32 on cpu "),
        ((A, A.to("meta")), changed(), TypeError, "a parameter torch.float32 on meta"),
        ((A, A[:, :2]), changed(), RuntimeError, "match|broadcast|size"),
        ((A, A), changed(order=[0]), ValueError, "order must be a permutation"),
        ((A, A), changed(reduction="avg"), ValueError, "unknown reduction 'avg'"),
        ((A, A), changed(kind=5), ValueError, r"kind must be in \[0, 5\), got 5"),
        ((A, A), changed(prior_kind=-1), ValueError, r"prior_kind must be in \[0, 5\), got -1"),
        ((A, A), changed(samples=-1), ValueError, "samples must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_of_the_op(inputs, s, error, match):
    padded = (*inputs, *(None,) * (4 - len(inputs)))
    with pytest.raises(error, match=match):
        OPS.elementwise(*padded, KEY, None, *s)


def test_wrong_tensors_of_the_op():
    p = (A, A, None, None)
    for key, eps, s, error, match in (
        (None, None, changed(), ValueError, "takes a key or eps, got neither"),
        (None, A[0], changed(), ValueError, r"eps must have shape \(2, 3\), got \(3,\)"),
        (None, A, changed(samples=2), ValueError, r"eps must have shape \(2, 2, 3\)"),
        (None, A.half(), changed(), TypeError, "eps torch.float16"),
        (KEY.view(torch.int64).float(), None, changed(), TypeError, "uint64"),
        (KEY[:1], None, changed(), ValueError, r"shape \(2,\)"),
        (KEY[:0], None, changed(), ValueError, r"got shape \(0,\)"),
    ):
        with pytest.raises(error, match=match):
            OPS.elementwise(*p, key, eps, *s)
    back = OPS.elementwise_backward
    needs = [True, True, False, False, False]
    with pytest.raises(TypeError, match=r"grad_z torch\.float64"):
        back(A.double(), None, None, *p, KEY, None, *changed(), needs)
    for grads, match in (
        ((A[0], None, None), "grad_z must have shape"),
        ((None, A, None), "gradient of term 0 must have shape"),
        ((None, A[:, 0].double(), None), "gradient of term 0 must have shape"),
        ((None, None, A[:, 0]), "has no term 1"),
    ):
        with pytest.raises(ValueError, match=match):
            back(*grads, *p, KEY, None, *changed(), needs)
    with pytest.raises(ValueError, match="needs must have 5 entries, got 3"):
        back(A, None, None, *p, KEY, None, *changed(), [True, True, False])
    with pytest.raises(ValueError, match="gradient of eps, but eps is None"):
        back(A, None, None, *p, KEY, None, *changed(), [True] * 5)
    empty = back(None, None, None, *p, KEY, None, *changed(), needs)
    assert [g.tolist() for g in empty] == [[[0.0] * 3] * 2] * 2 + [[]] * 3
