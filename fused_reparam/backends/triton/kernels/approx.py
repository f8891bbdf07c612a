"""Conversions and elementary functions in the forms the hardware has, one name for every target.

`MATH` picks the form at compile time. PORTABLE is what `triton.language` offers (the interpreter,
XPU); PTX is NVIDIA's `.approx` instructions, AMD the native device library, both for float32;
CUDA64 and HIP64 are for float64, which is PORTABLE but for its cosine.
Arguments are bounded by construction (angles in [-pi, pi], logarithms of normal numbers), so that
no form needs a slow path. `.ftz` keeps the compiler from adding code for subnormal numbers.
"""

# A Triton function returns from every branch or from none.
# ruff: noqa: RET505

import math

import triton
import triton.language as tl
from triton import knobs
from triton.language import core

PORTABLE: tl.constexpr = tl.constexpr(0)
PTX: tl.constexpr = tl.constexpr(1)
AMD: tl.constexpr = tl.constexpr(2)
CUDA64: tl.constexpr = tl.constexpr(3)
HIP64: tl.constexpr = tl.constexpr(4)

INTERPRETED: tl.constexpr = tl.constexpr(bool(knobs.runtime.interpret))

PI: tl.constexpr = tl.constexpr(3.141592653589793)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
# (exp(x) - 1) / x
_EXP: tl.constexpr = tl.constexpr(tuple(1.0 / math.factorial(k + 1) for k in range(14)))


def _library(symbol, x, _semantic, kind="fp32"):
    kinds = {(core.dtype(kind),): (symbol, core.dtype(kind))}
    return core.extern_elementwise("", "", [x], kinds, is_pure=True, _semantic=_semantic)


@core.extern
def _amd_log2(x, _semantic=None):
    return _library("__ocml_native_log2_f32", x, _semantic)


@core.extern
def _amd_exp2(x, _semantic=None):
    return _library("__ocml_native_exp2_f32", x, _semantic)


@core.extern
def _amd_sqrt(x, _semantic=None):
    return _library("__ocml_native_sqrt_f32", x, _semantic)


@core.extern
def _amd_reciprocal(x, _semantic=None):
    return _library("__ocml_native_recip_f32", x, _semantic)


@core.extern
def _amd_sin(x, _semantic=None):
    return _library("__ocml_native_sin_f32", x, _semantic)


@core.extern
def _amd_cos(x, _semantic=None):
    return _library("__ocml_native_cos_f32", x, _semantic)


@core.extern
def _cuda_cospi(x, _semantic=None):
    return _library("__nv_cospi", x, _semantic, "fp64")


@core.extern
def _cuda_sinpi(x, _semantic=None):
    return _library("__nv_sinpi", x, _semantic, "fp64")


@core.extern
def _hip_cospi(x, _semantic=None):
    return _library("__ocml_cospi_f64", x, _semantic, "fp64")


@core.extern
def _hip_sinpi(x, _semantic=None):
    return _library("__ocml_sinpi_f64", x, _semantic, "fp64")


