// Vectors of one register, written once for every instruction set.
//
// FR_ISA picks the form: 2 AVX-512, 1 AVX2 + FMA + F16C, 0 portable (compiler vectors of 16 bytes).
// Arithmetic, logic and comparison come from the compiler's vector extensions; what they cannot say
// well (fused multiply-add, widening products, conversions, lane moves) is a function here.
// Everything lives in a namespace named after the form, so that no inline function compiled for one
// instruction set can be taken by the linker for another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if FR_ISA > 0 || defined(__SSE2__)
#include <immintrin.h>
#endif

#if FR_ISA == 2
#define FR_NS avx512
#define FR_BYTES 64
#elif FR_ISA == 1
#define FR_NS avx2
#define FR_BYTES 32
#else
#define FR_NS portable
#define FR_BYTES 16
#endif

#define FR_INLINE static inline __attribute__((always_inline))

namespace fr::FR_NS {

constexpr int W = FR_BYTES / 4;   // lanes of 32 bits
constexpr int WD = FR_BYTES / 8;  // lanes of 64 bits

typedef float f32 __attribute__((vector_size(FR_BYTES)));
typedef double f64 __attribute__((vector_size(FR_BYTES)));
typedef uint32_t u32 __attribute__((vector_size(FR_BYTES)));
typedef int32_t i32 __attribute__((vector_size(FR_BYTES)));
typedef uint64_t u64 __attribute__((vector_size(FR_BYTES)));
typedef int64_t i64 __attribute__((vector_size(FR_BYTES)));

// ---- memory: any alignment -------------------------------------------------------------------

template <class V>
FR_INLINE V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
FR_INLINE void store(void* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

// ---- one value in every lane -----------------------------------------------------------------

template <class V, class T>
FR_INLINE V fill(T x) {
  V v;
  for (size_t i = 0; i < sizeof(V) / sizeof(T); ++i) v[i] = x;
  return v;
}
#if FR_ISA == 2
FR_INLINE f32 splat(float x) { return (f32)_mm512_set1_ps(x); }
FR_INLINE f64 splat(double x) { return (f64)_mm512_set1_pd(x); }
FR_INLINE u32 splat(uint32_t x) { return (u32)_mm512_set1_epi32((int)x); }
FR_INLINE u64 splat(uint64_t x) { return (u64)_mm512_set1_epi64((long long)x); }
#elif FR_ISA == 1
FR_INLINE f32 splat(float x) { return (f32)_mm256_set1_ps(x); }
FR_INLINE f64 splat(double x) { return (f64)_mm256_set1_pd(x); }
FR_INLINE u32 splat(uint32_t x) { return (u32)_mm256_set1_epi32((int)x); }
FR_INLINE u64 splat(uint64_t x) { return (u64)_mm256_set1_epi64x((long long)x); }
#else
FR_INLINE f32 splat(float x) { return fill<f32>(x); }
FR_INLINE f64 splat(double x) { return fill<f64>(x); }
FR_INLINE u32 splat(uint32_t x) { return fill<u32>(x); }
FR_INLINE u64 splat(uint64_t x) { return fill<u64>(x); }
#endif

// ---- a * b + c, rounded once where the machine can --------------------------------------------

#if FR_ISA == 2
FR_INLINE f32 fma(f32 a, f32 b, f32 c) { return (f32)_mm512_fmadd_ps(a, b, c); }
FR_INLINE f64 fma(f64 a, f64 b, f64 c) { return (f64)_mm512_fmadd_pd(a, b, c); }
FR_INLINE f32 sqrt(f32 a) { return (f32)_mm512_sqrt_ps(a); }
FR_INLINE f64 sqrt(f64 a) { return (f64)_mm512_sqrt_pd(a); }
#elif FR_ISA == 1
FR_INLINE f32 fma(f32 a, f32 b, f32 c) { return (f32)_mm256_fmadd_ps(a, b, c); }
FR_INLINE f64 fma(f64 a, f64 b, f64 c) { return (f64)_mm256_fmadd_pd(a, b, c); }
FR_INLINE f32 sqrt(f32 a) { return (f32)_mm256_sqrt_ps(a); }
FR_INLINE f64 sqrt(f64 a) { return (f64)_mm256_sqrt_pd(a); }
#else
FR_INLINE f32 fma(f32 a, f32 b, f32 c) { return a * b + c; }
FR_INLINE f64 fma(f64 a, f64 b, f64 c) { return a * b + c; }
#if defined(__SSE2__)
FR_INLINE f32 sqrt(f32 a) { return (f32)_mm_sqrt_ps(a); }
FR_INLINE f64 sqrt(f64 a) { return (f64)_mm_sqrt_pd(a); }
#else
FR_INLINE f32 sqrt(f32 a) {
  for (int i = 0; i < W; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
FR_INLINE f64 sqrt(f64 a) {
  for (int i = 0; i < WD; ++i) a[i] = __builtin_sqrt(a[i]);
  return a;
}
#endif
#endif

// ---- choosing ----------------------------------------------------------------------------------

// The bound comes first so that a NaN in x is kept.
#if FR_ISA == 2
FR_INLINE f32 max_keep_nan(f32 bound, f32 x) { return (f32)_mm512_max_ps(bound, x); }
FR_INLINE f32 min_keep_nan(f32 bound, f32 x) { return (f32)_mm512_min_ps(bound, x); }
FR_INLINE f64 max_keep_nan(f64 bound, f64 x) { return (f64)_mm512_max_pd(bound, x); }
FR_INLINE f64 min_keep_nan(f64 bound, f64 x) { return (f64)_mm512_min_pd(bound, x); }
#elif FR_ISA == 1
FR_INLINE f32 max_keep_nan(f32 bound, f32 x) { return (f32)_mm256_max_ps(bound, x); }
FR_INLINE f32 min_keep_nan(f32 bound, f32 x) { return (f32)_mm256_min_ps(bound, x); }
FR_INLINE f64 max_keep_nan(f64 bound, f64 x) { return (f64)_mm256_max_pd(bound, x); }
FR_INLINE f64 min_keep_nan(f64 bound, f64 x) { return (f64)_mm256_min_pd(bound, x); }
#else
template <class V>
FR_INLINE V max_keep_nan(V bound, V x) {
  return bound > x ? bound : x;
}
template <class V>
FR_INLINE V min_keep_nan(V bound, V x) {
  return bound < x ? bound : x;
}
#endif

// ---- integers ----------------------------------------------------------------------------------

// The 64-bit products of the low halves of each 64-bit lane.
FR_INLINE u64 mul_low(u64 a, u64 b) {
#if FR_ISA == 2
  return (u64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif FR_ISA == 1
  return (u64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (u64)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

FR_INLINE u64 xor3(u64 a, u64 b, u64 c) {
#if FR_ISA == 2
  return (u64)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
#else
  return a ^ b ^ c;
#endif
}

// The high (low) halves of each 64-bit lane of a and b: a's in the even, b's in the odd 32-bit lanes.
FR_INLINE u32 pack_high(u64 a, u64 b) {
#if FR_ISA == 2
  return (u32)_mm512_mask_movehdup_ps((__m512)b, 0x5555, (__m512)a);
#elif FR_ISA == 1
  return (u32)_mm256_blend_epi32((__m256i)(a >> 32), (__m256i)b, 0xaa);
#else
  return (u32)((a >> 32) | (b & 0xffffffff00000000u));
#endif
}
FR_INLINE u32 pack_low(u64 a, u64 b) {
#if FR_ISA == 2
  return (u32)_mm512_mask_moveldup_ps((__m512)a, 0xaaaa, (__m512)b);
#elif FR_ISA == 1
  return (u32)_mm256_blend_epi32((__m256i)a, (__m256i)(b << 32), 0xaa);
#else
  return (u32)((a & 0xffffffffu) | (b << 32));
#endif
}

// ---- integer to floating point, rounded once ----------------------------------------------------

FR_INLINE f32 to_float(i32 a) {
#if FR_ISA == 2
  return (f32)_mm512_cvtepi32_ps((__m512i)a);
#elif FR_ISA == 1
  return (f32)_mm256_cvtepi32_ps((__m256i)a);
#else
  return __builtin_convertvector(a, f32);
#endif
}
FR_INLINE f32 to_float(u32 a) {
#if FR_ISA == 2
  return (f32)_mm512_cvtepu32_ps((__m512i)a);
#else
  // The high half as an exact multiple of 65536, then one rounding in the sum.
  const f32 high = (f32)((a >> 16) | 0x53000000u) - splat(0x1.0001p39f);  // 2^39 + 2^23
  const f32 low = (f32)((a & 0xffffu) | 0x4b000000u);                     // 2^23 + low
  return high + low;
#endif
}
FR_INLINE f64 to_double(u64 a) {
#if FR_ISA == 2
  return (f64)_mm512_cvtepu64_pd((__m512i)a);
#else
  const f64 high = (f64)((a >> 32) | 0x4530000000000000u) - splat(0x1.00000001p84);
  const f64 low = (f64)((a & 0xffffffffu) | 0x4330000000000000u);
  return high + low;
#endif
}
FR_INLINE f64 to_double(i64 a) {
#if FR_ISA == 2
  return (f64)_mm512_cvtepi64_pd((__m512i)a);
#else
  // As above, with the sign bit flipped and its weight taken off again: 2^84 + 2^63 + 2^52.
  const u64 flipped = (u64)a ^ 0x8000000000000000u;
  const f64 high = (f64)((flipped >> 32) | 0x4530000000000000u) - splat(0x1.00000801p84);
  const f64 low = (f64)((flipped & 0xffffffffu) | 0x4330000000000000u);
  return high + low;
#endif
}

// ---- lane moves, each within 128-bit parts unless said otherwise --------------------------------

#if defined(__clang__) || __GNUC__ >= 12
#define FR_SHUFFLE __builtin_shufflevector
#else
#error "a compiler with __builtin_shufflevector is needed: GCC 12 or later, or Clang"
#endif

#if FR_ISA == 2
FR_INLINE f32 unpack_low(f32 a, f32 b) { return (f32)_mm512_unpacklo_ps(a, b); }
FR_INLINE f32 unpack_high(f32 a, f32 b) { return (f32)_mm512_unpackhi_ps(a, b); }
FR_INLINE f64 unpack_low(f64 a, f64 b) { return (f64)_mm512_unpacklo_pd(a, b); }
FR_INLINE f64 unpack_high(f64 a, f64 b) { return (f64)_mm512_unpackhi_pd(a, b); }
#elif FR_ISA == 1
FR_INLINE f32 unpack_low(f32 a, f32 b) { return (f32)_mm256_unpacklo_ps(a, b); }
FR_INLINE f32 unpack_high(f32 a, f32 b) { return (f32)_mm256_unpackhi_ps(a, b); }
FR_INLINE f64 unpack_low(f64 a, f64 b) { return (f64)_mm256_unpacklo_pd(a, b); }
FR_INLINE f64 unpack_high(f64 a, f64 b) { return (f64)_mm256_unpackhi_pd(a, b); }
#else
FR_INLINE f32 unpack_low(f32 a, f32 b) { return FR_SHUFFLE(a, b, 0, 4, 1, 5); }
FR_INLINE f32 unpack_high(f32 a, f32 b) { return FR_SHUFFLE(a, b, 2, 6, 3, 7); }
FR_INLINE f64 unpack_low(f64 a, f64 b) { return FR_SHUFFLE(a, b, 0, 2); }
FR_INLINE f64 unpack_high(f64 a, f64 b) { return FR_SHUFFLE(a, b, 1, 3); }
#endif

// Across the whole register: even and odd elements to consecutive ones, and back.
FR_INLINE void zip(f32& a, f32& b) {
  const f32 e = a, o = b;
#if FR_ISA == 2
  a = FR_SHUFFLE(e, o, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  b = FR_SHUFFLE(e, o, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif FR_ISA == 1
  a = FR_SHUFFLE(e, o, 0, 8, 1, 9, 2, 10, 3, 11);
  b = FR_SHUFFLE(e, o, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  a = unpack_low(e, o);
  b = unpack_high(e, o);
#endif
}
FR_INLINE void unzip(f32& a, f32& b) {
  const f32 x = a, y = b;
#if FR_ISA == 2
  a = FR_SHUFFLE(x, y, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  b = FR_SHUFFLE(x, y, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif FR_ISA == 1
  a = FR_SHUFFLE(x, y, 0, 2, 4, 6, 8, 10, 12, 14);
  b = FR_SHUFFLE(x, y, 1, 3, 5, 7, 9, 11, 13, 15);
#else
  a = FR_SHUFFLE(x, y, 0, 2, 4, 6);
  b = FR_SHUFFLE(x, y, 1, 3, 5, 7);
#endif
}

FR_INLINE void unzip(f64& a, f64& b) {
  const f64 x = a, y = b;
#if FR_ISA == 2
  a = FR_SHUFFLE(x, y, 0, 2, 4, 6, 8, 10, 12, 14);
  b = FR_SHUFFLE(x, y, 1, 3, 5, 7, 9, 11, 13, 15);
#elif FR_ISA == 1
  a = FR_SHUFFLE(x, y, 0, 2, 4, 6);
  b = FR_SHUFFLE(x, y, 1, 3, 5, 7);
#else
  a = FR_SHUFFLE(x, y, 0, 2);
  b = FR_SHUFFLE(x, y, 1, 3);
#endif
}

// ---- sum of the lanes, always in the same tree ---------------------------------------------------

template <class V, class T>
FR_INLINE T sum_lanes(V v, T) {
  T lane[sizeof(V) / sizeof(T)];
  std::memcpy(lane, &v, sizeof v);
  for (size_t half = sizeof(V) / sizeof(T) / 2; half > 0; half /= 2)
    for (size_t i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}
FR_INLINE float sum(f32 v) { return sum_lanes(v, 0.0f); }
FR_INLINE double sum(f64 v) { return sum_lanes(v, 0.0); }

}  // namespace fr::FR_NS
