"""The Gumbel-softmax: numbers, noise, layouts and extremes, on every backend."""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from fused_reparam import gumbel_softmax, noise
from fused_reparam.backends import dispatch
from fused_reparam.families.categorical import HARD, ONE_HOT, SOFT
from tests.helpers.elementwise_cases import QUICK, cotangents
from tests.helpers.formulas import DTYPES
from tests.helpers.loops import where
from tests.helpers.softmax_cases import (
    CASES,
    Case,
    assert_one_hot,
    compare,
    composition,
    exact,
    gradient,
    judge,
    logits_of,
    noise_of,
    own_noise,
    run,
)

CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
CLASSES = (1, 2, 3, 10, 33, 257, 1000)
INNER = (1, 2, 3, 7, 16, 49, 64, 100, 256)
INF, NAN = math.inf, math.nan


@pytest.fixture
def key(device):
    return noise.key(7, 2**32 - 5, device=device)


def shape_of(classes, inner):
    """(O, C, I) with few elements and, in turn, one row, two, three and five."""
    outer = (1, 2, 3, 5)[(classes + inner) % 4] if classes * inner < 20_000 else 1
    return outer, classes, inner


@CASE
@DTYPE
def test_numbers(device, dtype, case):
    for shape, dim in (((5, 7), -1), ((2, 5, 3, 4), 1), ((3, 2), 0)):
        with where(shape):
            judge(case, logits_of(shape, dtype, device), noise_of(shape, dtype, device), dim)


