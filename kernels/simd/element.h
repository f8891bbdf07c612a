// Element types: how two registers' worth of numbers come from memory and go back, rounded once to
// nearest even. Vector is the type of the arithmetic, Order where the elements lie in the pair.
#pragma once

#include "common/interface.h"
#include "simd/noise.h"

namespace fr::FR_NS {

template <Dtype>
struct Element;

template <>
struct Element<Dtype::f32> {
  using Memory = float;
  using Real = float;
  using Vector = f32;
  static constexpr Order order = Order::natural;
  static constexpr bool coarse = false;
  FR_INLINE void load2(const float* p, f32& a, f32& b) {
    a = load<f32>(p);
    b = load<f32>(p + W);
  }
  FR_INLINE void store2(float* p, f32 a, f32 b) {
    store(p, a);
    store(p + W, b);
  }
};

template <>
struct Element<Dtype::f64> {
  using Memory = double;
  using Real = double;
  using Vector = f64;
  static constexpr Order order = Order::natural;
  static constexpr bool coarse = false;
  FR_INLINE void load2(const double* p, f64& a, f64& b) {
    a = load<f64>(p);
    b = load<f64>(p + WD);
  }
  FR_INLINE void store2(double* p, f64 a, f64 b) {
    store(p, a);
    store(p + WD, b);
  }
};

// A 32-bit lane holds two bfloat16: the even element below, the odd one above (little endian).
template <>
struct Element<Dtype::bf16> {
  using Memory = uint16_t;
  using Real = float;
  using Vector = f32;
  static constexpr Order order = Order::split;
  static constexpr bool coarse = true;
  FR_INLINE void load2(const uint16_t* p, f32& even, f32& odd) {
    const u32 v = load<u32>(p);
    even = (f32)(v << 16);
    odd = (f32)(v & 0xffff0000u);
  }
  // Half a unit, less the smallest bit where the upper half is even. A NaN passes unharmed, for its
  // lower half is zero: it came from 16 bits, from an operation, or through canonical_nan.
  FR_INLINE u32 rounded(f32 x) {
    const u32 bits = (u32)x;
#if FR_ISA == 2
    const __mmask16 odd = _mm512_test_epi32_mask((__m512i)bits, _mm512_set1_epi32(0x10000));
    const u32 up = bits + 0x7fffu;
    return (u32)_mm512_mask_add_epi32((__m512i)up, odd, (__m512i)bits, _mm512_set1_epi32(0x8000));
#else
    return bits + ((bits >> 16) & 1u) + 0x7fffu;
#endif
  }
  FR_INLINE void store2(uint16_t* p, f32 even, f32 odd) {
    store(p, (rounded(even) >> 16) | (rounded(odd) & 0xffff0000u));
  }
};

template <>
struct Element<Dtype::f16> {
  using Memory = uint16_t;
  using Real = float;
  using Vector = f32;
  static constexpr bool coarse = true;
#if FR_ISA > 0
  static constexpr Order order = Order::natural;
#if FR_ISA == 2
  FR_INLINE f32 load1(const uint16_t* p) { return (f32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  FR_INLINE void store1(uint16_t* p, f32 x) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  FR_INLINE f32 load1(const uint16_t* p) { return (f32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
  FR_INLINE void store1(uint16_t* p, f32 x) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  FR_INLINE void load2(const uint16_t* p, f32& a, f32& b) {
    a = load1(p);
    b = load1(p + W);
  }
  FR_INLINE void store2(uint16_t* p, f32 a, f32 b) {
    store1(p, a);
    store1(p + W, b);
  }
#else
  // Without the conversion instructions: the same even and odd pairs as bfloat16, by integers.
  static constexpr Order order = Order::split;
  FR_INLINE f32 widen(u32 h) {                              // in the low 16 bits
    const u32 sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
    const f32 normal = (f32)((rest << 13) + (112u << 23));  // exponent 15 to 127
    const f32 tiny = (f32)(rest | (126u << 23)) - 0.5f;     // rest * 2^-24
    const u32 special = (rest << 13) | 0x7f800000u;         // inf and NaN
    const u32 v = rest < 0x0400u ? (u32)tiny : rest >= 0x7c00u ? special : (u32)normal;
    return (f32)(v | sign);
  }
  FR_INLINE u32 narrow(f32 x) {
    const u32 bits = (u32)x, sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
    const u32 odd = (rest >> 13) & 1u;
    const u32 normal = (rest - (112u << 23) + 0x0fffu + odd) >> 13;
    const u32 tiny = (u32)((f32)rest + 0.5f) - (126u << 23);
    u32 v = rest < (113u << 23) ? tiny : normal;
    v = rest >= 0x477ff000u ? splat(0x7c00u) : v;           // 65520 and up round to inf
    v = rest > 0x7f800000u ? splat(0x7e00u) : v;
    return v | sign;
  }
  FR_INLINE void load2(const uint16_t* p, f32& even, f32& odd) {
    const u32 v = load<u32>(p);
    even = widen(v & 0xffffu);
    odd = widen(v >> 16);
  }
  FR_INLINE void store2(uint16_t* p, f32 even, f32 odd) {
    store(p, narrow(even) | (narrow(odd) << 16));
  }
#endif
};

// The pair in memory order, and back.
template <class E, class V>
FR_INLINE void to_natural(V& a, V& b) {
  if constexpr (E::order == Order::split) zip(a, b);
}
template <class E, class V>
FR_INLINE void from_natural(V& a, V& b) {
  if constexpr (E::order == Order::split) unzip(a, b);
}

}  // namespace fr::FR_NS
