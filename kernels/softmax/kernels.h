// The Gumbel-softmax of one instruction set. Included by avx512.cpp, avx2.cpp and portable.cpp of this
// folder, which set FR_ISA and are compiled with the flags for it.
#include "softmax/interface.h"
#include "simd/uniform.h"

namespace fr::FR_NS {

template <class V>
using Real = typename Scalar<V>::type;
template <class V>
using Int = typename Scalar<V>::Int;
// Steps are counted in numbers as wide as a Real: a double holds any, and there is no 64-bit comparison
// on every machine.
template <class V>
using Counts = std::conditional_t<sizeof(Real<V>) == 4, i32, f64>;
template <class V>
using Count = std::conditional_t<sizeof(Real<V>) == 4, int32_t, double>;
template <class V>
FR_INLINE Counts<V> count(int64_t x) {
  return Counts<V>{} + (Count<V>)x;
}
template <class V>
constexpr int64_t kLanes = sizeof(V) / sizeof(Real<V>);

template <class V>
FR_INLINE V at(const void* p, int64_t i) {
  return load<V>((const Real<V>*)p + i);
}
template <class V>
FR_INLINE void put(void* p, int64_t i, V x) {
  store((Real<V>*)p + i, x);
}
template <class V>
FR_INLINE V at(const Steps& m, int64_t step, int64_t i) {
  return at<V>(m.data, step * m.stride + i);
}
template <class V>
FR_INLINE void put(const Steps& m, int64_t step, int64_t i, V x) {
  put(m.data, step * m.stride + i, x);
}

FR_INLINE bool any(i32 mask) {
#if FR_ISA == 2
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif FR_ISA == 1
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}
FR_INLINE bool any(i64 mask) { return any((i32)mask); }

// ---- noise ---------------------------------------------------------------------------------------

// Steps of 2^shift blocks, the first of each holding element first + step * stride; as `Blocks` of
// noise.h.
template <int kLog2Lanes>
struct Grid {
  uint64_t offset, first, stride;
  int shift;
  __attribute__((always_inline)) u64 at(int64_t block, u64 lane) const {
    const u64 b = splat((uint64_t)block) + lane, step = b >> (uint64_t)shift;
    const u64 element = splat(first) + step * splat(stride);
    return splat(offset) + (element >> kLog2Lanes) + (b - (step << (uint64_t)shift));
  }
  uint64_t counter(uint64_t block) const {
    const uint64_t step = block >> shift;
    return offset + ((first + step * stride) >> kLog2Lanes) + (block - (step << shift));
  }
  uint64_t first_counter() const { return counter(0); }
  uint64_t last_counter(int64_t blocks) const { return counter((uint64_t)(blocks - 1)); }
};

template <class V>
static void gumbel_steps(uint64_t seed, uint64_t offset, uint64_t first, uint64_t stride, int shift,
                         int64_t count, void* out) {
  const Grid<sizeof(Real<V>) == 4 ? 2 : 1> grid{offset, first, stride, shift};
  fill_blocks<FromUniform<Gumbel>, Order::natural>(seed, grid, count, (Real<V>*)out, NoFetch{});
}

// ---- forward -------------------------------------------------------------------------------------

// e^x for x <= 0, and 0 where it would be denormal, which the processor is slow at: rows of 32 classes
// took 1.6 times as long with them.
template <class V>
FR_INLINE V exp_or_zero(V x) {
  const V least = num<V>(sizeof(Real<V>) == 4 ? -87.0 : -708.0);
  const V e = exp_within(max_keep_nan(least, x));
  return x < least ? V{} : e;
}

template <class V>
static void top_pass(const Block& b, Steps logits, const Reduced& r) {
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    V top = at<V>(r.top, i);
    for (int64_t s = 0; s < b.steps; ++s) top = max_keep_nan(top, at<V>(logits, s, i));
    put(r.top, i, top);
  }
}

