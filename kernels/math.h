// Elementary functions on vectors, for float and double. Errors are against exact arithmetic; inputs
// that are NaN give NaN, and infinities and zeros give what the C library gives unless stated.
#pragma once

#include "vec.h"

namespace fr::FR_NS {

// The element type, and one number as a vector of V's type.
template <class V>
struct Scalar;
template <>
struct Scalar<f32> {
  using type = float;
  using Int = i32;
  using Bits = u32;
};
template <>
struct Scalar<f64> {
  using type = double;
  using Int = i64;
  using Bits = u64;
};
template <class V>
FR_INLINE V num(double x) {
  return splat((typename Scalar<V>::type)x);
}

template <class V, size_t N>
FR_INLINE V polynomial(V x, const typename Scalar<V>::type (&c)[N]) {
  V y = splat(c[N - 1]);
#pragma GCC unroll 32
  for (int i = (int)N - 2; i >= 0; --i) y = fma(y, x, splat(c[i]));
  return y;
}

// The same of several, in step.
template <class V, int M, size_t N>
FR_INLINE void polynomials(const V (&x)[M], const typename Scalar<V>::type (&c)[N], V (&y)[M]) {
#pragma GCC unroll 8
  for (int j = 0; j < M; ++j) y[j] = fma(splat(c[N - 1]), x[j], splat(c[N - 2]));
#pragma GCC unroll 32
  for (int i = (int)N - 3; i >= 0; --i) {
#pragma GCC unroll 8
    for (int j = 0; j < M; ++j) y[j] = fma(y[j], x[j], splat(c[i]));
  }
}

template <class V>
FR_INLINE V abs(V x) {
  using Bits = typename Scalar<V>::Bits;
  return (V)((Bits)x & ~(Bits)num<V>(-0.0));
}

// ---- 2^n scaling -------------------------------------------------------------------------------

// p * 2^n for whole n; too large or too small n (up to the exponent's range twice over) gives inf, a
// denormal or zero, as it should.
FR_INLINE f32 scale2(f32 p, f32 n, u32 n_bits) {
#if FR_ISA == 2
  (void)n_bits;
  return (f32)_mm512_scalef_ps(p, n);
#else
  // In two steps, so that each factor is a normal number. n_bits are those of 1.5 * 2^23 + n.
  (void)n;
  const i32 whole = (i32)n_bits - 0x4b400000, half = whole >> 1;
  const f32 a = (f32)((half + 127) << 23), b = (f32)((whole - half + 127) << 23);
  return p * a * b;
#endif
}
FR_INLINE f64 scale2(f64 p, f64 n, u64 n_bits) {
#if FR_ISA == 2
  (void)n_bits;
  return (f64)_mm512_scalef_pd(p, n);
#else
  (void)n;
  // n_bits are those of 1.5 * 2^52 + n, |n| < 2048; kept above zero, for there is no signed shift.
  const u64 whole = n_bits + 4096, half = (whole & 0x3fff) >> 1;
  const u64 rest = (whole & 0x3fff) - half;
  const f64 a = (f64)((half - 2048 + 1023) << 52), b = (f64)((rest - 2048 + 1023) << 52);
  return p * a * b;
#endif
}

// ---- exp ---------------------------------------------------------------------------------------

// e^(x / kDivide), kDivide 1 or 2. Relative error below 1.2e-7 (float), 2e-16 (double).
template <int kDivide = 1>
FR_INLINE f32 exp(f32 x) {
  // exp of the remainder r in units of x: |r| <= kDivide * ln(2) / 2; fitted by minimax.
  constexpr float d = 1.0f / kDivide;
  constexpr float c[] = {1.0f,
                         1.0000000337e+00f * d,
                         5.0000001302e-01f * d * d,
                         1.6666426578e-01f * d * d * d,
                         4.1666134655e-02f * d * d * d * d,
                         8.3744577497e-03f * d * d * d * d * d,
                         1.3953990392e-03f * d * d * d * d * d * d};
  x = min_keep_nan(splat(128.0f * kDivide), max_keep_nan(splat(-128.0f * kDivide), x));
  const f32 magic = splat(0x1.8p23f);
  const f32 t = fma(x, splat(0x1.715476p0f * d), magic);
  const f32 n = t - magic;
  f32 r = fma(n, splat(-0x1.62e4p-1f * kDivide), x);        // 15 bits: the product is exact
  r = fma(n, splat(-0x1.7f7d1cp-20f * kDivide), r);
  return scale2(polynomial(r, c), n, (u32)t);
}
// The same for 16-bit elements, from 2^t with t = x log2(e) / kDivide rounded to float: relative error
// 3e-7 + 6e-8 |t|. 8 instructions in place of 13.
template <int kDivide>
FR_INLINE f32 exp_coarse(f32 x) {
#if FR_ISA == 2
  // 2^(f - 1/2) for f in [0, 1), which is 2^t without its whole part; fitted by minimax.
  constexpr float c[] = {7.0710673912e-01f, 4.9013346116e-01f, 1.6981271924e-01f,
                         3.9478605186e-02f, 6.3525932452e-03f, 1.3293606369e-03f};
  const f32 t = fma(x, splat(0x1.715476p0f / kDivide), splat(0.5f));
  const f32 f = (f32)_mm512_reduce_ps((__m512)t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  return (f32)_mm512_scalef_ps(polynomial(f, c), t);        // which rounds t down by itself
#else
  return exp<kDivide>(x);
#endif
}
template <int kDivide = 1>
FR_INLINE f64 exp(f64 x) {
  constexpr double c[] = {1.0,
                          1.0,
                          5.00000000000001221245e-01,
                          1.66666666666667101504e-01,
                          4.16666666665216969823e-02,
                          8.33333333330388281723e-03,
                          1.38888889455591113195e-03,
                          1.98412699215567875062e-04,
                          2.48014913067654959255e-05,
                          2.75572138074454935769e-06,
                          2.76308333999093471847e-07,
                          2.51184341364769359408e-08};
  if constexpr (kDivide == 2) x = x * 0.5;
  x = min_keep_nan(splat(1100.0), max_keep_nan(splat(-1100.0), x));
  const f64 magic = splat(0x1.8p52);
  const f64 t = fma(x, splat(0x1.71547652b82fep0), magic);
  const f64 n = t - magic;
  f64 r = fma(n, splat(-0x1.62e42fefa38p-1), x);            // 42 bits: the product is exact
  r = fma(n, splat(-0x1.ef35793c7673p-45), r);
  return scale2(polynomial(r, c), n, (u64)t);
}

// ---- log ---------------------------------------------------------------------------------------

// x = m * 2^e with m in [0.75, 1.5) (float), [sqrt(1/2), sqrt(2)) (double); x finite and above zero.
// With kNormal, x is known not to be denormal.
template <bool kNormal>
FR_INLINE void split(f32 x, f32& m, f32& e) {
#if FR_ISA == 2
  m = (f32)_mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  f32 shift = f32{};
  if constexpr (!kNormal) {                                 // 4/3 x must not overflow
    const auto large = x > 0x1p126f;
    x = large ? x * 0.25f : x;
    shift = large ? splat(2.0f) : f32{};
  }
  e = (f32)_mm512_getexp_ps(x * 0x1.555556p0f) + shift;     // 4/3, which rounds the same way
#else
  f32 shift = f32{};
  if constexpr (!kNormal) {
    const auto small = x < 0x1p-126f;
    x = small ? x * 0x1p24f : x;
    shift = small ? splat(-24.0f) : f32{};
  }
  const i32 bits = (i32)x - 0x3f400000;                     // 0.75
  m = (f32)((bits & 0x007fffff) + 0x3f400000);
  e = to_float(bits >> 23) + shift;
#endif
}
template <bool kNormal>
FR_INLINE void split(f64 x, f64& m, f64& e) {
  f64 shift = f64{};
  if constexpr (!kNormal) {
    const auto small = x < 0x1p-1022;
    x = small ? x * 0x1p54 : x;
    shift = small ? splat(-54.0) : f64{};
  }
  const u64 bits = (u64)x - 0x3fe6a09e667f3bcdu + 0x3ff0000000000000u;
  m = (f64)((bits & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu);
  e = (f64)((bits >> 52) | 0x4330000000000000u) - (0x1p52 + 1023.0) + shift;
}

// ln(m * 2^e) for m near 1 as split gives it, times a factor that the callers fold in.
constexpr float kLog[] = {1.0f,
                          -5.0000066397e-01f,
                          3.3333592140e-01f,
                          -2.4993218459e-01f,
                          1.9975912750e-01f,
                          -1.6824311380e-01f,
                          1.4994496220e-01f,
                          -1.2076718790e-01f,
                          5.4111731752e-02f};
FR_INLINE f32 log_split(f32 m, f32 e) {
  const f32 t = m - 1.0f;
  constexpr float c[] = {kLog[1], kLog[2], kLog[3], kLog[4], kLog[5], kLog[6], kLog[7], kLog[8]};
  const f32 tail = fma(e, splat(-2.12194440e-4f), polynomial(t, c) * (t * t));
  return fma(e, splat(0.693359375f), t + tail);
}
FR_INLINE f64 log_split(f64 m, f64 e) {
  // The series of fdlibm's e_log.c in s = f / (2 + f).
  constexpr double c[] = {6.666666666666735130e-01, 3.999999999940941908e-01,
                          2.857142874366239149e-01, 2.222219843214978396e-01,
                          1.818357216161805012e-01, 1.531383769920937332e-01,
                          1.479819860511658591e-01};
  const f64 f = m - 1.0, s = f / (f + 2.0), z = s * s;
  const f64 half = 0.5 * f * f, tail = z * polynomial(z, c);
  const f64 low = fma(e, splat(1.90821492927058770002e-10), s * (half + tail));
  return fma(e, splat(6.93147180369123816490e-01), f - (half - low));
}

// ln x everywhere, to within 3e-7 (float) or 1e-15 (double) of max(1, |ln x|).
template <class V>
FR_INLINE V log(V x) {
  V m, e;
  split<false>(x, m, e);
  V y = log_split(m, e);
  const V inf = num<V>(__builtin_inf()), zero = V{};
  y = x == inf ? inf : y;
  y = x == zero ? -inf : y;
  const V nan = num<V>(__builtin_nan(""));
  y = x < zero ? nan : y;
  return x != x ? x : y;
}

// ln(1 + x) for 0 <= x <= 1. Relative error below 3e-7 (float), 5e-16 (double).
template <class V>
FR_INLINE V log1p_unit(V x) {
  const V u = x + num<V>(1.0);
  V m, e;
  split<true>(u, m, e);
  return log_split(m, e) + (x - (u - num<V>(1.0))) / u;
}

}  // namespace fr::FR_NS
