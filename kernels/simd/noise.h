// Noise stream, version 1: standard normals by the Box-Muller transform of Philox words, a tile at
// a time, into linear memory. All four words of a block and both normals of each pair are used.
//
// Errors against exact evaluation of the stream's formula: 2e-6 absolute (float, |z| up to 6.8),
// 2e-14 (double).
#pragma once

#include <type_traits>

#include "simd/math.h"
#include "simd/philox.h"

namespace fr::FR_NS {

// sin a = x polynomial(x^2, sine) and cos a = polynomial(x^2, cosine) for |a| <= pi / 2, by minimax.
constexpr double kHalfPi = 1.57079632679489661923;

template <class V>
struct Trig;
template <>
struct Trig<f32> {
  // x = a / (pi / 2), so that the scaling of x is exact.
  static constexpr double unit = kHalfPi;
  static constexpr double q = unit, qq = q * q;
  static constexpr float sine[] = {(float)(9.9999997712e-01 * q), (float)(-1.6666647851e-01 * q * qq),
                                   (float)(8.3329025433e-03 * q * qq * qq),
                                   (float)(-1.9801031280e-04 * q * qq * qq * qq),
                                   (float)(2.5907133166e-06 * q * qq * qq * qq * qq)};
  static constexpr float cosine[] = {9.9999995347e-01f, (float)(-4.9999905348e-01 * qq),
                                     (float)(4.1663584701e-02 * qq * qq),
                                     (float)(-1.3853704330e-03 * qq * qq * qq),
                                     (float)(2.3153931652e-05 * qq * qq * qq * qq)};
};
template <>
struct Trig<f64> {
  static constexpr double unit = 1.0;  // x = a
  static constexpr double sine[] = {9.99999999999999111822e-01,  -1.66666666666648227713e-01,
                                    8.33333333322779437613e-03,  -1.98412698142217753172e-04,
                                    2.75573155528727370861e-06,  -2.50518258326218086700e-08,
                                    1.60466506504309997733e-10,  -7.35797261708968038462e-13};
  static constexpr double cosine[] = {1.0,                         -4.99999999999999722444e-01,
                                      4.16666666666638887961e-02,  -1.38888888887731725211e-03,
                                      2.48015872774439623282e-05,  -2.75573163935359542254e-07,
                                      2.08765619601514697667e-09,  -1.14629048997844289359e-11,
                                      4.60900737682665002872e-14};
};

// A pair (r cos 2 pi v, r sin 2 pi v), r = sqrt(-2 ln u). The angle comes from the word itself: the
// lower 31 bits, read as a signed number, are an angle in [-pi/2, pi/2), off by pi when the upper two
// bits differ, which turns the sign of both.
//
// N registers of pairs go in step, operation by operation: each waits for the one before it, and the
// machine can look ahead only so far.
template <int N>
FR_INLINE void box_muller(const u32 (&w0)[N], const u32 (&w1)[N], f32 (&n0)[N], f32 (&n1)[N]) {
  // -2 ln(1 + t) / t, minimax of relative error 3e-8 on [-0.25, 0.5].
  constexpr float log_c[] = {-2 * kLog[0], -2 * kLog[1], -2 * kLog[2], -2 * kLog[3], -2 * kLog[4],
                             -2 * kLog[5], -2 * kLog[6], -2 * kLog[7], -2 * kLog[8]};
  f32 t[N], e[N], r[N], x[N], y[N], s[N], c[N];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    const f32 u = fma(to_float(w0[j]), splat(0x1p-32f), splat(0x1p-33f));
    split<true>(u, t[j], e[j]);
    t[j] = t[j] - 1.0f;
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    x[j] = to_float((i32)(w1[j] << 1)) * 0x1p-31f;
    y[j] = x[j] * x[j];
  }
  polynomials(t, log_c, r);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) r[j] = sqrt(fma(e[j], splat(-1.3862943611f), t[j] * r[j]));
  polynomials(y, Trig<f32>::sine, s);
  polynomials(y, Trig<f32>::cosine, c);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    const f32 signed_r = (f32)((u32)r[j] ^ ((w1[j] ^ (w1[j] << 1)) & 0x80000000u));
    n0[j] = signed_r * c[j];
    n1[j] = signed_r * (x[j] * s[j]);
  }
}