// logit - top, no further from 0 than where exp_or_zero is 0, so that 0 times it is 0.
template <class V>
FR_INLINE V below_top(V logit, V top) {
  return max_keep_nan(num<V>(sizeof(Real<V>) == 4 ? -88.0 : -709.0), logit - top);
}

// A block's sums are added up before they go to the panel's: 65,536 terms one after the other would
// lose five more bits.
template <class V, bool kGrad>
static void stats_with(const Block& block, Steps logits, Steps grad, const Reduced& r) {
  const Block b = block;
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    const V top = at<V>(r.top, i);
    V sum{}, weighted{}, dot{};
    for (int64_t s = 0; s < b.steps; ++s) {
      const V d = below_top(at<V>(logits, s, i), top), e = exp_or_zero(d);
      sum += e;
      weighted = fma(d, e, weighted);
      if constexpr (kGrad) dot = fma(at<V>(grad, s, i), e, dot);
    }
    put(r.sum, i, at<V>(r.sum, i) + sum);
    put(r.weighted, i, at<V>(r.weighted, i) + weighted);
    if constexpr (kGrad) put(r.dot, i, at<V>(r.dot, i) + dot);
  }
}
template <class V>
static void stats_pass(const Block& b, Steps logits, Steps grad, const Reduced& r) {
  grad.data ? stats_with<V, true>(b, logits, grad, r) : stats_with<V, false>(b, logits, grad, r);
}

// The largest is taken off first: so noise counts among the largest logits however large they are.
template <class V>
static void add_pass(const Block& block, Steps logits, const void* top, const NoiseSteps& noise,
                     Steps out) {
  const Block b = block;
  for (int64_t s = 0; s < b.steps; ++s) {
    const int64_t begin = s * noise.stride + ((noise.lead + s * noise.lead_step) & noise.lead_mask);
    for (int64_t i = 0; i < b.width; i += kLanes<V>)
      put(out, s, i, at<V>(logits, s, i) - at<V>(top, i) + at<V>(noise.data, begin + i));
  }
}

template <class V>
static void mix_pass(const Block& block, Steps logits, const void* keep, const void* evens, const Reduced& r,
                     Steps out) {
  const Block b = block;
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    const V top = at<V>(r.top, i), factor = at<V>(keep, i) / at<V>(r.sum, i), even = at<V>(evens, i);
    for (int64_t s = 0; s < b.steps; ++s)
      put(out, s, i, log(fma(factor, exp_or_zero(below_top(at<V>(logits, s, i), top)), even)));
  }
}

template <class V>
static void choose_pass(const Block& block, Steps score, const Reduced& r) {
  const Block b = block;
  const V largest = num<V>(sizeof(Real<V>) == 4 ? __FLT_MAX__ : __DBL_MAX__);
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    V best = at<V>(r.best, i), here = at<V>(score, 0, i);
    Int<V> bad = (here > largest) | (here != here);
    for (int64_t s = 1; s < b.steps; ++s) {
      const V x = at<V>(score, s, i);
      here = max_keep_nan(here, x);
      bad |= (x > largest) | (x != x);
    }
    // Seldom true but in the first blocks.
    if (const Int<V> better = here > best; any(better)) {
      Counts<V> step{};
      for (int64_t s = b.steps - 1; s >= 0; --s)
        step = at<V>(score, s, i) == here ? count<V>(s) : step;
      const Counts<V> old = load<Counts<V>>((const Real<V>*)r.at + i);
      store((Real<V>*)r.at + i, better ? step + count<V>(b.first) : old);
      best = better ? here : best;
    }
    put(r.best, i, bad ? num<V>(__builtin_nan("")) : best);
  }
}

