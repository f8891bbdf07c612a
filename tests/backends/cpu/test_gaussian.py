"""The native backend's latents in every form that this machine runs, against float64 formulas."""

import pytest
import torch

from fused_reparam.backends import cpu
from tests.helpers import gaussian_calls as gaussian
from tests.helpers.cpu_truth import (
    DTYPES,
    INF,
    KINDS,
    ROUNDING,
    compute_dtype,
    formulas,
    make_key,
    nans,
    needs_native,
)
from tests.helpers.loops import where

pytestmark = needs_native

# The error of the arithmetic inside, relative.
INSIDE = dict.fromkeys(DTYPES, 4e-7) | {torch.float64: 4e-15}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


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
                 given=False, factor=0.75, seed=0):  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        self.kind, self.dtype, self.low, self.high, self.factor = kind, dtype, low, high, factor
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
        cpu.normal(self.key, noise)
        self.eps = None
        if given:
            self.eps = operand(torch.randn(shape, generator=g, dtype=torch.float64), layout)
            self.key, noise = None, self.eps.reshape(-1)
        self.grad_kl = torch.randn(segments, generator=g, dtype=torch.float64).to(real)
        self.noise = noise.double()
        self._expect(self.grad_kl.double())

    def _expect(self, gk):
        loc, x = self.loc.double().reshape(-1), self.scale.double().reshape(-1)
        gz, inside = self.grad_z.double().reshape(-1), torch.ones_like(x)
        if self.kind in ("logvar", "log_std"):
            inside = ((x >= self.low) & (x <= self.high)).double()
            x = x.clamp(self.low, self.high)
        s, log_s2, ds, dkl = formulas(x, self.kind)
        gk = self.factor * gk.repeat_interleave(self.n // self.segments)
        self.z = loc + s * self.noise
        element = 0.5 * (loc**2 + s**2 - 1 - log_s2)
        self.kl = self.factor * element.view(self.segments, -1).sum(1)
        size = torch.maximum(torch.ones_like(x), loc**2 + s**2 + log_s2.abs())
        self.kl_size = self.factor * size.view(self.segments, -1).sum(1)
        self.grad_loc, self.grad_scale = gz + gk * loc, inside * (gz * self.noise * ds + gk * dkl)
        self.z_size = loc.abs() + (s * self.noise).abs()
        self.loc_size = gz.abs() + (gk * loc).abs()
        self.scale_size = (gz * self.noise * ds).abs() + gk.abs() * (dkl.abs() + 1 + s**2)

    def forward(self, want_z=True, want_kl=True):
        z = nans(*self.shape, dtype=self.dtype) if want_z else None
        kl = nans(self.segments, dtype=compute_dtype(self.dtype)) if want_kl else None
        key, eps = (self.key, self.eps) if want_z else (None, None)
        gaussian.forward(
            cpu, self.loc, self.scale, key, eps, KINDS.index(self.kind), self.low, self.high,
            self.factor, self.dense, z, kl,
        )  # fmt: skip
        return z, kl

    def backward(self, has_z=True, has_kl=True, want_loc=True, want_scale=True, halves=False):
        r, c = self.shape
        moments = nans(r, 2 * c, dtype=self.dtype)
        out = [moments[:, :c], moments[:, c:]] if halves else [nans(r, c, dtype=self.dtype)]
        out = out if halves else [out[0], out[0].clone()]
        to_loc, to_scale = (out[0] if want_loc else None), (out[1] if want_scale else None)
        key, eps = (self.key, self.eps) if has_z else (None, None)
        gaussian.backward(
            cpu, self.grad_z if has_z else None, self.grad_kl if has_kl else None, self.loc,
            self.scale, key, eps, KINDS.index(self.kind), self.low, self.high, self.factor,
            self.dense, to_loc, to_scale,
        )  # fmt: skip
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
@pytest.mark.usefixtures("isa")
def test_against_formulas(kind, dtype):
    for layout in ["dense", "half", "row", "column", "one", "strided", "transposed"]:
        with where(layout):
            for shape in ((7, 23), (3, 1500)):
                Latent(kind, dtype, shape, layout).check()
            Latent(kind, dtype, (128, 20), layout, segments=128).check(halves=layout != "dense")
            Latent(kind, dtype, (5, 31), layout, segments=155, given=True).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_odd_sizes(dtype):
    for shape in [(1, 1), (3, 1), (17, 1), (1, 127), (1, 2047), (1, 4097), (1, 7919)]:
        with where(shape):
            for segments in {1, shape[0] * shape[1]}:
                Latent("logvar", dtype, shape, segments=segments).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.usefixtures("isa")
def test_segments_across_tiles(dtype):
    for segments in [1, 2, 3, 6, 11, 22, 33, 66, 3 * 1024, 6 * 11 * 1024]:
        with where(segments):
            Latent("logvar", dtype, (66, 1024), segments=segments).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_clamp(dtype):
    for kind in ["logvar", "log_std"]:
        with where(kind):
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
    gaussian.forward(cpu, loc, scale, case.key, None, 0, -INF, INF, 0.75, True, z[1:-1], kl)
    to_loc, to_scale = nans(n + 2, dtype=dtype), nans(n + 2, dtype=dtype)
    gaussian.backward(
        cpu, grad_z, case.grad_kl, loc, scale, case.key, None, 0, -INF, INF, 0.75, True,
        to_loc[1:-1], to_scale[1:-1],
    )  # fmt: skip
    for got, expected in zip((z, to_loc, to_scale), (case.forward()[0], *case.backward()),
                             strict=True):  # fmt: skip
        assert torch.equal(got[1:-1], expected.view(-1))
        assert got[0].isnan()
        assert got[-1].isnan()
    assert torch.equal(kl, case.forward()[1])
