"""Kernels with the numbers that ``torch.randn`` draws on CUDA: what ``rng="torch"`` asks for.

PyTorch fills n contiguous elements with T threads (T a multiple of 256), each a subsequence of
cuRAND's Philox4x32-10 under the generator's seed. Call k of thread t takes the block
``offset / 4 + k`` of subsequence t, makes four normals of it, and stores them at elements
``t + T * (4 k + i)``, i = 0..3: four slices at stride T. A program here makes Q threads' share of
one call. `SLICES` leaves out slices that lie wholly beyond n (small tensors have one only).

The normals are cuRAND's: `sin` first, accurate logarithm and square root, approximate `sin` and
`cos` of an angle in [0, 2 pi]. Whether the bits are PyTorch's is for `torch_calls.holds` to say.
"""

# Triton reads the annotations "i64" and "fp64" as the types of numbers.
# ruff: noqa: F821

import triton
import triton.language as tl
from triton.language import core

from .approx import PTX, _library, log, narrow, ptx, widen
from .philox import philox_of_subsequence
from .scale import clamp, derivatives, gradient, located, sigma_squares

# 2^-32 times 2 pi, in float32.
_TURN: tl.constexpr = tl.constexpr(6.2831854820251465 * 2.0**-32)


@core.extern
def _cuda_log(x, _semantic=None):
    return _library("__nv_logf", x, _semantic)


@triton.jit
def sin_cos_pair(w0, w1, MATH: tl.constexpr):
    """cuRAND's normals of two words. The sums take -0 to 0, as PyTorch's `* std + mean` does."""
    u = tl.fma(w0.to(tl.float32), 2.0**-32, 2.0**-33)
    angle = tl.fma(w1.to(tl.float32), _TURN, _TURN / 2)
    if MATH == PTX:
        radius = ptx("sqrt.rn.f32", _cuda_log(u) * -2.0)
        sine = ptx("sin.approx.f32", angle)
        cosine = ptx("cos.approx.f32", angle)
    else:
        radius = tl.sqrt(log(u, MATH) * -2.0)
        sine = tl.sin(angle)
        cosine = tl.cos(angle)
    return sine * radius + 0.0, cosine * radius + 0.0


@triton.jit
def program_place(threads, Q: tl.constexpr):
    """(call, first thread) of this program: int64 scalars."""
    each = (threads + (Q - 1)) // Q
    index = tl.program_id(0).to(tl.int64)
    call = index // each
    return call, (index - call * each) * Q


@triton.jit
def four_normals(seed, block, first, Q: tl.constexpr, MATH: tl.constexpr):
    """The normals of threads first .. first + Q - 1 in one call: four tiles [Q], one a slice."""
    thread = (first + tl.arange(0, Q)).to(tl.uint32)
    w0, w1, w2, w3 = philox_of_subsequence(block, thread, seed, MATH)
    a, b = sin_cos_pair(w0, w1, MATH)
    c, d = sin_cos_pair(w2, w3, MATH)
    return a, b, c, d


@triton.jit
def slice_mask(begin, first, n, threads, Q: tl.constexpr):
    lane = tl.arange(0, Q)
    return (begin + lane < n) & (first + lane < threads)


@triton.jit
def whole(call, first, n, threads, SLICES: tl.constexpr, Q: tl.constexpr):
    """Whether every element of this program exists: then no mask is in the way of wide accesses."""
    end = (call * 4 + (SLICES - 1)) * threads + first + Q
    return (end <= n) & (first + Q <= threads)


@triton.jit
def slice_begin(call, first, threads, SLICE: tl.constexpr):
    return tl.multiple_of((call * 4 + SLICE) * threads + first, 256)


@triton.jit
def fill_slice(
    noise, out, n, threads, call, first, SLICE: tl.constexpr, Q: tl.constexpr, MASKED: tl.constexpr
):
    begin = slice_begin(call, first, threads, SLICE)
    mask = None
    if MASKED:
        mask = slice_mask(begin, first, n, threads, Q)
    tl.store(out + begin + tl.arange(0, Q), narrow(noise, out.dtype.element_ty), mask=mask)