@DTYPE
@QUICK
def test_numbers_of_every_shape(device, dtype):
    for classes, inner in product(CLASSES, INNER):
        shape = shape_of(classes, inner)
        logits, given = logits_of(shape, dtype, device), noise_of(shape, dtype, device)
        for case in CASES.values() if inner in (1, 3, 16) else (CASES["hard"],):
            with where(shape, case):
                judge(case, logits, given, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_numbers_of_every_instruction_set(isa, dtype):
    with dispatch.backend("native"):
        for shape in ((3, 257, 1), (2, 33, 7), (1, 10, 64), (2, 3, 100), (9, 2, 1), (5, 1, 3)):
            logits, given = logits_of(shape, dtype), noise_of(shape, dtype)
            for case in CASES.values():
                judge(case, logits, given, 1)
            compare(CASES["soft"], logits, noise.key(3), 1, rtol=1e-2, atol=1e-2)
            if dtype != torch.bfloat16:
                compare(CASES["unimix"], logits, noise.key(3), 1)


@QUICK
def test_noise_is_the_gumbel_stream_in_memory_order(device, key):
    for classes, inner in product(CLASSES, INNER):
        shape = shape_of(classes, inner)
        for name in ("soft", "hard", "unimix"):
            with where(shape, name):
                compare(CASES[name], logits_of(shape, device=device), key, 1)


@CASE
def test_every_backend_takes_keys(device, key, case):
    compare(case, logits_of((3, 10), device=device), key)
    compare(case, logits_of((2, 5, 6), torch.float64, device), key, 1, rtol=1e-9, atol=1e-9)


@QUICK
def test_half_precision_noise_is_not_rounded(device, key):
    """The tail of the noise holds in 16 bits: it is drawn in float32."""
    for dtype in (torch.float16, torch.bfloat16):
        logits = logits_of((300, 33), dtype, device)
        y, _ = run(CASES["hard"], logits, key)
        assert_one_hot(y, exact(CASES["hard"], logits, own_noise(key, logits))[2])
        y, _ = run(CASES["soft"], logits, key)
        want = exact(CASES["soft"], logits, own_noise(key, logits))[1]
        torch.testing.assert_close(y.double(), want, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(("shape", "dim"), [((2, 65_536), 1), ((1, 65_536, 3), 1), ((70_001,), 0)])
@QUICK
def test_long_rows(device, key, shape, dim):
    logits = logits_of(shape, device=device)
    with torch.no_grad():
        logits.select(dim, -2).add_(9.0)  # the largest comes late
    for name in ("soft", "hard", "unimix"):
        compare(CASES[name], logits, key, dim)


@QUICK
def test_dims(device, key):
    """Any dim holds the classes; negative ones count from the end."""
    shape = (3, 4, 5, 6)
    for dim in (*range(-4, 4),):
        y, kl = compare(CASES["soft"], logits_of(shape, device=device), key, dim)
        assert kl.shape == torch.Size(n for i, n in enumerate(shape) if i != dim % 4)
        torch.testing.assert_close(y.sum(dim), torch.ones_like(y.sum(dim)))


VIEWS = {
    "upper half": lambda t: torch.cat((t, t), 1).chunk(2, 1)[1],
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "classes last in memory": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "one batch for all": lambda t: t[:1].expand_as(t),
    "one column for all": lambda t: t[..., :1].expand_as(t),
    "one class for all": lambda t: t[:, :1].expand_as(t),
    "one number": lambda t: t.flatten()[0].expand_as(t),
    "no rows": lambda t: t.permute(2, 0, 1).contiguous().permute(1, 2, 0).flip(0),
}


@pytest.mark.parametrize("view", VIEWS)
@QUICK
def test_views(device, key, view):
    """Of the logits and of y's gradient, each with every layout of the other."""
    for shape in ((3, 6, 5), (2, 8, 16)):
        leaf = logits_of(shape, device=device)
        for name in ("soft", "hard", "one hot"):
            compare(CASES[name], VIEWS[view](leaf), key, 1)
            compare(CASES[name], leaf, key, 1, grads=lambda out: (
                VIEWS[view](cotangents(out)[0]), cotangents(out)[1]
            ))  # fmt: skip
        compare(CASES["unimix"], VIEWS[view](leaf), key, 1, grads=lambda out: (
            VIEWS[view](cotangents(out)[0]), cotangents(out)[1][0].expand_as(out[1])
        ))  # fmt: skip


@pytest.mark.parametrize("dim", range(4))
@QUICK
def test_memory_orders(device, key, dim):
    """channels_last and its like: outputs and gradient keep the logits' order."""
    shape = (2, 3, 4, 5)
    for order in ([0, 2, 3, 1], [3, 2, 1, 0], [1, 0, 3, 2]):
        back = [order.index(d) for d in range(4)]
        logits = logits_of([shape[d] for d in order], device=device).permute(back).detach()
        logits.requires_grad_()
        for name in ("soft", "hard", "one hot"):
            y, kl = compare(CASES[name], logits, key, dim)
            assert y.stride() == logits.stride()
            assert kl.stride() == torch.empty_like(logits.select(dim, 0)).stride()
            assert torch.autograd.grad(y.sum(), logits)[0].stride() == logits.stride()
        given = noise_of(shape, device=device)
        want = run(CASES["soft"], logits, noise=given.contiguous(), dim=dim)
        got = run(CASES["soft"], logits.contiguous(), noise=given, dim=dim)
        torch.testing.assert_close(got, want)


@QUICK
def test_expanded_gradients_and_parts(device, key):
    logits = logits_of((3, 10, 4), device=device)
    for case in CASES.values():
        compare(case, logits, key, 1, grads=lambda out: [o.new_ones(()).expand_as(o) for o in out])
        for part in (0, 1):
            compare(case, logits, key, 1,
                    grads=lambda out, p=part: [g if i == p else None
                                               for i, g in enumerate(cotangents(out))])  # fmt: skip
        (y,) = run(case, logits, key, dim=1, want_kl=False)
        both = run(case, logits, key, dim=1)
        assert torch.equal(y, both[0])
        (kl,) = run(case, logits, dim=1, want_y=False)
        torch.testing.assert_close(kl, both[1], rtol=1e-6, atol=1e-6)
        (grad,) = cotangents((kl,))
        torch.testing.assert_close(
            gradient((kl,), logits, (grad,)), gradient(both, logits, (None, grad))
        )


@QUICK
def test_nothing_to_draw(device, key, monkeypatch):
    for name in ("softmax_forward", "softmax_backward"):
        monkeypatch.delattr(dispatch.pick(device), name)  # a backend gets at least one element
    for shape, dim in (((0, 3), 1), ((2, 3, 0), 1), ((4, 0), 0), ((0, 0, 5), 2)):
        logits = torch.zeros(shape, device=device, requires_grad=True)
        for case in CASES.values():
            y, kl = run(case, logits, key, dim=dim)
            assert y.shape == shape
            assert kl.numel() == 0
            assert kl.shape == logits.sum(dim).shape
            assert torch.autograd.grad(y.sum() + kl.sum(), logits)[0].shape == shape


@pytest.mark.parametrize("shape", [(4, 1), (2, 1, 5), (1,)])
def test_one_class(device, key, shape):
    dim = min(1, len(shape) - 1)
    logits = logits_of(shape, device=device, scale=50.0)
    for case in CASES.values():
        y, kl = run(case, logits, key, dim=dim)
        assert (y == 1).all()
        assert (kl == 0).all()
        assert (gradient((y, kl), logits, cotangents((y, kl))) == 0).all()


def test_of_equal_scores_the_first_is_drawn(device):
    for shape in ((3, 33), (2, 5, 4), (1, 300), (1, 40, 16)):
        zeros = torch.zeros(shape, device=device)
        for case in (CASES["hard"], CASES["one hot"], CASES["unimix"]):
            for first, last in ((0, shape[1]), (1, shape[1]), (2, 4)):
                logits = zeros.clone()
                logits[:, first:last] = 1.5
                (y,) = run(case, logits, noise=zeros, dim=1, want_kl=False)
                assert (y[:, first] == 1).all()
                assert y.sum() == zeros[:, 0].numel()


@CASE
def test_hards_gradient_is_softs_and_the_largest_is_drawn(device, key, case):
    logits = logits_of((3, 10), device=device)
    given = cotangents((logits,))
    (soft,) = run(Case(SOFT, case.tau), logits, key, want_kl=False)
    (hard,) = run(Case(HARD, case.tau), logits, key, want_kl=False)
    assert torch.equal(hard.argmax(-1), soft.argmax(-1))
    torch.testing.assert_close(
        gradient((hard,), logits, given), gradient((soft,), logits, given), rtol=1e-6, atol=1e-7
    )
    (y,) = run(case, logits, key, want_kl=False)
    score = exact(case, logits, own_noise(key, logits))[2]
    assert torch.equal(y.argmax(-1), score.argmax(-1))


@QUICK
def test_names_defaults_and_meaning_are_pytorchs(device, key, monkeypatch):
    """With our noise in place of the exponential numbers that it draws."""
    logits = logits_of((3, 5, 4), device=device)
    drawn = torch.exp(-own_noise(key, logits))
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda _: drawn)
    for options in ({}, {"tau": 2, "dim": 0}, {"tau": 0.5, "hard": True}, {"hard": True, "dim": 1}):
        found = []
        for y in (gumbel_softmax(logits, **options, key=key), F.gumbel_softmax(logits, **options)):
            found += [y, gradient((y,), logits, cotangents((y,)))]
        torch.testing.assert_close(found[:2], found[2:], rtol=2e-5, atol=1e-5)


@DTYPE
def test_classes_that_are_never_drawn(device, key, dtype):
    """A logit of -inf has no share and no gradient; the rest is what it is without it."""
    logits = logits_of((8, 11), dtype, device).detach()
    logits[:, 1::2] = -INF
    logits[0, 1:] = -INF  # one class left
    logits.requires_grad_()
    given = noise_of((8, 11), dtype, device)
    for case in CASES.values():
        y, kl = run(case, logits, noise=given)
        _, want_y, score, want_kl = exact(case, logits, given)
        close = {"rtol": 5e-6 if dtype.itemsize > 2 else 2e-2, "atol": 1e-6}
        torch.testing.assert_close(y.double(), want_y.detach(), **close)
        torch.testing.assert_close(kl.double(), want_kl.detach(), rtol=5e-6, atol=1e-6)
        grads = [g.to(dtype) for g in cotangents((want_y, want_kl))]
        if case.mode == ONE_HOT:
            assert_one_hot(y, score)
        found = gradient((y, kl), logits, grads)
        if not case.unimix:
            assert (y[:, 1::2] == 0).all()
        assert (found[:, 1::2] == 0).all()
        right = composition_gradient(case, logits, given, grads)
        torch.testing.assert_close(found.double(), right, rtol=close["rtol"], atol=2e-2)


def composition_gradient(case, logits, given, grads):
    """Autograd's in float64, where -inf classes are left out by hand."""
    leaf = logits.detach().double().clamp_min(-1e4).requires_grad_()
    y, _, kl = composition(case, leaf, given.double())
    return gradient((y, kl), leaf, grads).masked_fill(logits == -INF, 0.0)


@CASE
def test_nan_stays_in_its_row(device, key, case):
    """Of a NaN among the logits, of one that is infinite, and of a row that is -inf throughout."""
    shapes = (((4, 33), 1), ((2, 6, 8), 1), ((7, 3), 0), ((3, 1), 1))
    for bad, (shape, dim) in product((NAN, INF, -INF), shapes):
        clean = logits_of(shape, device=device)
        logits, spoilt = clean.detach().clone(), torch.zeros(shape, dtype=torch.bool, device=device)
        spoilt.movedim(dim, -1)[-1] = True
        logits.movedim(dim, -1)[-1, ..., slice(None) if bad == -INF else -1] = bad
        logits.requires_grad_()
        got, want = (run(case, t, key, dim=dim) for t in (logits, clean))
        given = cotangents(got)
        rows = (got[0], gradient(got, logits, given)), (want[0], gradient(want, clean, given))
        for a, b in zip(*rows, strict=True):
            assert a[spoilt].isnan().all()
            assert torch.equal(a[~spoilt], b[~spoilt])
        assert torch.equal(got[1].isnan(), spoilt.select(dim, 0))


@QUICK
def test_logits_may_be_far_from_zero(device, key):
    """The same number on all of a row's logits changes nothing, whatever its size."""
    for dtype, far in ((torch.float32, (1e8, -1e30, 3.4e38)), (torch.float64, (1e18, -1.7e308)),
                       (torch.float16, (6e4,)), (torch.bfloat16, (-3e38,))):  # fmt: skip
        zeros = torch.zeros(5, 33, dtype=dtype, device=device)
        for case in CASES.values():
            want = run(case, zeros, key)
            for size in far:
                got = run(case, torch.full_like(zeros, size), key)
                torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@DTYPE
def test_extremes(device, dtype):
    """The ends of the logits, of the noise and of the temperature, in every combination."""
    most, least = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    ends = torch.tensor([most, -most, 0.0, most / 2, -3.2, least], dtype=dtype, device=device)
    rows = [ends, ends.flip(0), 0 * ends, -ends.abs(), ends.roll(3), -most + 0 * ends]
    logits = torch.stack(rows).requires_grad_()
    low, high = (-3.1, 22.9) if dtype != torch.float64 else (-3.81, 44.4)
    given = torch.tensor([high, low, 0.0, high, low, low], dtype=dtype, device=device)
    given = torch.stack([given.roll(i) for i in range(6)])
    cases = [Case(mode, tau) for mode in (SOFT, HARD) for tau in (2.0**-126, 1e-3, 1.0, 1e30)]
    for case in (*cases, *(Case(ONE_HOT, 1.0, u) for u in (0.0, 1e-45, 0.99))):
        y, kl = run(case, logits, noise=given)
        leaf, want_y, score, want_kl = exact(case, logits, given)
        close = {"rtol": 1e-5 if dtype.itemsize > 2 else 1e-2, "atol": 1e-6}
        torch.testing.assert_close(kl.double(), want_kl.detach(), rtol=1e-5, atol=1e-6)
        if case.mode != SOFT:
            assert_one_hot(y, score, slack=1e-6)
        elif case.tau >= 1.0:
            torch.testing.assert_close(y.double(), want_y.detach(), **close)
        assert y.isfinite().all()
        assert ((y.double().sum(-1) - 1.0).abs() < close["rtol"]).all()
        grads = cotangents((y, kl))
        found = gradient((y, kl), logits, grads)
        assert not found.isnan().any()
        if case.tau >= 1.0:
            right = gradient((want_y, want_kl), leaf, grads)
            torch.testing.assert_close(found.double(), right.nan_to_num(0.0), rtol=2e-2, atol=2e-2)


@QUICK
def test_temperatures(device):
    """Within the design's rule at any tau; beyond 2^-126 and 2^126 it is taken as that."""
    logits, given = logits_of((4, 33), device=device), noise_of((4, 33), device=device)
    for tau in (0.01, 0.1, 5.0, 1e4):
        for mode in (SOFT, HARD):
            judge(Case(mode, tau), logits, given)
    for tau in (1e-38, 1e-45, 1e-300):
        y, _ = run(Case(SOFT, tau), logits, noise=given)
        assert torch.equal(y, run(CASES["hard"], logits, noise=given)[0])
        assert (gradient((y,), logits, cotangents((y,))) == 0).all()
    for tau in (1e30, 1e300):
        y, _ = run(Case(SOFT, tau), logits, noise=given)
        torch.testing.assert_close(y, torch.full_like(y, 1 / 33), rtol=1e-6, atol=0)
        assert gradient((y,), logits, cotangents((y,))).abs().max() < 1e-29


def test_only_what_is_wanted_is_asked_of_a_backend(device, key, monkeypatch, no_extension):
    """The soft values of a hard y where there is a gradient, the logits where they are read."""
    module = dispatch.pick(device)
    asked = []
    for name, parts in (("softmax_forward", slice(6, 9)), ("softmax_backward", slice(3, 7))):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name,
            lambda *a, f=original, s=parts: asked.append([t is not None for t in a[s]]) or f(*a),
        )  # fmt: skip
    logits = logits_of((2, 3), device=device)
    for name, want_kl, wanted in (
        ("soft", True, [True, False, True]),
        ("one hot", False, [True, False, False]),
        ("hard", False, [True, True, False]),
    ):
        outputs = run(CASES[name], logits, key, want_kl=want_kl)
        assert asked.pop() == wanted
        gradient(outputs[:1], logits, cotangents(outputs[:1]))
        assert asked.pop() == [True, False, True, name != "one hot"]
    run(CASES["hard"], logits.detach(), key, want_kl=False)
    assert asked == [[True, False, False]]
