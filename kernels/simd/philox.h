// Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011), many blocks at
// a time. A block's four words sit in the low halves of 64-bit lanes of four registers; what is in
// the high halves is ignored, so a round is two widening products, two shifts and two three-way
// exclusive ors. Several chains run side by side, because one round waits for the one before.
#pragma once

#include "simd/vec.h"

namespace fr::FR_NS {

struct PhiloxKey {
  uint32_t k0[10], k1[10];
};

static inline PhiloxKey philox_key(uint64_t seed) {
  PhiloxKey key;
  for (uint32_t r = 0; r < 10; ++r) {
    key.k0[r] = (uint32_t)seed + r * 0x9E3779B9u;
    key.k1[r] = (uint32_t)(seed >> 32) + r * 0xBB67AE85u;
  }
  return key;
}

constexpr uint64_t kM0 = 0xD2511F53u, kM1 = 0xCD9E8D57u;

template <int N>
struct Words {
  u64 c0[N], c1[N], c2[N], c3[N];
};

template <int N>
FR_INLINE void philox_round(Words<N>& w, uint32_t k0, uint32_t k1) {
  const u64 m0 = splat(kM0), m1 = splat(kM1), key0 = (u64)splat(k0), key1 = (u64)splat(k1);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    const u64 p0 = mul_low(w.c0[j], m0), p1 = mul_low(w.c2[j], m1);
    w.c0[j] = xor3(p1 >> 32, w.c1[j], key0);
    w.c2[j] = xor3(p0 >> 32, w.c3[j], key1);
    w.c1[j] = p1;
    w.c3[j] = p0;
  }
}

// The first nine rounds of the blocks whose 64-bit counters are given. With kOneHigh every counter
// shares its upper 32 bits, `high`, and then half of the first two rounds is the same in all lanes.
template <bool kOneHigh, int N>
FR_INLINE void philox_nine_rounds(const u64 (&counter)[N], uint32_t high, const PhiloxKey& key,
                                  Words<N>& w) {
  const u64 m0 = splat(kM0), m1 = splat(kM1);
  if constexpr (kOneHigh) {
    const uint64_t p0 = (uint64_t)(high ^ key.k0[0]) * kM0;
    const u64 key01 = (u64)splat(key.k1[0]), key10 = (u64)splat(key.k0[1]);
    const u64 key11 = (u64)splat((uint32_t)(p0 >> 32) ^ key.k1[1]);
    const u64 key12 = (u64)splat((uint32_t)p0 ^ key.k1[2]), key02 = (u64)splat(key.k0[2]);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const u64 first = mul_low(counter[j], m0);
      const u64 second = mul_low((first >> 32) ^ key01, m1);
      const u64 c0 = (second >> 32) ^ key10, c2 = first ^ key11;
      const u64 third0 = mul_low(c0, m0), third1 = mul_low(c2, m1);
      w.c0[j] = xor3(third1 >> 32, second, key02);
      w.c1[j] = third1;
      w.c2[j] = (third0 >> 32) ^ key12;
      w.c3[j] = third0;
    }
  } else {
    for (int j = 0; j < N; ++j) {
      w.c0[j] = counter[j];
      w.c1[j] = counter[j] >> 32;
      w.c2[j] = w.c3[j] = u64{};
    }
    for (int r = 0; r < 3; ++r) philox_round(w, key.k0[r], key.k1[r]);
  }
#pragma GCC unroll 8
  for (int r = 3; r < 9; ++r) philox_round(w, key.k0[r], key.k1[r]);
}

// The last round. Chain 2j goes to the even and chain 2j + 1 to the odd 32-bit lanes: words 0 and 1
// to first[2j] and second[2j], words 2 and 3 to first[2j + 1] and second[2j + 1].
template <int N>
FR_INLINE void philox_last_packed(const Words<N>& w, const PhiloxKey& key, u32 (&first)[N],
                                  u32 (&second)[N]) {
  const u64 m0 = splat(kM0), m1 = splat(kM1);
  const u64 key0 = (u64)splat(key.k0[9]), key1 = (u64)splat(key.k1[9]);
#pragma GCC unroll 4
  for (int a = 0; a < N; a += 2) {
    const int b = a + 1;
    const u64 p0a = mul_low(w.c0[a], m0), p0b = mul_low(w.c0[b], m0);
    const u64 p1a = mul_low(w.c2[a], m1), p1b = mul_low(w.c2[b], m1);
    first[a] = (u32)xor3((u64)pack_high(p1a, p1b), (u64)pack_low(w.c1[a], w.c1[b]), key0);
    second[a] = pack_low(p1a, p1b);
    first[b] = (u32)xor3((u64)pack_high(p0a, p0b), (u64)pack_low(w.c3[a], w.c3[b]), key1);
    second[b] = pack_low(p0a, p0b);
  }
}

}  // namespace fr::FR_NS