FR_INLINE void box_muller(u64 w0, u64 w1, u64 w2, u64 w3, f64& n0, f64& n1) {
  const u64 low = splat((uint64_t)0xffffffffu);
  f64 u = to_double((w0 << 32) | (w1 & low)) * 0x1p-64;
  u = u > 0x1p-64 ? u : splat(0x1p-64);
  f64 m, e;
  split<true>(u, m, e);
  const f64 s2 = log_split(m, e) * -2.0;
  const f64 r = sqrt(s2 > 0.0 ? s2 : f64{});
  // The half angle a in [-pi/2, pi/2): cos 2a = 1 - 2 sin^2 a, sin 2a = 2 sin a cos a.
  const f64 x = to_double((i64)((w2 << 32) | (w3 & low))) * (3.14159265358979323846 * 0x1p-64);
  const f64 y = x * x, s = x * polynomial(y, Trig<f64>::sine), rs = 2.0 * r * s;
  n0 = fma(-rs, s, r);
  n1 = rs * polynomial(y, Trig<f64>::cosine);
}

// How the normals of 2 W consecutive elements lie in two registers: one after the other, or the
// even elements in the first and the odd ones in the second (which suits pairs of 16-bit numbers).
enum class Order { natural, split };

constexpr int kPairs = FR_ISA == 2 ? 2 : 1;        // pairs of Philox chains side by side
constexpr int kGroup = 4 * W * kPairs;             // float elements made in one go

// Which block the 32-bit lane l of a group of W blocks works on, so that the moves at the end, which
// stay within 128 bits, bring the normals into memory order.
template <Order order>
constexpr uint64_t block_of_lane(int l) {
  const int k = l / 4, j = l % 4;
  if (order == Order::natural) return (uint64_t)(W / 4 * j + k);
  return (uint64_t)(j < 2 ? 2 * k + j : W / 2 + 2 * k + j - 2);
}

// Operands that will be wanted when the noise is there. Making it touches no memory, so meanwhile
// they can come nearer: without this, a large tensor's transfer and its arithmetic took turns (16M
// float32 elements: 2.5 ns per element for both passes, 2.0 with it).
template <int N>
struct Fetch {
  const void* operand[N];
  int64_t bytes;                                            // of one element
};
template <int N>
FR_INLINE void fetch(const Fetch<N>& ahead, int64_t first, int64_t count) {
  constexpr int64_t kLine = 64;
  const int64_t end = (first + count) * ahead.bytes;
  for (int64_t at = first * ahead.bytes; at < end; at += kLine) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) __builtin_prefetch((const char*)ahead.operand[j] + at, 0, 2);
  }
}
struct NoFetch {};
FR_INLINE void fetch(NoFetch, int64_t, int64_t) {}

// What becomes of a block's words, as Make in what follows. This one: a pair of normals of each two.
struct Normal {
  template <int N>
  FR_INLINE void make(const u32 (&w0)[N], const u32 (&w1)[N], f32 (&n0)[N], f32 (&n1)[N]) {
    box_muller(w0, w1, n0, n1);
  }
  FR_INLINE void make(u64 w0, u64 w1, u64 w2, u64 w3, f64& n0, f64& n1) {
    box_muller(w0, w1, w2, w3, n0, n1);
  }
};

// Which blocks to make: consecutive ones. at() gives the counters of blocks first + lane.
struct Line {
  uint64_t counter;
  __attribute__((always_inline)) u64 at(int64_t first, u64 lane) const {
    return splat(counter + (uint64_t)first) + lane;
  }
  uint64_t first_counter() const { return counter; }
  uint64_t last_counter(int64_t blocks) const { return counter + (uint64_t)(blocks - 1); }
};

