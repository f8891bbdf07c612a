"""The native backend in every form that this machine runs, against formulas written here."""

import json
import math
from pathlib import Path

import pytest
import torch

from fused_reparam.backends import native

np = pytest.importorskip("numpy")

REASON = native.unavailable_reason(torch.device("cpu"))
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"native: {REASON}")

INF = math.inf
KINDS = ("logvar", "log_std", "std", "var", "rho")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Half a unit in the last place, relative; and the error of the arithmetic inside.
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float64: 0}
INSIDE = dict.fromkeys(DTYPES, 4e-7) | {torch.float64: 4e-15}
GOLDEN = json.loads((Path(__file__).parent / "golden" / "noise_stream_v1.json").read_text())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_key(seed, offset=0):
    return torch.from_numpy(np.array([seed, offset], dtype=np.uint64))


def compute_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def nans(*shape, dtype):
    return torch.full(shape, math.nan, dtype=dtype)


# ---- the noise stream, written again in numpy --------------------------------------------------


def philox(seed, offset, blocks):
    counter = np.uint64(offset) + np.arange(blocks, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c = [counter & low, counter >> np.uint64(32), np.zeros_like(counter), np.zeros_like(counter)]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]),
            p1 & low,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]),
            p0 & low,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def stream(seed, offset, n, double=False):
    """The first n normals, from the words in the stream's own precision, then in float64."""
    with np.errstate(over="ignore"):
        w = philox(seed, offset, -(-n // (2 if double else 4)))
    if double:
        u = ((w[0] << np.uint64(32)) | w[1]).astype(np.float64) * 2.0**-64
        v = ((w[2] << np.uint64(32)) | w[3]).astype(np.float64) * 2.0**-64
        pairs = [(np.maximum(u, 2.0**-64), v)]
    else:

        def unit(word):
            exact = word.astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33
            return exact.astype(np.float32).astype(np.float64)

        pairs = [(unit(w[0]), unit(w[1])), (unit(w[2]), unit(w[3]))]
    lanes = []
    for u, v in pairs:
        r = np.sqrt(-2 * np.log(u))
        lanes += [r * np.cos(2 * np.pi * v), r * np.sin(2 * np.pi * v)]
    return np.stack(lanes, 1).reshape(-1)[:n]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['seed']}-{c['offset']}")
@pytest.mark.usefixtures("isa")
def test_golden_noise(case):
    key = make_key(int(case["seed"]), int(case["offset"]))
    for name, dtype, tolerance in (
        ("normal_float32", torch.float32, 4e-6),
        ("normal_float64", torch.float64, 1e-12),
    ):
        out = nans(len(case[name]), dtype=dtype)
        native.normal(key, out)
        assert np.abs(out.double().numpy() - np.array(case[name])).max() <= tolerance


@pytest.mark.parametrize("n", [1, 3, 17, 127, 2047, 2048, 4097, 30_011])
@pytest.mark.parametrize(
    ("seed", "offset"), [(0, 0), (2**64 - 1, 5), (9, 2**32 - 70), (77, 2**64 - 300)]
)
@pytest.mark.usefixtures("isa")
def test_noise_of_all_lengths(n, seed, offset):
    key = make_key(seed, offset)
    for dtype in DTYPES:
        memory = nans(n + 2, dtype=dtype)
        native.normal(key, memory[1:-1])
        assert memory[0].isnan()
        assert memory[-1].isnan()
        expected = stream(seed, offset, n, dtype == torch.float64)
        tolerance = 1e-12 if dtype == torch.float64 else 4e-6
        error = np.abs(memory[1:-1].double().numpy() - expected)
        assert (error <= tolerance + ROUNDING[dtype] * np.abs(expected) * 1.01 + 2**-25).all() or (
            dtype == torch.float64 and error.max() <= tolerance
        )


@pytest.mark.usefixtures("isa")
def test_noise_error_and_tail():
    n = 1 << 22
    out = nans(n, dtype=torch.float32)
    native.normal(make_key(3), out)
    expected = stream(3, 0, n)
    assert np.abs(out.numpy() - expected).max() < 2e-6
    assert np.abs(expected).max() > 5


@pytest.mark.usefixtures("isa")
def test_forms_agree_and_round_once():
    n = 65_536
    exact = nans(n, dtype=torch.float32)
    native.normal(make_key(11), exact)
    for dtype in (torch.bfloat16, torch.float16):
        out = nans(n, dtype=dtype)
        native.normal(make_key(11), out)
        assert torch.equal(out, exact.to(dtype))
    before = native.isa()
    native.set_isa("portable")
    plain = nans(n, dtype=torch.float32)
    native.normal(make_key(11), plain)
    native.set_isa(before)
    assert (plain - exact).abs().max() < 4e-6


# ---- the latent, written again in float64 ------------------------------------------------------


def formulas(x, kind):
    """sigma, log sigma^2, dsigma/dx, dKL/dx in float64."""
    if kind == "logvar":
        s = torch.exp(x / 2)
        return s, x, s / 2, (torch.exp(x) - 1) / 2
    if kind == "log_std":
        s = torch.exp(x)
        return s, 2 * x, s, torch.exp(2 * x) - 1
    if kind == "std":
        return x, 2 * x.log(), torch.ones_like(x), x - 1 / x
    if kind == "var":
        s = x.sqrt()
        return s, x.log(), 0.5 / s, (1 - 1 / x) / 2
    s = torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)
    log_s = torch.where(x < -30, x - torch.exp(x) / 2, s.log())
    gate = torch.sigmoid(x)
    ratio = torch.where(x < -30, torch.ones_like(x), gate / s)
    return s, 2 * log_s, gate, s * gate - ratio