@triton.jit
def fill_program(
    out, n, threads, seed, block, call, first,
    SLICES: tl.constexpr, Q: tl.constexpr, MATH: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    a, b, c, d = four_normals(seed, block, first, Q, MATH)
    fill_slice(a, out, n, threads, call, first, 0, Q, MASKED)
    if SLICES > 1:
        fill_slice(b, out, n, threads, call, first, 1, Q, MASKED)
    if SLICES > 2:
        fill_slice(c, out, n, threads, call, first, 2, Q, MASKED)
    if SLICES > 3:
        fill_slice(d, out, n, threads, call, first, 3, Q, MASKED)


@triton.jit
def start(n, threads, seed, block, Q: tl.constexpr):
    """The numbers in the types that arithmetic needs, and where this program is."""
    n = tl.cast(n, tl.int64)
    threads = tl.cast(threads, tl.int64)
    call, first = program_place(threads, Q)
    # The sums do nothing but for the interpreter, which holds 2^31 to 2^32 in 32 bits.
    seed = (tl.full((), 0, tl.int64) + seed).to(tl.uint64, bitcast=True)
    block = (tl.full((), 0, tl.int64) + block).to(tl.uint64, bitcast=True) + call.to(tl.uint64)
    return n, threads, seed, block, call, first


@triton.jit(do_not_specialize=["n", "threads", "seed", "block"])
def fill_kernel(
    out, n: "i64", threads: "i64", seed: "i64", block: "i64",
    SLICES: tl.constexpr, Q: tl.constexpr, MATH: tl.constexpr,
):  # fmt: skip
    """out: n elements. threads: T. seed, block: of the generator, its offset / 4."""
    n, threads, seed, block, call, first = start(n, threads, seed, block, Q)
    if whole(call, first, n, threads, SLICES, Q):
        fill_program(out, n, threads, seed, block, call, first, SLICES, Q, MATH, False)
    else:
        fill_program(out, n, threads, seed, block, call, first, SLICES, Q, MATH, True)


@triton.jit
def forward_slice(
    noise, loc, scale, z, n, threads, call, first, low, high, KIND: tl.constexpr,
    CLAMP: tl.constexpr, SLICE: tl.constexpr, Q: tl.constexpr, MATH: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Store a slice of z; return twice its element-wise KL (zero outside the mask)."""
    begin = slice_begin(call, first, threads, SLICE)
    mask = None
    if MASKED:
        mask = slice_mask(begin, first, n, threads, Q)
    lane = tl.arange(0, Q)
    EXACT: tl.constexpr = loc.dtype.element_ty == tl.float32
    mean = widen(tl.load(loc + begin + lane, mask=mask), MATH)
    x = widen(tl.load(scale + begin + lane, mask=mask), MATH)
    if CLAMP:
        x = clamp(x, tl.full((), low, tl.float32), tl.full((), high, tl.float32))
    sigma, square, log_square = sigma_squares(x, KIND, EXACT, MATH, True)
    # As a tensor of noise would hold it.
    noise = narrow(noise, z.dtype.element_ty).to(tl.float32)
    drawn = located(mean, sigma, noise, True)
    tl.store(z + begin + lane, narrow(drawn, z.dtype.element_ty), mask=mask)
    divergence = mean * mean + (square - 1.0) - log_square
    if MASKED:
        divergence = tl.where(mask, divergence, 0.0)
    return divergence


@triton.jit
def forward_program(
    loc, scale, z, kl, n, threads, seed, block, call, first, low, high, factor,
    KIND: tl.constexpr, CLAMP: tl.constexpr, SLICES: tl.constexpr, Q: tl.constexpr,
    MATH: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    a, b, c, d = four_normals(seed, block, first, Q, MATH)
    twice = forward_slice(
        a, loc, scale, z, n, threads, call, first, low, high, KIND, CLAMP, 0, Q, MATH, MASKED
    )
    if SLICES > 1:
        twice += forward_slice(
            b, loc, scale, z, n, threads, call, first, low, high, KIND, CLAMP, 1, Q, MATH, MASKED
        )
    if SLICES > 2:
        twice += forward_slice(
            c, loc, scale, z, n, threads, call, first, low, high, KIND, CLAMP, 2, Q, MATH, MASKED
        )
    if SLICES > 3:
        twice += forward_slice(
            d, loc, scale, z, n, threads, call, first, low, high, KIND, CLAMP, 3, Q, MATH, MASKED
        )
    tl.store(kl + tl.program_id(0), tl.sum(twice) * (tl.full((), factor, tl.float32) * 0.5))


@triton.jit(do_not_specialize=["n", "threads", "seed", "block"])
def gaussian_forward_kernel(
    loc, scale, z, kl, n: "i64", threads: "i64", seed: "i64", block: "i64",
    low: "fp64", high: "fp64", factor: "fp64",
    KIND: tl.constexpr, CLAMP: tl.constexpr, SLICES: tl.constexpr, Q: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """loc, scale, z: n elements. kl: for each program the sum of its element KLs, times factor."""
    n, threads, seed, block, call, first = start(n, threads, seed, block, Q)
    if whole(call, first, n, threads, SLICES, Q):
        forward_program(
            loc, scale, z, kl, n, threads, seed, block, call, first, low, high, factor,
            KIND, CLAMP, SLICES, Q, MATH, False,
        )  # fmt: skip
    else:
        forward_program(
            loc, scale, z, kl, n, threads, seed, block, call, first, low, high, factor,
            KIND, CLAMP, SLICES, Q, MATH, True,
        )  # fmt: skip


@triton.jit
def backward_slice(
    noise, grad_z, dkl, loc, scale, grad_loc, grad_scale, n, threads, call, first, low, high,
    KIND: tl.constexpr, CLAMP: tl.constexpr, SLICE: tl.constexpr, Q: tl.constexpr,
    MATH: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    begin = slice_begin(call, first, threads, SLICE)
    mask = None
    if MASKED:
        mask = slice_mask(begin, first, n, threads, Q)
    lane = tl.arange(0, Q)
    EXACT: tl.constexpr = loc.dtype.element_ty == tl.float32
    dz = widen(tl.load(grad_z + begin + lane, mask=mask), MATH)
    mean = widen(tl.load(loc + begin + lane, mask=mask), MATH)
    x = widen(tl.load(scale + begin + lane, mask=mask), MATH)
    tl.store(grad_loc + begin + lane, narrow(mean * dkl + dz, grad_loc.dtype.element_ty), mask=mask)
    if CLAMP:
        floor = tl.full((), low, tl.float32)
        ceiling = tl.full((), high, tl.float32)
        outside = (x < floor) | (x > ceiling)
        x = clamp(x, floor, ceiling)
    slope, kl_slope = derivatives(x, KIND, EXACT, MATH)
    noise = narrow(noise, loc.dtype.element_ty).to(tl.float32)
    total = gradient(slope, kl_slope, dz * noise, dkl, True, False, KIND)
    if CLAMP:
        total = tl.where(outside, 0.0, total)
    tl.store(grad_scale + begin + lane, narrow(total, grad_scale.dtype.element_ty), mask=mask)


@triton.jit
def backward_program(
    grad_z, dkl, loc, scale, grad_loc, grad_scale, n, threads, seed, block, call, first, low, high,
    KIND: tl.constexpr, CLAMP: tl.constexpr, SLICES: tl.constexpr, Q: tl.constexpr,
    MATH: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    a, b, c, d = four_normals(seed, block, first, Q, MATH)
    backward_slice(
        a, grad_z, dkl, loc, scale, grad_loc, grad_scale, n, threads, call, first, low, high,
        KIND, CLAMP, 0, Q, MATH, MASKED,
    )  # fmt: skip
    if SLICES > 1:
        backward_slice(
            b, grad_z, dkl, loc, scale, grad_loc, grad_scale, n, threads, call, first, low, high,
            KIND, CLAMP, 1, Q, MATH, MASKED,
        )  # fmt: skip
    if SLICES > 2:
        backward_slice(
            c, grad_z, dkl, loc, scale, grad_loc, grad_scale, n, threads, call, first, low, high,
            KIND, CLAMP, 2, Q, MATH, MASKED,
        )  # fmt: skip
    if SLICES > 3:
        backward_slice(
            d, grad_z, dkl, loc, scale, grad_loc, grad_scale, n, threads, call, first, low, high,
            KIND, CLAMP, 3, Q, MATH, MASKED,
        )  # fmt: skip


@triton.jit(do_not_specialize=["n", "threads", "seed", "block"])
def gaussian_backward_kernel(
    grad_z, grad_kl, loc, scale, grad_loc, grad_scale,
    n: "i64", threads: "i64", seed: "i64", block: "i64",
    low: "fp64", high: "fp64", factor: "fp64",
    KIND: tl.constexpr, CLAMP: tl.constexpr, SLICES: tl.constexpr, Q: tl.constexpr,
    MATH: tl.constexpr,
):  # fmt: skip
    """grad_z, loc, scale, grad_loc, grad_scale: n elements. grad_kl: one number, or None."""
    n, threads, seed, block, call, first = start(n, threads, seed, block, Q)
    if grad_kl is None:
        dkl = tl.full((), 0.0, tl.float32)
    else:
        dkl = tl.load(grad_kl) * tl.full((), factor, tl.float32)
    if whole(call, first, n, threads, SLICES, Q):
        backward_program(
            grad_z, dkl, loc, scale, grad_loc, grad_scale, n, threads, seed, block, call, first,
            low, high, KIND, CLAMP, SLICES, Q, MATH, False,
        )  # fmt: skip
    else:
        backward_program(
            grad_z, dkl, loc, scale, grad_loc, grad_scale, n, threads, seed, block, call, first,
            low, high, KIND, CLAMP, SLICES, Q, MATH, True,
        )  # fmt: skip