template <class Make, Order order, bool kOneHigh, class Blocks, class Ahead>
FR_INLINE void noise_groups(const PhiloxKey& key, const Blocks& blocks, int64_t groups, float* out,
                            const Ahead& ahead) {
  u64 even, odd;
  for (int l = 0; l < W; l += 2) {
    even[l / 2] = block_of_lane<order>(l);
    odd[l / 2] = block_of_lane<order>(l + 1);
  }
  const uint32_t high = (uint32_t)(blocks.first_counter() >> 32);
  for (int64_t g = 0, block = 0; g < groups; ++g, block += W * kPairs, out += kGroup) {
    fetch(ahead, g * kGroup, kGroup);
    u64 c[2 * kPairs];
#pragma GCC unroll 4
    for (int j = 0; j < kPairs; ++j) {
      c[2 * j] = blocks.at(block + W * j, even);
      c[2 * j + 1] = blocks.at(block + W * j, odd);
    }
    Words<2 * kPairs> w;
    philox_nine_rounds<kOneHigh>(c, high, key, w);
    // Rows: the words w0, w1 and then w2, w3 of each pair of chains.
    u32 first[2 * kPairs], second[2 * kPairs];
    philox_last_packed(w, key, first, second);
    f32 n0[2 * kPairs], n1[2 * kPairs];
    Make::make(first, second, n0, n1);
#pragma GCC unroll 4
    for (int j = 0; j < kPairs; ++j) {
      const f32 a = n0[2 * j], b = n1[2 * j], c = n0[2 * j + 1], d = n1[2 * j + 1];
      float* p = out + 4 * W * j;
      if constexpr (order == Order::natural) {
        const f32 ab0 = unpack_low(a, b), ab1 = unpack_high(a, b);
        const f32 cd0 = unpack_low(c, d), cd1 = unpack_high(c, d);
        store(p, (f32)unpack_low((f64)ab0, (f64)cd0));
        store(p + W, (f32)unpack_high((f64)ab0, (f64)cd0));
        store(p + 2 * W, (f32)unpack_low((f64)ab1, (f64)cd1));
        store(p + 3 * W, (f32)unpack_high((f64)ab1, (f64)cd1));
      } else {
        // Even elements are lanes 0 and 2 of a block (a, c), odd ones lanes 1 and 3 (b, d).
        store(p, unpack_low(a, c));
        store(p + W, unpack_low(b, d));
        store(p + 2 * W, unpack_high(a, c));
        store(p + 3 * W, unpack_high(b, d));
      }
    }
  }
}

template <class Make, Order, bool kOneHigh, class Blocks, class Ahead>
FR_INLINE void noise_groups(const PhiloxKey& key, const Blocks& blocks, int64_t groups, double* out,
                            const Ahead& ahead) {
  u64 lanes;
  for (int l = 0; l < WD; ++l) lanes[l] = (uint64_t)(WD / 2 * (l % 2) + l / 2);
  const uint32_t high = (uint32_t)(blocks.first_counter() >> 32);
  for (int64_t g = 0, block = 0; g < groups; ++g, block += 2 * WD, out += 4 * WD) {
    fetch(ahead, g * 4 * WD, 4 * WD);
    const u64 c[2] = {blocks.at(block, lanes), blocks.at(block + WD, lanes)};
    Words<2> w;
    philox_nine_rounds<kOneHigh>(c, high, key, w);
    philox_round(w, key.k0[9], key.k1[9]);
    for (int j = 0; j < 2; ++j) {
      f64 a, b;
      Make::make(w.c0[j], w.c1[j], w.c2[j], w.c3[j], a, b);
      store(out + 2 * WD * j, unpack_low(a, b));
      store(out + 2 * WD * j + WD, unpack_high(a, b));
    }
  }
}

// Noise of the first count elements of some blocks. Whole groups are written: out must have room for
// count rounded up to 128.
template <class Make, Order order, class Blocks, class T, class Ahead>
static __attribute__((noinline)) void fill_blocks(uint64_t seed, const Blocks& blocks,
                                                  int64_t count, T* out, const Ahead& ahead) {
  constexpr int64_t kLanes = 16 / (int64_t)sizeof(T);       // elements in a block
  constexpr int64_t kBlocks = sizeof(T) == 4 ? W * kPairs : 2 * WD;  // in a group
  const PhiloxKey key = philox_key(seed);
  const int64_t groups = (count + kLanes * kBlocks - 1) / (kLanes * kBlocks);
  if (blocks.first_counter() >> 32 == blocks.last_counter(groups * kBlocks) >> 32) [[likely]]
    noise_groups<Make, order, true>(key, blocks, groups, out, ahead);
  else
    noise_groups<Make, order, false>(key, blocks, groups, out, ahead);
}

// Normals of elements first .. first + count of the stream; first is a multiple of a tile.
template <Order order, class T, class Ahead = NoFetch>
FR_INLINE void fill_normal(uint64_t seed, uint64_t offset, int64_t first, int64_t count, T* out,
                           const Ahead& ahead = {}) {
  const Line blocks{offset + (uint64_t)first / (16 / sizeof(T))};
  fill_blocks<Normal, order>(seed, blocks, count, out, ahead);
}

}  // namespace fr::FR_NS