def scale_values(shape, kind, generator):
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (0.3 + 2 * x.abs()) if kind in ("std", "var") else x


def as_layout(x, layout):
    """The numbers of x (R, C) in another arrangement; broadcasts keep the first row or column."""
    r, c = x.shape
    if layout == "half":
        memory = torch.zeros(r, 2 * c, dtype=x.dtype)
        view = memory[:, c:]
    elif layout == "strided":
        memory = torch.zeros(2 * r, 3 * c, dtype=x.dtype)
        view = memory[::2, ::3]
    elif layout == "transposed":
        view = torch.zeros(c, r, dtype=x.dtype).t()
    elif layout == "row":
        return x[:1].contiguous().expand(r, c)
    elif layout == "column":
        return x[:, :1].contiguous().expand(r, c)
    elif layout == "one":
        return x[:1, :1].contiguous().expand(r, c)
    else:
        return x.contiguous()
    view.copy_(x)
    return view


class Latent:
    """Operands in a layout, and what must come out of them."""

    def __init__(self, kind, dtype, shape=(7, 23), layout="dense", segments=1, low=-INF, high=INF,
                 given=False, weight=0.75, seed=0):  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        self.kind, self.dtype, self.low, self.high, self.weight = kind, dtype, low, high, weight
        self.dense, self.shape, self.n, self.segments = layout == "dense", shape, 0, segments
        self.n = shape[0] * shape[1]
        real = compute_dtype(dtype)

        def operand(values, arrangement):
            return as_layout(values.to(dtype), arrangement)

        self.loc = operand(torch.randn(shape, generator=g, dtype=torch.float64), layout)
        self.scale = operand(scale_values(shape, kind, g), layout)
        self.grad_z = operand(torch.randn(shape, generator=g, dtype=torch.float64), layout)
        self.key = make_key(1234 + seed, 99)
        noise = nans(self.n, dtype=real)
        native.normal(self.key, noise)
        self.eps = None
        if given:
            self.eps = operand(torch.randn(shape, generator=g, dtype=torch.float64), layout)
            self.key, noise = None, self.eps.reshape(-1)
        gk = torch.randn(segments, generator=g, dtype=torch.float64).to(real)
        elementwise = segments == self.n and not self.dense
        self.grad_kl = gk.view(shape) if elementwise else gk
        self.kl_shape = shape if elementwise else (segments,)
        self.noise = noise.double()
        self._expect(gk.double())

    def _expect(self, gk):
        loc, x = self.loc.double().reshape(-1), self.scale.double().reshape(-1)
        gz, inside = self.grad_z.double().reshape(-1), torch.ones_like(x)
        if self.kind in ("logvar", "log_std"):
            inside = ((x >= self.low) & (x <= self.high)).double()
            x = x.clamp(self.low, self.high)
        s, log_s2, ds, dkl = formulas(x, self.kind)
        gk = self.weight * gk.repeat_interleave(self.n // self.segments)
        self.z = loc + s * self.noise
        element = 0.5 * (loc**2 + s**2 - 1 - log_s2)
        self.kl = self.weight * element.view(self.segments, -1).sum(1)
        size = torch.maximum(torch.ones_like(x), loc**2 + s**2 + log_s2.abs())
        self.kl_size = self.weight * size.view(self.segments, -1).sum(1)
        self.grad_loc, self.grad_scale = gz + gk * loc, inside * (gz * self.noise * ds + gk * dkl)
        self.z_size = loc.abs() + (s * self.noise).abs()
        self.loc_size = gz.abs() + (gk * loc).abs()
        self.scale_size = (gz * self.noise * ds).abs() + gk.abs() * (dkl.abs() + 1 + s**2)

    def forward(self, want_z=True, want_kl=True):
        z = nans(*self.shape, dtype=self.dtype) if want_z else None
        kl = nans(*self.kl_shape, dtype=compute_dtype(self.dtype)) if want_kl else None
        key, eps = (self.key, self.eps) if want_z else (None, None)
        native.gaussian_forward(self.loc, self.scale, key, eps, KINDS.index(self.kind),
                                self.low, self.high, self.weight, self.dense, z, kl)  # fmt: skip
        return z, kl

    def backward(self, has_z=True, has_kl=True, want_loc=True, want_scale=True, halves=False):
        r, c = self.shape
        moments = nans(r, 2 * c, dtype=self.dtype)
        out = [moments[:, :c], moments[:, c:]] if halves else [nans(r, c, dtype=self.dtype)]
        out = out if halves else [out[0], out[0].clone()]
        to_loc, to_scale = (out[0] if want_loc else None), (out[1] if want_scale else None)
        key, eps = (self.key, self.eps) if has_z else (None, None)
        native.gaussian_backward(self.grad_z if has_z else None, self.grad_kl if has_kl else None,
                                 self.loc, self.scale, key, eps, KINDS.index(self.kind), self.low,
                                 self.high, self.weight, self.dense, to_loc, to_scale)  # fmt: skip
        return to_loc, to_scale

    def near(self, got, expected, size):
        got = got.double().reshape(-1)
        bound = ROUNDING[self.dtype] * expected.abs() * 1.01 + INSIDE[self.dtype] * size
        bound += 2**-24 if self.dtype == torch.float16 else 0
        worst = ((got - expected).abs() / (bound + 1e-300)).max().item()
        assert worst <= 1, f"{worst} times the bound"

    def kl_near(self, kl):
        tolerance = 1e-14 if self.dtype == torch.float64 else 1e-6
        assert ((kl.double().reshape(-1) - self.kl).abs() <= tolerance * self.kl_size).all()

    def check(self, **how):
        z, kl = self.forward()
        self.near(z, self.z, self.z_size)
        self.kl_near(kl)
        to_loc, to_scale = self.backward(**how)
        self.near(to_loc, self.grad_loc, self.loc_size)
        self.near(to_scale, self.grad_scale, self.scale_size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "layout", ["dense", "half", "row", "column", "one", "strided", "transposed"]
)
@pytest.mark.usefixtures("isa")
def test_against_formulas(kind, dtype, layout):
    for shape in ((7, 23), (3, 1500)):
        Latent(kind, dtype, shape, layout).check()
    Latent(kind, dtype, (128, 20), layout, segments=128).check(halves=layout != "dense")
    Latent(kind, dtype, (5, 31), layout, segments=155, given=True).check()


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 1), (17, 1), (1, 127), (1, 2047), (1, 4097), (1, 7919)]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_odd_sizes(dtype, shape):
    for segments in {1, shape[0] * shape[1]}:
        Latent("logvar", dtype, shape, segments=segments).check()