// e^((score - max) / tau) with the largest score so far; a step's share is known at the end, and until
// then `reference` holds that largest score. One exponential a number, for a larger one comes seldom.
template <class V>
static void soften_pass(const Block& block, Steps score, const void* inverse_tau, const Reduced& r, Steps out,
                        void* reference) {
  const Block b = block;
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    const V inverse = at<V>(inverse_tau, i);
    V max = at<V>(r.max, i), sum = at<V>(r.soft_sum, i), here = max;
    for (int64_t s = 0; s < b.steps; ++s) here = max_keep_nan(here, at<V>(score, s, i));
    if (any(here > max)) {
      sum = sum * exp_or_zero((max - here) * inverse);
      max = here;
    }
    V added{};
    for (int64_t s = 0; s < b.steps; ++s) {
      const V e = exp_or_zero((at<V>(score, s, i) - max) * inverse);
      put(out, s, i, e);
      added += e;
    }
    put(reference, i, max);
    put(r.max, i, max);
    put(r.soft_sum, i, sum + added);
  }
}

template <class V>
static void share_pass(const Block& block, Steps soft, const void* inverse_tau, const Reduced& r,
                       const void* reference, Steps out) {
  const Block b = block;
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    const V old = at<V>(reference, i), max = at<V>(r.max, i);
    const V factor = exp_or_zero((old - max) * at<V>(inverse_tau, i)) / at<V>(r.soft_sum, i);
    for (int64_t s = 0; s < b.steps; ++s) put(out, s, i, at<V>(soft, s, i) * factor);
  }
}

template <class V>
static void one_hot_pass(const Block& block, const Reduced& r, Steps out) {
  const Block b = block;
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    const V best = at<V>(r.best, i), zero = best - best;    // NaN where there is no best
    const Counts<V> chosen = load<Counts<V>>((const Real<V>*)r.at + i);
    for (int64_t s = 0; s < b.steps; ++s)
      put(out, s, i, chosen == count<V>(b.first + s) ? zero + num<V>(1.0) : zero);
  }
}

template <class V>
static void divergence_pass(int64_t width, double classes, const Reduced& r, void* out) {
  const V log_classes = num<V>(__builtin_log(classes));
  for (int64_t i = 0; i < width; i += kLanes<V>) {
    const V sum = at<V>(r.sum, i);
    put(out, i, at<V>(r.weighted, i) / sum - log(sum) + log_classes);
  }
}

// ---- backward ------------------------------------------------------------------------------------

template <class V>
static void dot_pass(const Block& block, Steps grad, Steps soft, const Reduced& r) {
  const Block b = block;
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    V dot{};
    for (int64_t s = 0; s < b.steps; ++s) dot = fma(at<V>(grad, s, i), at<V>(soft, s, i), dot);
    put(r.dot, i, at<V>(r.dot, i) + dot);
  }
}

template <class V>
static void soft_gradient_pass(const Block& block, Steps grad, Steps soft, const void* inverse_tau,
                               const Reduced& r, Steps out) {
  const Block b = block;
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    const V dot = at<V>(r.dot, i), inverse = at<V>(inverse_tau, i);
    for (int64_t s = 0; s < b.steps; ++s)
      put(out, s, i, at<V>(soft, s, i) * inverse * (at<V>(grad, s, i) - dot));
  }
}

// p (keep (grad - sum p grad) + weight (log p - sum p log p)).
template <class V, bool kGrad>
static void share_gradient_with(const Block& block, Steps logits, Steps grad, const void* keep,
                                const void* kl_weights, bool add, const Reduced& r, Steps out) {
  const Block b = block;
  for (int64_t i = 0; i < b.width; i += kLanes<V>) {
    const V top = at<V>(r.top, i), sum = at<V>(r.sum, i), one = num<V>(1.0);
    const V weighted = at<V>(r.weighted, i) / sum, dot = at<V>(r.dot, i) / sum;
    const V kept = at<V>(keep, i);
    const V weight = kl_weights ? at<V>(kl_weights, i) : V{}, inverse = one / sum;
    for (int64_t s = 0; s < b.steps; ++s) {
      const V d = below_top(at<V>(logits, s, i), top);
      V g = weight * (d - weighted);
      if constexpr (kGrad) g = fma(kept, at<V>(grad, s, i) - dot, g);
      g = exp_or_zero(d) * inverse * g;
      put(out, s, i, add ? at<V>(out, s, i) + g : g);
    }
  }
}
template <class V>
static void share_gradient_pass(const Block& b, Steps logits, Steps grad, const void* keep,
                                const void* kl_weights, bool add, const Reduced& r, Steps out) {
  grad.data ? share_gradient_with<V, true>(b, logits, grad, keep, kl_weights, add, r, out)
            : share_gradient_with<V, false>(b, logits, grad, keep, kl_weights, add, r, out);
}