@triton.jit
def ptx(instruction: tl.constexpr, x):
    return tl.inline_asm_elementwise(
        instruction + " $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def widen(x, MATH: tl.constexpr):
    """To the type that arithmetic is done in: float32, or float64 as it is.

    bfloat16 is float32's upper half: two of them come out of one register with one instruction
    each.
    """
    if MATH == PTX and x.dtype.is_bf16():
        return tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xFFFF0000;",
            "=r,=r,r",
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    elif x.dtype.is_fp64():
        return x
    else:
        return x.to(tl.float32)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """To a tensor's type, rounded to nearest even; the interpreter would cut bfloat16 off."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        upper = (bits.to(tl.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
        upper = tl.where(x == x, upper, 0x7FC0)
        return upper.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def log(x, MATH: tl.constexpr):
    """Natural logarithm; subnormal x included."""
    if MATH == PTX:
        return ptx("lg2.approx.f32", x) * LN2
    elif INTERPRETED:  # numpy's float32 forms are good to 4 ulp only
        return tl.log(x.to(tl.float64)).to(x.dtype)
    else:
        return tl.log(x)


@triton.jit
def sqrt(x, MATH: tl.constexpr):
    if MATH == PTX:
        return ptx("sqrt.approx.f32", x)
    else:
        return tl.sqrt(x)


@triton.jit
def reciprocal(x, MATH: tl.constexpr):
    """1 / x; infinite for subnormal x, zero where the result would be subnormal."""
    if MATH == PTX:
        return ptx("rcp.approx.ftz.f32", x)
    elif MATH == AMD:
        return _amd_reciprocal(x)
    else:
        return 1.0 / x


@triton.jit
def reciprocal_of_any(x, MATH: tl.constexpr):
    """1 / x, also where either is subnormal: six instructions more."""
    if MATH == PTX:
        return ptx("rcp.approx.f32", x)
    elif MATH == AMD:
        return 1.0 / x
    else:
        return reciprocal(x, MATH)


@triton.jit
def exp2(x, MATH: tl.constexpr):
    """2 to the x; results below 2^-126 are flushed to zero."""
    if MATH == PTX:
        return ptx("ex2.approx.ftz.f32", x)
    elif MATH == AMD:
        return _amd_exp2(x)
    else:
        return tl.exp2(x)


@triton.jit
def exp(x, FACTOR: tl.constexpr, TIMES: tl.constexpr, EXACT: tl.constexpr, MATH: tl.constexpr):
    """TIMES * exp(FACTOR * x), both powers of two.

    t = x * FACTOR * log2(e) is rounded, which alone costs |t| * 2^-24 of relative error. EXACT puts
    it back: residue = x - t * ln 2 / FACTOR comes out of one fused multiply-add without a rounding
    of its product, and exp = 2^t * (1 + FACTOR * residue). Where 2^t is 0 or infinite the residue
    may be anything, NaN included: the bounds (which drop NaN) keep it from changing that.
    """
    if INTERPRETED:
        return tl.exp(x.to(tl.float64) * FACTOR).to(x.dtype) * TIMES
    elif MATH != PTX and MATH != AMD:
        return tl.exp(x * FACTOR) * TIMES
    elif EXACT:
        t = x * (FACTOR * LOG2E)
        residue = tl.maximum(tl.fma(t, -LN2 / FACTOR, x), -0.5)
        if FACTOR >= 1.0:  # here t overflows for x near float32's largest
            residue = tl.minimum(residue, 0.5)
        return exp2(t, MATH) * (residue * (FACTOR * TIMES) + TIMES)
    elif TIMES == 0.5:
        return exp2(x * (FACTOR * LOG2E) - 1.0, MATH)
    else:
        return exp2(x * (FACTOR * LOG2E), MATH) * TIMES


@triton.jit
def series(x, TERMS: tl.constexpr, COEFFICIENTS: tl.constexpr):
    """The polynomial of so many first coefficients, lowest power first."""
    total = tl.full(x.shape, COEFFICIENTS[TERMS - 1], x.dtype)
    for i in tl.static_range(TERMS - 1):
        total = total * x + COEFFICIENTS[TERMS - 2 - i]
    return total


@triton.jit
def expm1(x, e):
    """exp(x) - 1 to its last bits, given e = exp(x)."""
    near = tl.where(tl.abs(x) < 0.5, x, 0.0)
    small = near * series(near, 14 if x.dtype.is_fp64() else 8, _EXP)
    return tl.where(tl.abs(x) < 0.5, small, e - 1.0)


@triton.jit
def radius(u, MATH: tl.constexpr):
    """sqrt(-2 ln u) for 2^-33 <= u <= 1.

    The hardware's lg2 has an absolute error of 2^-22 near 1, which the square root would magnify
    without bound as u nears 1 (and a result above zero would be NaN). There, with t = 1 - u
    (exact), -2 ln u = 2 t + t^2 + O(t^3): below t = 2^-7 the two forms are equally good, 1.3e-6 in
    r.
    """
    if MATH == PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .pred near;
            .reg .f32 t, s, a;
            sub.ftz.f32 t, 0f3F800000, $1;
            lg2.approx.ftz.f32 a, $1;
            mul.ftz.f32 a, a, 0fBFB17218;
            setp.lt.f32 near, t, 0f3C000000;
            fma.rn.ftz.f32 s, t, t, t;
            @near add.ftz.f32 a, t, s;
            sqrt.approx.ftz.f32 $0, a;
            }""",
            "=f,f",
            [u],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    elif MATH == AMD:
        t = 1.0 - u
        square = tl.where(t < 0.0078125, tl.fma(t, t, t + t), _amd_log2(u) * (-2.0 * LN2))
        return _amd_sqrt(square)
    else:
        return tl.sqrt(-2.0 * tl.log(u))


@triton.jit
def cos_sin(angle, MATH: tl.constexpr):
    """For angles in [-pi, pi]; PORTABLE takes any."""
    if MATH == PTX:
        return ptx("cos.approx.ftz.f32", angle), ptx("sin.approx.ftz.f32", angle)
    elif MATH == AMD:
        return _amd_cos(angle), _amd_sin(angle)
    else:
        return tl.cos(angle), tl.sin(angle)


@triton.jit
def cos_sin_pi(x, MATH: tl.constexpr):
    """cos(pi x) and sin(pi x) in float64. The library's own forms have no slow path."""
    if MATH == CUDA64:
        return _cuda_cospi(x), _cuda_sinpi(x)
    elif MATH == HIP64:
        return _hip_cospi(x), _hip_sinpi(x)
    else:
        return tl.cos(x * PI), tl.sin(x * PI)