@pytest.mark.parametrize("segments", [1, 2, 3, 6, 11, 22, 33, 66, 3 * 1024, 6 * 11 * 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.usefixtures("isa")
def test_segments_across_tiles(dtype, segments):
    Latent("logvar", dtype, (66, 1024), segments=segments).check()


@pytest.mark.parametrize("kind", ["logvar", "log_std"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_clamp(dtype, kind):
    Latent(kind, dtype, (31, 37), low=-1.0, high=0.5).check()
    case = Latent(kind, dtype, (2, 2), low=-1.0, high=0.5)
    case.scale = torch.tensor([[-1.0, 0.5], [-1.25, 0.75]]).to(dtype)
    case._expect(case.grad_kl.double())
    case.check()
    assert (case.backward()[1] != 0).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("has_z", [True, False])
@pytest.mark.parametrize("has_kl", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("isa")
def test_missing_gradients(kind, has_z, has_kl):
    if not (has_z or has_kl):
        return
    for dtype in DTYPES:
        case = Latent(kind, dtype, (3, 45))
        if not has_z:
            case.grad_z = torch.zeros_like(case.grad_z)
        case._expect(case.grad_kl.double() * has_kl)
        for wants in ((True, True), (True, False), (False, True)):
            to_loc, to_scale = case.backward(has_z, has_kl, *wants)
            if wants[0]:
                case.near(to_loc, case.grad_loc, case.loc_size)
            if wants[1]:
                case.near(to_scale, case.grad_scale, case.scale_size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_only_what_is_wanted(dtype):
    for layout in ("dense", "half"):
        case = Latent("rho", dtype, (3, 45), layout)
        z, kl = case.forward()
        assert torch.equal(case.forward(want_kl=False)[0], z)
        assert torch.equal(case.forward(want_z=False)[1], kl)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_layouts_give_the_same_bits(dtype):
    for segments in (1, 6, 6 * 1030):
        dense = Latent("logvar", dtype, (6, 1030), segments=segments)
        other = Latent("logvar", dtype, (6, 1030), "strided", segments=segments)
        for a, b in zip(dense.forward() + dense.backward(), other.forward() + other.backward(),
                        strict=True):  # fmt: skip
            assert torch.equal(a.reshape(-1), b.reshape(-1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_any_number_of_threads_gives_the_same_bits(dtype, threads):
    for segments in (1, 17, 170):
        case = Latent("logvar", dtype, (170, 601), segments=segments)
        threads(1)
        expected = case.forward() + case.backward()
        for count in (2, 3, 4):
            threads(count)
            for a, b in zip(expected, case.forward() + case.backward(), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_misaligned_memory_and_nothing_beyond(dtype):
    n = 2300
    case = Latent("logvar", dtype, (1, n))

    def shifted(x):
        memory = nans(n + 2, dtype=x.dtype)
        memory[1:-1] = x.reshape(-1)
        return memory[1:-1]

    z, kl = nans(n + 2, dtype=dtype), nans(1, dtype=compute_dtype(dtype))
    loc, scale, grad_z = map(shifted, (case.loc, case.scale, case.grad_z))
    native.gaussian_forward(loc, scale, case.key, None, 0, -INF, INF, 0.75, True, z[1:-1], kl)
    to_loc, to_scale = nans(n + 2, dtype=dtype), nans(n + 2, dtype=dtype)
    native.gaussian_backward(grad_z, case.grad_kl, loc, scale, case.key, None, 0, -INF, INF, 0.75,
                             True, to_loc[1:-1], to_scale[1:-1])  # fmt: skip
    for got, expected in zip((z, to_loc, to_scale), (case.forward()[0], *case.backward()),
                             strict=True):  # fmt: skip
        assert torch.equal(got[1:-1], expected.view(-1))
        assert got[0].isnan()
        assert got[-1].isnan()
    assert torch.equal(kl, case.forward()[1])


# ---- extreme numbers ---------------------------------------------------------------------------


def one_element(kind, x, dtype=torch.float32, loc=0.5, gz=1.0, gk=1.0, low=-INF, high=INF):
    def full(value):
        return torch.full((40,), value, dtype=dtype)

    real = compute_dtype(dtype)
    z, kl, gl, gs = (nans(40, dtype=d) for d in (dtype, real, dtype, dtype))
    eps = full(0.25)
    native.gaussian_forward(full(loc), full(x), None, eps, KINDS.index(kind), low, high, 1.0, True,
                            z, kl)  # fmt: skip
    native.gaussian_backward(full(gz), torch.full((40,), gk, dtype=real), full(loc), full(x), None,
                             eps, KINDS.index(kind), low, high, 1.0, True, gl, gs)  # fmt: skip
    for t in (z, kl, gl, gs):
        assert torch.equal(t.nan_to_num(nan=7e7), t[:1].nan_to_num(nan=7e7).expand(40))
    return [t[0].item() for t in (z, kl, gl, gs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "x", [-1e4, -800, -200, -110, -104, -95, -80, -30, -21, -19, -10, -9.01, -8.99, -1, -1e-3, 0.0,
          1e-3, 1, 9, 20, 88, 95, 110, 200]
)  # fmt: skip
@pytest.mark.usefixtures("isa")
def test_extreme_rho(dtype, x):
    z, kl, _, gs = one_element("rho", x, dtype)
    t = torch.tensor(x, dtype=torch.float64)
    s, log_s2, gate, dkl = (v.item() for v in formulas(t, "rho"))
    accuracy = 1e-6 if dtype == torch.float32 else 1e-14
    expected = 0.5 * (0.25 + s * s - 1 - log_s2)
    assert abs(kl - expected) <= accuracy * max(1, 0.25 + s * s + abs(log_s2))
    assert abs(z - (0.5 + 0.25 * s)) <= accuracy * (0.5 + s)
    assert abs(gs - (0.25 * gate + dkl)) <= accuracy * (1 + abs(dkl))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("x", [math.nan, INF, -INF, 0.0, -0.5, 60000.0])
@pytest.mark.usefixtures("isa")
def test_numbers_flow_as_in_pytorch(dtype, kind, x):
    real = compute_dtype(dtype)
    t = torch.tensor(x, dtype=dtype).to(real)
    if kind == "rho":
        if x == -INF:
            return  # log softplus(-inf) = -inf here; the plain formula gives the same KL
        s = torch.log1p(torch.exp(-t.abs())) + t.clamp(min=0)
        log_s2 = 2 * torch.where(t < -30, t, s.log())
    else:
        s = {"logvar": (t / 2).exp(), "log_std": t.exp(), "std": t, "var": t.sqrt()}[kind]
        log_s2 = {"logvar": t, "log_std": 2 * t, "std": 2 * t.log(), "var": t.log()}[kind]
    z, kl, _, gs = one_element(kind, x, dtype)
    expected = 0.5 * (0.25 + s * s - 1 - log_s2).item()
    assert (math.isnan(kl) and math.isnan(expected)) or kl == pytest.approx(expected, rel=2e-6)
    expected = (0.5 + 0.25 * s).to(dtype).item()
    assert (math.isnan(z) and math.isnan(expected)) or z == pytest.approx(expected, rel=1e-2)
    if math.isnan(x):
        assert math.isnan(gs)


@pytest.mark.parametrize("kind", ["logvar", "log_std"])
@pytest.mark.usefixtures("isa")
def test_nan_passes_the_clamp(kind):
    z, kl, gl, gs = one_element(kind, math.nan, low=-1.0, high=1.0)
    assert all(math.isnan(v) for v in (z, kl, gs))
    assert gl == 1.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, INF])
@pytest.mark.usefixtures("isa")
def test_odd_locations(kind, value):
    z, kl, gl, gs = one_element(kind, 1.0, loc=value)
    assert math.isfinite(gs)
    for v in (z, kl, gl):
        assert math.isnan(v) if math.isnan(value) else v == INF


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.usefixtures("isa")
def test_full_range_of_log_and_exp(dtype):
    info = torch.finfo(dtype)
    x = torch.logspace(
        math.log10(info.tiny), math.log10(info.max) * 0.99, 5000, dtype=torch.float64
    )
    denormal = torch.tensor([info.tiny * 2**-10, info.tiny * 0.5], dtype=torch.float64)
    x = torch.cat([x, denormal]).to(dtype)
    kl, zero, n = nans(x.numel(), dtype=dtype), torch.zeros_like(x), x.numel()
    native.gaussian_forward(zero, x, None, None, 3, -INF, INF, 1.0, True, None, kl)
    expected = 0.5 * (x.double() - 1 - x.double().log())
    eps = 1e-6 if dtype == torch.float32 else 1e-15
    assert ((kl.double() - expected).abs() <= eps * (1 + x.double() + x.double().log().abs())).all()
    edge = math.log(info.max)
    y = torch.linspace(-edge, edge * 0.999, n, dtype=torch.float64).to(dtype)
    z = nans(n, dtype=dtype)
    native.gaussian_forward(zero, y, None, torch.ones_like(y), 1, -INF, INF, 1.0, True, z, None)
    relative = (z.double() / y.double().exp() - 1).abs()
    assert relative.max() <= (2.5e-7 if dtype == torch.float32 else 5e-16)


@pytest.mark.slow
def test_more_than_two_to_the_31_elements():
    """Only the noise, in 16 bits: 4 GB. The last elements must be those of their own index."""
    if not _has_memory(6 << 30):
        pytest.skip("needs 6 GB of memory")
    n = 2**31 + 4097
    out = torch.empty(n, dtype=torch.bfloat16)
    out[-5000:] = math.nan
    native.normal(make_key(21, 2**32 - 2**29), out)
    first = (n - 4096) // 4
    expected = stream(21, 2**32 - 2**29 + first, n - 4 * first)
    error = np.abs(out[4 * first :].double().numpy() - expected)
    assert (error <= 4e-6 + 2**-8 * np.abs(expected)).all()


def _has_memory(amount):
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 > amount
    except OSError:
        pass
    return False