// ---- over the width ------------------------------------------------------------------------------

template <class V>
FR_INLINE Real<V> largest(V v) {
  Real<V> found = v[0];
  for (int64_t l = 1; l < kLanes<V>; ++l) found = v[l] > found || v[l] != v[l] ? v[l] : found;
  return found;
}
template <class V>
FR_INLINE V largest_of(int64_t width, const void* p) {
  V found = at<V>(p, 0);
  for (int64_t i = kLanes<V>; i < width; i += kLanes<V>) found = max_keep_nan(found, at<V>(p, i));
  return splat(largest(found));
}
template <class V>
FR_INLINE void set_all(int64_t width, void* p, V x) {
  for (int64_t i = 0; i < width; i += kLanes<V>) put(p, i, x);
}
template <class V>
FR_INLINE void join_sum(int64_t width, void* p) {
  V total{};
  for (int64_t i = 0; i < width; i += kLanes<V>) total += at<V>(p, i);
  set_all(width, p, splat(sum(total)));
}

template <class V>
static void join_top(int64_t width, const Reduced& r) {
  set_all(width, r.top, largest_of<V>(width, r.top));
}
template <class V>
static void join_dot(int64_t width, const Reduced& r) {
  join_sum<V>(width, r.dot);
}
template <class V>
static void join_stats(int64_t width, const Reduced& r) {
  join_sum<V>(width, r.sum);
  join_sum<V>(width, r.weighted);
  join_sum<V>(width, r.dot);
}
template <class V>
static void join_soft(int64_t width, const void* inverse_tau, const Reduced& r) {
  const V max = largest_of<V>(width, r.max);
  V total{};
  for (int64_t i = 0; i < width; i += kLanes<V>)
    total = fma(at<V>(r.soft_sum, i), exp_or_zero((at<V>(r.max, i) - max) * at<V>(inverse_tau, i)), total);
  set_all(width, r.max, max);
  set_all(width, r.soft_sum, splat(sum(total)));
}
// Of equal scores the one of the first step, and in it of the first number.
template <class V>
static void join_best(int64_t width, const Reduced& r) {
  using T = Real<V>;
  T* best = (T*)r.best;
  Count<V>* step = (Count<V>*)r.at;
  int64_t chosen = 0;
  bool bad = best[0] != best[0];
  for (int64_t i = 1; i < width; ++i) {
    bad |= best[i] != best[i];
    if (best[i] > best[chosen] || (best[i] == best[chosen] && step[i] < step[chosen])) chosen = i;
  }
  const Count<V> found = step[chosen];
  for (int64_t i = 0; i < width; ++i) step[i] = -1;
  step[chosen] = found;
  set_all(width, best, bad ? num<V>(__builtin_nan("")) : splat(best[chosen]));
}

#define FR_REALS(pass) {pass<f32>, pass<f64>}

const SoftmaxKernels& softmax_kernels() {
  static constexpr SoftmaxKernels table = {
      FR_REALS(gumbel_steps), FR_REALS(top_pass), FR_REALS(stats_pass), FR_REALS(add_pass),
      FR_REALS(mix_pass), FR_REALS(choose_pass), FR_REALS(soften_pass), FR_REALS(share_pass),
      FR_REALS(one_hot_pass), FR_REALS(divergence_pass), FR_REALS(dot_pass),
      FR_REALS(soft_gradient_pass), FR_REALS(share_gradient_pass), FR_REALS(join_top),
      FR_REALS(join_stats), FR_REALS(join_dot), FR_REALS(join_soft), FR_REALS(join_best)};
  return table;
}

}  // namespace fr::FR_NS
