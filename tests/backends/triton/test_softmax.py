"""The Triton backend's Gumbel-softmax against the formulas in float64.

Without a GPU the kernels run in Triton's interpreter on CPU tensors; with one, on the GPU.
"""

from __future__ import annotations

import math

import pytest
import torch

from fused_reparam import noise as noise_module
from fused_reparam.backends import triton as backend
from fused_reparam.backends.reference import softmax as rows
from fused_reparam.families.categorical import HARD, ONE_HOT, SOFT, formula
from tests.helpers.triton_truth import (
    DEVICE,
    DTYPES,
    check,
    guarded,
    make_key,
    needs_backend,
    philox_words,
    unit_roundoff,
    untouched,
    values,
)

np = pytest.importorskip("numpy")
pytestmark = [
    needs_backend,
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]
SEED, OFFSET = 0x123456789ABCDEF, 2**32 - 3
NOISE_ERROR = 4e-6


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def gumbel64(seed: int, offset: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    """The Gumbel stream, each formula evaluated in float64 from the words themselves."""
    lanes = 2 if dtype == torch.float64 else 4
    words = [w.astype(np.float64) for w in philox_words(seed, offset, -(-n // lanes))]
    if lanes == 2:
        pairs = [(words[i], words[i + 1]) for i in (0, 2)]
        below = [(high * 2.0**32 + low) * 2.0**-64 + 2.0**-65 for high, low in pairs]
        above = [(2.0**32 - 1 - h) * 2.0**-32 + (2.0**32 - 0.5 - w) * 2.0**-64 for h, w in pairs]
    else:
        below = [(w + 0.5) * 2.0**-32 for w in words]
        above = [(2.0**32 - 0.5 - w) * 2.0**-32 for w in words]
    log_u = [np.where(v < 0.5, np.log(v), np.log1p(-w)) for v, w in zip(below, above, strict=True)]
    return torch.from_numpy(np.stack([-np.log(-x) for x in log_u], axis=1).reshape(-1)[:n])


def output(shape, dtype: torch.dtype):
    """(NaNs of this shape, a check that nothing around them was written)."""
    n = math.prod(shape)
    flat, buffer = guarded(n, dtype)
    return flat.view(shape), lambda: untouched(buffer, n)


def logits_of(shape, dtype: torch.dtype, scale: float = 2.0, seed: int = 1) -> torch.Tensor:
    return (scale * values(math.prod(shape), torch.float64, seed)).to(dtype).view(shape).to(DEVICE)


def run(mode, logits, *, tau=0.7, unimix=0.0, noise=None, key=None, with_y=True, with_soft=None,
        with_kl=True):  # fmt: skip
    """(y, soft, kl) of the backend; what isn't asked for is None."""
    shape, dtype = logits.shape, logits.dtype
    with_soft = mode == HARD and with_y if with_soft is None else with_soft
    wanted = [
        output(shape, dtype) if with_y else None,
        output(shape, dtype) if with_soft else None,
        output((shape[0], shape[2]), accumulator(dtype)) if with_kl else None,
    ]
    out = [None if w is None else w[0] for w in wanted]
    if key is None and noise is None and with_y:
        key = make_key(SEED, OFFSET)
    backend.softmax_forward(mode, tau, unimix, logits, key, noise, *out)
    assert all(w is None or w[1]() for w in wanted)
    return out


def truth(mode, logits, *, tau=0.7, unimix=0.0, noise=None):
    """(y, soft, kl, noise used) in float64."""
    if noise is None:
        noise = gumbel64(SEED, OFFSET, logits.numel(), logits.dtype).view(logits.shape)
    noise = noise.cpu().double()
    y, soft, kl = formula(logits.cpu().double(), noise, mode, tau, unimix)
    return y, soft, kl, noise


def run_and_check(mode, logits, *, tau=0.7, unimix=0.0, noise=None, **wanted) -> None:
    y, soft, kl = run(mode, logits, tau=tau, unimix=unimix, noise=noise, **wanted)
    want_y, want_soft, want_kl, used = truth(mode, logits, tau=tau, unimix=unimix, noise=noise)
    dtype = logits.dtype
    u = unit_roundoff(accumulator(dtype))
    # A relative error of exp(t) is an absolute error of t: the score's, and a rounding of t.
    off = 4 * u * used.abs() + (NOISE_ERROR if noise is None and dtype != torch.float64 else 0.0)
    for got, want in ((y if mode == SOFT else None, want_y), (soft, want_soft)):
        if got is not None:
            steps = -torch.log(want.clamp(min=1e-300))
            tolerance = want * (2 * off.max() / tau + 4 * u * (steps + 4))
            tolerance += unit_roundoff(dtype) * 1.01 * want + torch.finfo(dtype).tiny
            check("soft", got, want, tolerance)
    if y is not None and mode != SOFT:
        assert torch.equal(y.cpu().double(), want_y.round())
    if kl is not None:
        check("kl", kl, want_kl, 4 * u * (1 + math.log(logits.shape[1])) + 0 * want_kl)


def check_backward(mode, logits, *, tau=0.7, unimix=0.01, grads=(True, True), grad_y=None) -> None:
    shape, dtype = logits.shape, logits.dtype
    compute = accumulator(dtype)
    soft = torch.softmax(logits_of(shape, torch.float64, seed=2), 1).to(dtype)
    soft = soft if mode != ONE_HOT and grads[0] else None
    if grads[0] and grad_y is None:
        grad_y = logits_of(shape, dtype, seed=3)
    grad_kl = logits_of((shape[0], shape[2]), compute, seed=4) if grads[1] else None
    out, clean = output(shape, dtype)
    backend.softmax_backward(mode, tau, unimix, grad_y, grad_kl, logits, soft, out)
    assert clean()
    up = [None if t is None else t.cpu().double() for t in (grad_y, grad_kl, logits, soft)]
    want = torch.empty(shape, dtype=torch.float64)
    rows.softmax_backward(mode, tau, unimix, *up, want)
    u = unit_roundoff(compute)
    size = 0.0 * want
    if grads[0]:
        part = torch.softmax(up[2], 1) if mode == ONE_HOT else up[3]
        factor = 1.0 if mode == ONE_HOT else 1 / tau
        size = factor * part * (up[0].abs() + (part * up[0].abs()).sum(1, keepdim=True))
    if grads[1]:
        p = torch.softmax(up[2], 1)
        size = size + up[1].abs().unsqueeze(1) * p * (1 - torch.log(p.clamp(min=1e-300)))
        size = size + up[1].abs().unsqueeze(1) * p * math.log(shape[1])
    tolerance = 16 * u * size + unit_roundoff(dtype) * 1.01 * want.abs() + torch.finfo(dtype).tiny
    check("grad_logits", out, want, tolerance)


ROWS = [(5, 7, 1), (2, 1000, 1), (70, 3, 1), (3, 1, 1), (2, 64, 1)]
COLUMNS = [(2, 3, 8), (1, 33, 12), (3, 4, 5), (2, 1, 3), (2, 6, 36)]


@pytest.mark.parametrize("shape", ROWS + COLUMNS, ids=str)
def test_shapes(shape):
    logits = logits_of(shape, torch.float32)
    for mode in (HARD, ONE_HOT):
        run_and_check(mode, logits, unimix=0.05)
        check_backward(mode, logits)
    run_and_check(SOFT, logits)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.float32], ids=str)
@pytest.mark.parametrize(
    "shape", [(3, 24, 1), (2, 11, 1), (2, 5, 8), (2, 5, 4), (2, 3, 3)], ids=str
)
def test_dtypes(shape, dtype):
    logits = logits_of(shape, dtype)
    run_and_check(HARD, logits)  # its soft is SOFT's y
    run_and_check(ONE_HOT, logits, unimix=0.05)
    check_backward(HARD, logits)


@pytest.fixture
def small_programs(monkeypatch):
    """Chunks for rows that are not long: a program holds 512 elements."""
    from fused_reparam.backends.triton import softmax

    monkeypatch.setattr(softmax, "_MOST_WARPS", 4)
    monkeypatch.setattr(softmax, "_PER_THREAD", {2: 8, 4: 4, 8: 2})
    caches = (softmax._forward, softmax._backward)
    for cache in caches:
        cache.cache_clear()
    yield
    assert softmax.tile_of((2, 1301, 1), 4, 32).chunks > 1
    assert softmax.tile_of((1, 150, 8), 4, 32).chunks > 1
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(
    ("shape", "dtype", "modes"),
    [
        ((1, 1301, 1), torch.float32, (SOFT, HARD, ONE_HOT)),
        ((1, 1024, 1), torch.float32, (HARD,)),
        ((1, 150, 8), torch.float32, (SOFT, HARD, ONE_HOT)),
        ((1, 150, 6), torch.float32, (HARD,)),
        ((2, 300, 1), torch.float64, (HARD,)),
        ((1, 100, 16), torch.bfloat16, (HARD, ONE_HOT)),
    ],
    ids=str,
)
def test_rows_longer_than_a_program(small_programs, shape, dtype, modes):
    logits = logits_of(shape, dtype)
    logits[:, -3] += 4  # the largest comes late: earlier sums move
    for mode in modes:
        run_and_check(mode, logits, unimix=0.05)
        check_backward(mode, logits)
    run_and_check(HARD, logits, with_soft=False, with_kl=False)


def test_rows_of_65537_classes():
    run_and_check(SOFT, logits_of((1, 65537, 1), torch.float32))


@pytest.mark.parametrize("mode", [SOFT, HARD, ONE_HOT])
def test_missing_parts(small_programs, mode):
    for shape in ((2, 20, 1), (1, 130, 8)):
        logits = logits_of(shape, torch.float32)
        run_and_check(mode, logits, with_kl=False)
        check_backward(mode, logits, grads=(True, False))
        check_backward(mode, logits, grads=(False, True))
    run_and_check(mode, logits, with_y=False)


def test_strides():
    """Logits and gradients that are read where they lie: every form of `softmax_tiles`."""
    from fused_reparam.backends.triton import softmax
    from fused_reparam.backends.triton.kernels import softmax_tiles

    half = logits_of((3, 48, 1), torch.float32)[:, 24:]
    swapped = logits_of((7, 3, 1), torch.float32).transpose(0, 1)
    upper = logits_of((2, 10, 8), torch.float32)[:, 5:]
    channels_last = logits_of((2, 8, 5), torch.float32).transpose(1, 2)
    same = logits_of((1, 6, 1), torch.float32).expand(4, 6, 8)
    odd_half = logits_of((2, 18, 1), torch.float32)[:, 9:]
    forms = set()
    for logits in (half, swapped, upper, channels_last, same, odd_half):
        shape = tuple(logits.shape)
        cut = softmax.tile_of(shape, 4, 32)
        forms.add((cut.inner, softmax._form(shape, logits.stride(), cut)))
        run_and_check(SOFT, logits)
        check_backward(SOFT, logits, grad_y=logits)
    for logits in (half, same):
        ones = torch.ones((), device=DEVICE).expand(logits.shape)
        check_backward(SOFT, logits, grad_y=ones)
    strided = (softmax_tiles.WIDE.value, softmax_tiles.STRIDED.value)
    assert {(inner, form) for inner in (0, 2) for form in strided} <= forms


@pytest.mark.parametrize("mode", [HARD, ONE_HOT])
@pytest.mark.parametrize("shape", [(2, 9, 1), (1, 600, 1), (1, 6, 4)], ids=str)
def test_huge_logits(small_programs, shape, mode):
    """Differences overflow float32; the results are those of the exact ones."""
    logits = logits_of(shape, torch.float32)
    logits[:, 0], logits[:, -2], logits[:, -1] = -3.4e38, 3.4e38, 3.0e38
    run_and_check(mode, logits, unimix=0.0)
    check_backward(mode, logits, grads=(True, True))
    logits = torch.full(shape, -3.4028234663852886e38, device=DEVICE)
    run_and_check(mode, logits, unimix=0.0)
    logits[:, 2] = 1e8  # float32's next number is 8 away: the noise must not be lost in it
    logits[:, 4] = 1e8
    run_and_check(mode, logits, unimix=0.0)


@pytest.mark.parametrize("mode", [SOFT, HARD, ONE_HOT])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_never_nan(dtype, mode):
    """The ends of the logits, of the temperature and of the noise, together."""
    most = torch.finfo(dtype).max
    ends = torch.tensor([most, -most, 0.0, most / 2, -3.2, 1.0], dtype=dtype)
    logits = torch.stack([ends, ends.flip(0), 0 * ends, ends.roll(3)])[:, :, None].to(DEVICE)
    g = torch.tensor([22.9, -3.14, 0.0, 22.9, -3.14, -3.14], dtype=dtype).repeat(4, 1)
    for tau in (1.1754943508222875e-38, 1e-3, 1e38):
        for unimix in (0.0, 1e-45, 0.99) if mode == ONE_HOT else (0.0,):
            found = run(mode, logits, tau=tau, unimix=unimix, noise=g[:, :, None].to(DEVICE))
            for out in found:
                assert out is None or out.isfinite().all()
            sums = found[0].double().sum(1)
            assert ((sums - 1).abs() < 8 * unit_roundoff(dtype)).all()


def test_gradient_at_the_least_temperature():
    """1 / tau times a difference overflows; times a share of zero it is nothing."""
    soft = torch.tensor([1.0, 0.0, 0.0], device=DEVICE)[None, :, None]
    grad_y = torch.tensor([0.0, 30.0, -30.0], device=DEVICE)[None, :, None]
    out = torch.full_like(soft, math.nan)
    backend.softmax_backward(SOFT, 2.0**-126, 0.0, grad_y, None, soft, soft, out)
    assert out.flatten().tolist() == [0.0, 0.0, 0.0]


def test_temperatures():
    logits = logits_of((3, 10, 1), torch.float32)
    for tau in (0.01, 0.1, 5.0, 1e4):
        run_and_check(SOFT, logits, tau=tau)


def test_of_equal_scores_the_first_is_drawn(small_programs):
    for shape in ((2, 11, 1), (1, 600, 1), (1, 9, 4), (1, 150, 8)):
        zeros = torch.zeros(shape, device=DEVICE)
        for mode, unimix in ((HARD, 0.0), (ONE_HOT, 0.1)):
            y, _, _ = run(mode, zeros, unimix=unimix, noise=zeros, with_kl=False)
            assert (y[:, 0] == 1).all()
            assert (y[:, 1:] == 0).all()


def test_forbidden_classes_and_nan(small_programs):
    """A logit of -inf has no share; NaN stays in its row."""
    for shape in ((3, 11, 1), (3, 600, 1)):
        logits = logits_of(shape, torch.float32)
        logits[:, 1::2] = -math.inf
        logits[1, 4] = math.nan
        y, soft, kl = run(HARD, logits)
        want_y, want_soft, want_kl, _ = truth(HARD, logits)
        for row in (0, 2):
            check("soft", soft[row], want_soft[row], 2e-5 * want_soft[row])
            check("kl", kl[row], want_kl[row], 1e-6 + 0 * want_kl[row])
            assert torch.equal(y[row].cpu().double(), want_y[row].round())
        assert soft[1, 0].isnan().all()
        assert kl[1].isnan().all()


@pytest.mark.parametrize(
    ("shape", "dtype", "modes"),
    [
        ((3, 11, 1), torch.float32, [(HARD, 0.0), (ONE_HOT, 0.1)]),
        ((3, 600, 1), torch.float64, [(SOFT, 0.0), (ONE_HOT, 0.0)]),
        ((1, 150, 8), torch.float32, [(HARD, 0.0), (ONE_HOT, 0.1)]),
        ((1, 9, 8), torch.bfloat16, [(SOFT, 0.0), (ONE_HOT, 0.0)]),
    ],
)
def test_a_spoilt_row_is_nan_throughout(small_programs, shape, dtype, modes):
    """By a NaN, by an infinity, or by -inf alone; the rows beside it are what they were."""
    clean = logits_of(shape, dtype)
    wants = [run(mode, clean, unimix=unimix) for mode, unimix in modes]
    for bad in (math.nan, math.inf, -math.inf):
        logits, rest = clean.clone(), [0, 1, 3]
        rows_last = logits.movedim(1, -1).flatten(0, 1)
        rows_last[2, ... if bad == -math.inf else 7] = bad
        for (mode, unimix), want in zip(modes, wants, strict=True):
            for a, b in zip(run(mode, logits, unimix=unimix), want, strict=True):
                if a is not None:
                    a, b = (t.movedim(1, -1).flatten(0, 1) if t.dim() == 3 else t.flatten()
                            for t in (a, b))  # fmt: skip
                    assert a[2].isnan().all()
                    assert all(torch.equal(a[i], b[i]) for i in rest if i < a.shape[0])
        without_y = run(SOFT, logits, with_y=False)[2].flatten()
        assert without_y.isnan().tolist() == [i == 2 for i in range(without_y.numel())]


def test_given_noise():
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((2, 10, 1), (2, 5, 8)):
            noise = gumbel64(3, 0, math.prod(shape), dtype).to(dtype).view(shape).to(DEVICE)
            run_and_check(HARD, logits_of(shape, dtype), noise=noise)


def test_keys():
    """A host key and a key from a graph's state give the bits of the tensor's."""
    logits = logits_of((2, 5, 4), torch.float32)
    bits = torch.full((2,), -1, device=DEVICE)
    state = [torch.tensor([v], device=DEVICE) for v in (7, 8)]
    graph = noise_module.GraphKey(*state, 4, bits)
    seed = noise_module.derived_seed(7, 12)
    host = noise_module.HostKey(seed - 2**64 if seed >= 2**63 else seed, 0)
    want = run(HARD, logits, key=make_key(seed, 0))
    for key in (host, graph):
        found = run(HARD, logits, key=key)
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    assert bits.tolist() == list(host)


def test_repeatable_and_independent_of_the_tile():
    """The noise is the stream's, whatever the shape that takes it."""
    shapes = [(6, 20, 1), (1, 120, 1), (2, 15, 4), (3, 8, 5)]
    noises = []
    for shape in shapes:
        key, zeros = make_key(11, 5), torch.zeros(shape, device=DEVICE)
        y = [run(SOFT, zeros, tau=1.0, key=key)[0] for _ in range(2)]
        assert torch.equal(*y)
        g = gumbel64(11, 5, 120, torch.float32).view(shape)
        check("y", y[0], torch.softmax(g, 1), 1e-5 + 0 * g)
        noises.append(y[0])
    assert len(noises) == len(shapes)
