// Elementary functions on vectors, for float and double. Errors are against exact arithmetic; inputs
// that are NaN give NaN, and infinities and zeros give what the C library gives unless stated.
#pragma once

#include "simd/vec.h"

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

// e^r - 1 without its first power of r: coefficients of r, r^2, ...; float's fitted by minimax of e^r.
constexpr float kExp[] = {1.0000000337e+00f, 5.0000001302e-01f, 1.6666426578e-01f,
                          4.1666134655e-02f, 8.3744577497e-03f, 1.3953990392e-03f};
constexpr double kExpDouble[] = {1.0,
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

// x = kDivide (n ln 2 + r), r within kDivide ln(2) / 2 of zero and in units of x; t holds n's bits for
// scale2.
template <int kDivide = 1>
FR_INLINE void reduce_exp(f32 x, f32& t, f32& n, f32& r) {
  const f32 magic = splat(0x1.8p23f);
  t = fma(x, splat(0x1.715476p0f / kDivide), magic);
  n = t - magic;
  r = fma(n, splat(-0x1.62e4p-1f * kDivide), x);            // 15 bits: the product is exact
  r = fma(n, splat(-0x1.7f7d1cp-20f * kDivide), r);
}
template <int kDivide = 1>
FR_INLINE void reduce_exp(f64 x, f64& t, f64& n, f64& r) {
  static_assert(kDivide == 1);
  const f64 magic = splat(0x1.8p52);
  t = fma(x, splat(0x1.71547652b82fep0), magic);
  n = t - magic;
  r = fma(n, splat(-0x1.62e42fefa38p-1), x);                // 42 bits: the product is exact
  r = fma(n, splat(-0x1.ef35793c7673p-45), r);
}

// e^(x / kDivide), kDivide 1 or 2. Relative error below 1.2e-7 (float), 2e-16 (double). `exp_within` is
// for x / kDivide within +-128 (float), +-1100 (double), or NaN.
template <int kDivide = 1>
FR_INLINE f32 exp_within(f32 x) {
  constexpr float d = 1.0f / kDivide;
  constexpr float c[] = {1.0f,
                         kExp[0] * d,
                         kExp[1] * d * d,
                         kExp[2] * d * d * d,
                         kExp[3] * d * d * d * d,
                         kExp[4] * d * d * d * d * d,
                         kExp[5] * d * d * d * d * d * d};
  f32 t, n, r;
  reduce_exp<kDivide>(x, t, n, r);
  return scale2(polynomial(r, c), n, (u32)t);
}
template <int kDivide = 1>
FR_INLINE f32 exp(f32 x) {
  constexpr float most = 128.0f * kDivide;
  return exp_within<kDivide>(min_keep_nan(splat(most), max_keep_nan(splat(-most), x)));
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
FR_INLINE f64 exp_within(f64 x) {
  f64 t, n, r;
  reduce_exp(x, t, n, r);
  return scale2(fma(polynomial(r, kExpDouble), r, splat(1.0)), n, (u64)t);
}
template <int kDivide = 1>
FR_INLINE f64 exp(f64 x) {
  if constexpr (kDivide == 2) x = x * 0.5;
  return exp_within(min_keep_nan(splat(1100.0), max_keep_nan(splat(-1100.0), x)));
}

// e^x - 1 = 2^n ((e^r - 1) + (1 - 2^-n)). Relative error below 3e-7 (float), 5e-16 (double).
template <class V>
FR_INLINE V expm1(V x) {
  using Bits = typename Scalar<V>::Bits;
  constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
  const V one = num<V>(1.0);
  x = max_keep_nan(num<V>(single ? -80.0 : -700.0), x);     // below, it is -1
  x = min_keep_nan(num<V>(single ? 128.0 : 1100.0), x);
  V t, n, r, p;
  reduce_exp(x, t, n, r);
  if constexpr (single)
    p = polynomial(r, kExp) * r;
  else
    p = polynomial(r, kExpDouble) * r;
  const V minus = num<V>(single ? 0x1.8p23 : 0x1.8p52) - n;
  return scale2(p + (one - scale2(one, -n, (Bits)minus)), n, (Bits)t);
}

// e^x, and e^x - 1 from the same reduction, for x in [-128, 0] (float), [-1100, 0] (double) or NaN: to
// the last bits of each.
template <class V>
FR_INLINE void exp_expm1_within(V x, V& e, V& minus) {
  using Bits = typename Scalar<V>::Bits;
  const V one = num<V>(1.0);
  V t, n, r, p;
  reduce_exp(x, t, n, r);
  if constexpr (sizeof(typename Scalar<V>::type) == 4)
    p = polynomial(r, kExp);
  else
    p = polynomial(r, kExpDouble);
  e = scale2(fma(p, r, one), n, (Bits)t);
  minus = n == V{} ? p * r : e - one;
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
  const i32 bits = (i32)((u32)x - 0x3f400000u);             // 0.75; unsigned, which may wrap
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
// What ln(1 + f) is beyond f, also to the last bits of itself, for f as m - 1 is.
FR_INLINE f32 log_beyond(f32 f) {
  constexpr float c[] = {kLog[1], kLog[2], kLog[3], kLog[4], kLog[5], kLog[6], kLog[7], kLog[8]};
  return polynomial(f, c) * (f * f);
}
FR_INLINE f32 log_split(f32 m, f32 e) {
  const f32 t = m - 1.0f, tail = fma(e, splat(-2.12194440e-4f), log_beyond(t));
  return fma(e, splat(0.693359375f), t + tail);
}
// The series of fdlibm's e_log.c in s = f / (2 + f).
constexpr double kLogDouble[] = {6.666666666666735130e-01, 3.999999999940941908e-01,
                                 2.857142874366239149e-01, 2.222219843214978396e-01,
                                 1.818357216161805012e-01, 1.531383769920937332e-01,
                                 1.479819860511658591e-01};
FR_INLINE f64 log_beyond(f64 f) {
  const f64 s = f / (f + 2.0), z = s * s, half = 0.5 * f * f;
  return s * fma(z, polynomial(z, kLogDouble), half) - half;
}
// The same from f = m - 1.
FR_INLINE f64 log_near(f64 f, f64 e) {
  const f64 s = f / (f + 2.0), z = s * s;
  const f64 half = 0.5 * f * f, tail = z * polynomial(z, kLogDouble);
  const f64 low = fma(e, splat(1.90821492927058770002e-10), s * (half + tail));
  return fma(e, splat(6.93147180369123816490e-01), f - (half - low));
}
FR_INLINE f64 log_split(f64 m, f64 e) { return log_near(m - 1.0, e); }
// For float with one part of ln 2: within 2e-7 of max(|f|, |e|), and two instructions shorter.
FR_INLINE f32 log_near(f32 f, f32 e) {
  return fma(e, splat(0.6931471806f), f * polynomial(f, kLog));
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

// ln x for x that is neither negative nor zero, to within the same.
template <class V>
FR_INLINE V log_positive(V x) {
  V m, e;
  split<false>(x, m, e);
  return x < num<V>(__builtin_inf()) ? log_split(m, e) : x;
}

// ln(1 + t), and what it is beyond t, from t and q = 1 + t: near q = 1 of t, which keeps its digits there, and
// elsewhere of q, which does there. A q below the smallest normal number counts as that.
template <class V>
FR_INLINE V log_of_both(V t, V q, V& beyond) {
  constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
  const auto near = (t > num<V>(single ? -0.25 : -0.2928)) & (t < num<V>(single ? 0.5 : 0.4142));
  V m, e;
  split<true>(max_keep_nan(num<V>(single ? 0x1p-126 : 0x1p-1022), q), m, e);
  const V f = near ? t : m - num<V>(1.0), rest = log_beyond(f);
  e = near ? V{} : e;
  const V low = num<V>(single ? -2.12194440e-4 : 1.90821492927058770002e-10);
  const V high = num<V>(single ? 0.693359375 : 6.93147180369123816490e-01);
  const V all = fma(e, high, f + fma(e, low, rest)), found = q == q ? all : q;
  beyond = near ? rest : found - t;
  return found;
}

// ln(1 + x) for 0 <= x <= 1. Relative error below 3e-7 (float), 5e-16 (double). For float ln(1 + x) / x
// by minimax, to within 3e-8: 9 instructions, where a logarithm takes 21 and a division.
FR_INLINE f32 log1p_unit(f32 x) {
  constexpr float c[] = {9.999999404e-01f, -4.999949336e-01f, 3.331909776e-01f,
                         -2.484298199e-01f, 1.910600811e-01f, -1.366324723e-01f,
                         7.822596282e-02f, -2.950524352e-02f, 5.232694559e-03f};
  return x * polynomial(x, c);
}
FR_INLINE f64 log1p_unit(f64 x) {
  const f64 u = x + 1.0;
  f64 m, e;
  split<true>(u, m, e);
  return log_split(m, e) + (x - (u - 1.0)) / u;
}

// 1 / x for x from 2^-126 to 2^126. Relative error below 2e-7 (float): 3 instructions, where a division
// of a register of 16 takes as long as 16 multiplications.
FR_INLINE f32 reciprocal(f32 x) {
#if FR_ISA == 2
  const f32 r = (f32)_mm512_rcp14_ps((__m512)x);
  return r * fma(-x, r, splat(2.0f));
#else
  return 1.0f / x;
#endif
}
FR_INLINE f64 reciprocal(f64 x) { return 1.0 / x; }

// ln(1 - e^-t) of t = x / y > 0, and its derivative times t, t / (e^t - 1): from the side on which
// nothing cancels.
template <class V>
struct LogOfQuotient {
  V log, slope;
};
template <class V>
FR_INLINE LogOfQuotient<V> log1mexp_of_quotient(V x, V y) {
  constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
  // A t that is tiny, also one that the dtype does not hold, is 1 - e^-t itself: it is taken this many
  // times as large, and the logarithm less.
  constexpr double up = single ? 0x1p100 : 0x1p900, log_up = 0.69314718055994530942 * (single ? 100 : 900);
  const V one = num<V>(1.0), scaled = x * num<V>(up) / y, t = scaled * num<V>(1 / up);
  const V bounded = min_keep_nan(num<V>(single ? 128.0 : 1100.0), t);
  V e, minus;
  exp_expm1_within(-bounded, e, minus);
  const auto tiny = t < num<V>(single ? 0x1p-30 : 0x1p-60), large = t > num<V>(0.6931471805599453);
  const V rest = one - e;                                   // e is at most 1/2 where this is taken
  const V lost = ((one - rest) - e) * reciprocal(rest + num<V>(0x1p-60));
  const V shift = tiny ? num<V>(-log_up) : large ? lost : V{};
  const V y_log = log(tiny ? scaled : large ? rest : -minus) + shift;
  return {y_log, tiny ? one : bounded * e / -minus};
}

}  // namespace fr::FR_NS
