// Noise that is not normal: words of the stream as uniform numbers, and the distributions that follow
// from them in a line each. fused_reparam/rng/bases.py is the definition. Use with fill_blocks (noise.h).
//
// Errors against exact evaluation: 3e-7 (float) or 2e-15 (double) of max(1, |value|).
#pragma once

#include "simd/noise.h"

namespace fr::FR_NS {

// u in (0, 1) as its distance v to the nearer end; all bits of upper are set where that end is 1.
template <class V>
struct Uniform {
  V v;
  typename Scalar<V>::Int upper;
};

FR_INLINE Uniform<f32> uniform_of(u32 word) {
  const i32 upper = (i32)word >> 31;
  return {fma(to_float((i32)word ^ upper), splat(0x1p-32f), splat(0x1p-33f)), upper};
}
FR_INLINE Uniform<f64> uniform_of(u64 word) {
  const i64 upper = (i64)word < i64{};
  return {fma(to_double(word ^ (u64)upper), splat(0x1p-64), splat(0x1p-65)), upper};
}

// v with the sign set in the upper half: a uniform number in one register, and back.
template <class V>
FR_INLINE V packed(const Uniform<V>& u) {
  using Bits = typename Scalar<V>::Bits;
  return (V)((Bits)u.v | ((Bits)u.upper & (Bits)num<V>(-0.0)));
}
template <class V>
FR_INLINE Uniform<V> unpacked(V packed_uniform) {
  return {abs(packed_uniform), packed_uniform < V{}};
}

// A function of v that is odd about u = 1/2: positive in the upper half.
template <class V>
FR_INLINE V odd(const Uniform<V>& u, V magnitude) {
  using Bits = typename Scalar<V>::Bits;
  return (V)((Bits)magnitude ^ (~(Bits)u.upper & (Bits)num<V>(-0.0)));
}

// ln u. Where 1 - v has the exponent 0, ln(1 - v) comes from v itself, which is exact.
template <class V>
FR_INLINE V log_of(const Uniform<V>& u) {
  V m, e;
  split<true>(u.upper ? num<V>(1.0) - u.v : u.v, m, e);
  return log_near(e == V{} ? -u.v : m - num<V>(1.0), e);
}

// ln x for x that is neither zero, denormal, infinite nor NaN.
template <class V>
FR_INLINE V log_plain(V x) {
  V m, e;
  split<true>(x, m, e);
  return log_near(m - num<V>(1.0), e);
}

// Each makes one standard member of a uniform number.
struct UniformBits {
  template <class V>
  FR_INLINE V of(const Uniform<V>& u) { return packed(u); }
};
struct Exponential {                                        // -ln u
  template <class V>
  FR_INLINE V of(const Uniform<V>& u) { return -log_of(u); }
};
struct Gumbel {                                             // -ln(-ln u)
  template <class V>
  FR_INLINE V of(const Uniform<V>& u) { return -log_plain(-log_of(u)); }
};
struct Laplace {                                            // -+ ln(2 v)
  template <class V>
  FR_INLINE V of(const Uniform<V>& u) { return odd(u, -log_plain(u.v + u.v)); }
};
struct Logistic {                                           // ln(u / (1 - u))
  template <class V>
  FR_INLINE V of(const Uniform<V>& u) { return odd(u, log_plain((num<V>(1.0) - u.v) / u.v)); }
};
struct Symmetric {                                          // 2 u - 1
  template <class V>
  FR_INLINE V of(const Uniform<V>& u) { return odd(u, num<V>(1.0) - (u.v + u.v)); }
};
struct Cauchy {                                             // tan(pi (u - 1/2)) = +- cot(pi v)
  template <class V>
  FR_INLINE V of(const Uniform<V>& u) {
    const V x = u.v * num<V>(2.0 * kHalfPi / Trig<V>::unit), y = x * x;
    return odd(u, polynomial(y, Trig<V>::cosine) / (x * polynomial(y, Trig<V>::sine)));
  }
};

// Any of these as the Make of noise.h. Student's t takes two numbers for an element and is made of
// UniformBits.
template <class Base>
struct FromUniform {
  template <int N>
  FR_INLINE void make(const u32 (&w0)[N], const u32 (&w1)[N], f32 (&n0)[N], f32 (&n1)[N]) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      n0[j] = Base::of(uniform_of(w0[j]));
      n1[j] = Base::of(uniform_of(w1[j]));
    }
  }
  FR_INLINE void make(u64 w0, u64 w1, u64 w2, u64 w3, f64& n0, f64& n1) {
    const u64 low = splat((uint64_t)0xffffffffu);
    n0 = Base::of(uniform_of((w0 << 32) | (w1 & low)));
    n1 = Base::of(uniform_of((w2 << 32) | (w3 & low)));
  }
};

}  // namespace fr::FR_NS
