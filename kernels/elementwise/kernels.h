// The element-wise families of one instruction set. Included by avx512.cpp, avx2.cpp and portable.cpp
// of this folder, which set FR_ISA and are compiled with the flags for it.
#include "elementwise/formula_files.h"
#include "simd/element.h"
#include "simd/scale.h"
#include "simd/uniform.h"

namespace fr::FR_NS {

// ---- noise ---------------------------------------------------------------------------------------

struct FetchListed {
  FetchList list;
};
FR_INLINE void fetch(const FetchListed& ahead, int64_t first, int64_t count) {
  constexpr int64_t kLine = 64;
  const int64_t end = (first + count) * ahead.list.bytes;
  for (int64_t at = first * ahead.list.bytes; at < end; at += kLine)
    for (int j = 0; j < ahead.list.count; ++j)
      __builtin_prefetch((const char*)ahead.list.operand[j] + at, 0, 2);
}

// Where element `first` lies in out, which begins with that element's block.
template <class Make, class T>
static const T* noise_from(uint64_t seed, uint64_t offset, int64_t first, int64_t count, T* out,
                           const FetchList& ahead) {
  constexpr int64_t kLanes = 16 / (int64_t)sizeof(T);
  const Line blocks{offset + (uint64_t)(first / kLanes)};
  const int64_t lead = first % kLanes;
  fill_blocks<Make, Order::natural>(seed, blocks, count + lead, out, FetchListed{ahead});
  return out + lead;
}

// sqrt(df (u^(-2 / df) - 1)) cos(2 pi u') from pairs of uniform numbers, packed. Of u' only v' counts;
// its quarter turn is taken from the middle, where 4 v' - 1 is exact. kEach: df of each element, NaN where
// it is not positive. kFar: whether it may be below kNear.
constexpr double kNear = 3.0;  // from here on no e^t reaches a size where its root is made by quarters
template <bool kEach, bool kFar, class V, class T>
static void student_t(const BaseNumber& df, int64_t at, const T* two, int64_t count, T* out) {
  constexpr int64_t lanes = sizeof(V) / sizeof(T);
  V number = num<V>(df.one), power = num<V>(-2.0 / df.one), root = sqrt(number);
  for (int64_t i = 0; i < count; i += lanes) {
    if constexpr (kEach) {
      number = load<V>((const T*)df.each + at + i);
      number = number > V{} ? number : num<V>(__builtin_nan(""));
      power = num<V>(-2.0) / number;
      root = sqrt(number);
    }
    V a = load<V>(two + 2 * i), b = load<V>(two + 2 * i + lanes);
    unzip(a, b);
    const V x = fma(abs(b), num<V>(4.0), num<V>(-1.0)) * num<V>(kHalfPi / Trig<V>::unit);
    const V half = num<V>(0.5) * (power * log_of(unpacked(a)));
    const V cosine = -(x * polynomial(x * x, Trig<V>::sine));
    const V growth = expm1(half + half);
    V drawn = sqrt(number * growth) * cosine;
    if constexpr (kFar) {
      // Where e^t - 1 is e^t to the last bit, its root is made by quarters: e^t may overflow before the
      // result does.
      const V quarter = exp(num<V>(0.5) * half);
      drawn = half < num<V>(sizeof(T) == 4 ? 8.0 : 20.0) ? drawn : root * cosine * quarter * quarter;
    }
    store(out + at + i, drawn);
    if (!df.slope) continue;
    // Half of drawn / df (1 - t / (1 - e^-t)), t = 2 half: the divisor is growth / (1 + growth).
    const V t = half + half, least = num<V>(sizeof(T) == 4 ? __FLT_MIN__ : __DBL_MIN__);
    const V rest = (num<V>(1.0) - t / max_keep_nan(least, growth)) - t;
    store((T*)df.slope + at + i, (num<V>(0.5) * rest / number) * drawn);
  }
}

template <class V, class T>
static const T* noise_of(Base base, const BaseNumber& number, uint64_t seed, uint64_t offset, int64_t first,
                         int64_t count, T* out, const FetchList& ahead) {
  const auto make = [&]<class Make>(Make) {
    return noise_from<Make>(seed, offset, first, count, out, ahead);
  };
  switch (base) {
    case Base::normal: return make(Normal{});
    case Base::exponential: return make(FromUniform<Exponential>{});
    case Base::gumbel: return make(FromUniform<Gumbel>{});
    case Base::laplace: return make(FromUniform<Laplace>{});
    case Base::logistic: return make(FromUniform<Logistic>{});
    case Base::uniform: return make(FromUniform<Symmetric>{});
    case Base::cauchy: return make(FromUniform<Cauchy>{});
    case Base::student_t: break;
  }
  constexpr int64_t kHalf = kTileBytes / (int64_t)sizeof(T) / 2;
  alignas(64) T words[kNoiseBytes / sizeof(T)];
  for (int64_t at = 0; at < count; at += kHalf) {
    const int64_t part = count - at < kHalf ? count - at : kHalf;
    const T* two = noise_from<FromUniform<UniformBits>>(seed, offset, 2 * (first + at), 2 * part, words, {});
    const T* each = (const T*)number.each + at;
    int far = !number.each && number.one < kNear;
    for (int64_t i = 0; number.each && i < part; ++i) far |= each[i] < T(kNear);
    (number.each ? far ? student_t<true, true, V, T> : student_t<true, false, V, T>
     : far       ? student_t<false, true, V, T>
                 : student_t<false, false, V, T>)(number, at, two, part, out);
  }
  return out;
}

static const void* draw_noise(bool wide, Base base, const BaseNumber& number, uint64_t seed, uint64_t offset,
                              int64_t first, int64_t count, void* buffer, const FetchList& ahead) {
  if (wide) return noise_of<f64>(base, number, seed, offset, first, count, (double*)buffer, ahead);
  return noise_of<f32>(base, number, seed, offset, first, count, (float*)buffer, ahead);
}

// ---- 16-bit operands -----------------------------------------------------------------------------

template <Dtype dtype>
static void widen_as(const void* in, void* out, int64_t count) {
  for (int64_t i = 0; i < count; i += 2 * W) {
    f32 a, b;
    Element<dtype>::load2((const uint16_t*)in + i, a, b);
    to_natural<Element<dtype>>(a, b);
    store((float*)out + i, a);
    store((float*)out + i + W, b);
  }
}
// A NaN loses its payload: bfloat16 rounds by carrying into the upper half.
template <Dtype dtype>
static void narrow_as(const void* in, void* out, int64_t count) {
  const f32 nan = splat(__builtin_nanf(""));
  for (int64_t i = 0; i < count; i += 2 * W) {
    f32 a = load<f32>((const float*)in + i), b = load<f32>((const float*)in + i + W);
    a = a == a ? a : nan;
    b = b == b ? b : nan;
    from_natural<Element<dtype>>(a, b);
    Element<dtype>::store2((uint16_t*)out + i, a, b);
  }
}
static void widen(Dtype dtype, const void* in, void* out, int64_t count) {
  dtype == Dtype::bf16 ? widen_as<Dtype::bf16>(in, out, count) : widen_as<Dtype::f16>(in, out, count);
}
static void narrow(Dtype dtype, const void* in, void* out, int64_t count) {
  dtype == Dtype::bf16 ? narrow_as<Dtype::bf16>(in, out, count) : narrow_as<Dtype::f16>(in, out, count);
}

// ---- scale keywords ------------------------------------------------------------------------------

template <class V, Kind kind, bool kPrior>
static void scale_pass(const ScalePass& pass) {
  using T = typename Scalar<V>::type;
  const ScalePass p = pass;
  const V low = num<V>(p.low), high = num<V>(p.high);
  constexpr int64_t lanes = sizeof(V) / sizeof(T);
  for (int64_t i = 0; i < p.count; i += lanes) {
    V x = load<V>((const T*)p.x + i);
    if constexpr (kPrior) x = of_prior<kind>(x);
    const bool gradient = p.dsigma != nullptr;
    const Scaled<V> s = scaled<kind>(min_keep_nan(high, max_keep_nan(low, x)),
                                     p.log_sigma != nullptr, gradient);
    store((T*)p.sigma + i, s.sigma);
    if (p.log_sigma) store((T*)p.log_sigma + i, s.log_sigma);
    if (gradient) {
      const auto outside = (x < low) | (x > high);
      store((T*)p.dsigma + i, outside ? V{} : s.dsigma);
      store((T*)p.dlog_sigma + i, outside ? V{} : s.dlog_sigma);
    }
  }
}

template <class V>
static void scale_gradient_pass(const ScalePass& p, const void* to_sigma, const void* to_log_sigma,
                                const void* to_ratio, const void* dratio, void* out) {
  using T = typename Scalar<V>::type;
  constexpr int64_t lanes = sizeof(V) / sizeof(T);
  for (int64_t i = 0; i < p.count; i += lanes) {
    V g{};
    if (to_log_sigma)
      g = times(load<V>((const T*)to_log_sigma + i), load<V>((const T*)p.dlog_sigma + i));
    if (to_sigma)
      g = g + times(load<V>((const T*)to_sigma + i), load<V>((const T*)p.dsigma + i));
    if (to_ratio) g = g + times(load<V>((const T*)to_ratio + i), load<V>((const T*)dratio + i));
    store((T*)out + i, g);
  }
}

// ---- formulas ------------------------------------------------------------------------------------

// Two registers in a step, so that one's chain of operations fills the other's gaps.
template <class V, bool kAdd, class In = Operands<V>, class Step>
FR_INLINE void for_steps(const TilePass& pass, const Step& step) {
  const TilePass p = pass;
  V c[kConstants];
  for (int j = 0; j < kConstants; ++j) c[j] = num<V>(p.constants[j]);
  constexpr int64_t lanes = sizeof(V) / sizeof(typename Scalar<V>::type);
  for (int64_t i = 0; i < p.count; i += 2 * lanes) {
#pragma GCC unroll 2
    for (int64_t j = i; j < i + 2 * lanes; j += lanes)
      step(In{Operands<V>{p, c, j}}, Results<V, kAdd>{p, j});
  }
}

// A loop for tiles without far numbers, and one for those with some, apart from one another.
#define FR_LOOP __attribute__((noinline)) static void

template <class V, Transform transform, bool kGiven, bool kFar>
FR_LOOP transform_loop(const TilePass& p) {
  using In = std::conditional_t<kGiven, GivenOperands<V>, Operands<V>>;
  for_steps<V, true, In>(p, [](auto in, auto out) __attribute__((always_inline)) {
    TransformFormula<transform, kFar>::forward(in, out);
  });
}
template <class V, Transform transform, bool kFar>
FR_LOOP transform_backward_loop(const TilePass& p) {
  for_steps<V, true>(p, [](auto in, auto out) __attribute__((always_inline)) {
    TransformFormula<transform, kFar>::backward(in, out);
  });
}
template <class V, Term term, bool kFar>
FR_LOOP term_loop(const TilePass& p) {
  for_steps<V, false>(p, [](auto in, auto out) __attribute__((always_inline)) {
    TermFormula<term, kFar>::forward(in, out);
  });
}
template <class V, Term term, bool kFloor, bool kFar>
FR_LOOP term_backward_loop(const TilePass& p) {
  for_steps<V, false>(p, [](auto in, auto out) __attribute__((always_inline)) {
    TermFormula<term, kFar>::template backward<kFloor>(in, out);
  });
}

// Chooses by p.far, where the formula has a prior.
template <bool kFlag>
struct Flag {
  static constexpr bool value = kFlag;
};
template <bool kPrior, class Loop>
FR_INLINE void near_or_far(const TilePass& p, const Loop& loop) {
  if constexpr (kPrior)
    if (p.far) return loop(Flag<true>{});
  loop(Flag<false>{});
}
template <Transform transform>
constexpr bool kDensities = transform == Transform::log_prob || transform == Transform::log_prob_prior;
// Those whose z is loc + sigma eps.
template <Transform transform>
constexpr bool kLocated =
    kDensities<transform> || transform == Transform::linear || transform == Transform::mixture;
template <Term term>
constexpr bool kGaussian = term == Term::gaussian || term == Term::gaussian_prior;

template <class V, Transform transform>
static void transform_pass(const TilePass& p) {
  near_or_far<kDensities<transform>>(p, [&](auto far) {
    if constexpr (kLocated<transform>)
      if (p.given) return transform_loop<V, transform, true, far.value>(p);
    transform_loop<V, transform, false, far.value>(p);
  });
}
template <class V, Transform transform>
static void transform_backward_pass(const TilePass& p) {
  near_or_far<kDensities<transform>>(p, [&](auto far) { transform_backward_loop<V, transform, far.value>(p); });
}
template <class V, Term term>
static void term_pass(const TilePass& p) {
  near_or_far<kGaussian<term>>(p, [&](auto far) { term_loop<V, term, far.value>(p); });
}
template <class V, Term term>
static void term_backward_pass(const TilePass& p) {
  near_or_far<kGaussian<term>>(p, [&](auto far) {
    if constexpr (kGaussian<term>)
      if (p.constants[3] > -__builtin_inf()) return term_backward_loop<V, term, true, far.value>(p);
    term_backward_loop<V, term, false, far.value>(p);
  });
}

// Whether any number of a pass is so large or so small that a ratio to the prior, or a power of one in
// a gradient, may leave the dtype though the result does not. Elements past `count` say nothing.
template <class V>
static bool any_far(const TilePass& p, int64_t count) {
  using T = typename Scalar<V>::type;
  constexpr bool single = sizeof(T) == 4;
  constexpr T wide = single ? T(0x1p20) : T(0x1p160), away = single ? T(0x1p30) : T(0x1p300);
  constexpr int64_t lanes = sizeof(V) / sizeof(T);
  // The bounds come last, so that a NaN changes none: it is the same either way.
  const auto within = [count](const void* operand, T low, T high) {
    if (!operand) return true;
    const T* x = (const T*)operand;
    V least = splat(high), most = splat(low);
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
      const V v = load<V>(x + i);
      least = min_keep_nan(v, least);
      most = max_keep_nan(v, most);
    }
    bool all = true;
    for (int64_t j = 0; j < lanes; ++j) all &= least[j] >= low && most[j] <= high;
    for (; i < count; ++i) all &= !(x[i] < low || x[i] > high);
    return all;
  };
  const T inverse = static_cast<T>(p.constants[1]);
  return inverse < 1 / wide || inverse > wide || !within(p.loc, -away, away) ||
         !within(p.prior_loc, -away, away) || !within(p.sigma, 1 / wide, wide) ||
         !within(p.prior_sigma, 1 / wide, wide);
}

template <class V, bool kLearned>
static void in_prior_pass(const TilePass& pass, bool sampled) {
  const TilePass p = pass;
  V c[kConstants];
  for (int j = 0; j < kConstants; ++j) c[j] = num<V>(p.constants[j]);
  constexpr int64_t lanes = sizeof(V) / sizeof(typename Scalar<V>::type);
  for (int64_t i = 0; i < p.count; i += lanes)
    in_prior<kLearned>(Operands<V>{p, c, i}, i, sampled);
}

#define FR_SCALES(V, kPrior)                                                            \
  {                                                                                     \
    scale_pass<V, Kind::logvar, kPrior>, scale_pass<V, Kind::log_std, kPrior>,          \
        scale_pass<V, Kind::std, kPrior>, scale_pass<V, Kind::var, kPrior>,             \
        scale_pass<V, Kind::rho, kPrior>                                                \
  }
// A table of a pass for each name, of float and of double.
#define FR_TRANSFORM(name) transform_pass<V, Transform::name>,
#define FR_TRANSFORM_BACKWARD(name) transform_backward_pass<V, Transform::name>,
#define FR_TERM(name) term_pass<V, Term::name>,
#define FR_TERM_BACKWARD(name) term_backward_pass<V, Term::name>,
template <class V>
constexpr FormulaPasses formula_passes = {{FR_TRANSFORMS(FR_TRANSFORM)},
                                          {FR_TRANSFORMS(FR_TRANSFORM_BACKWARD)},
                                          {FR_TERMS(FR_TERM)},
                                          {FR_TERMS(FR_TERM_BACKWARD)}};

const ElementwiseKernels& elementwise_kernels() {
  static constexpr ElementwiseKernels table = {
      draw_noise, widen, narrow,
      {{FR_SCALES(f32, false), FR_SCALES(f32, true)}, {FR_SCALES(f64, false), FR_SCALES(f64, true)}},
      {scale_gradient_pass<f32>, scale_gradient_pass<f64>}, {any_far<f32>, any_far<f64>},
      {{in_prior_pass<f32, false>, in_prior_pass<f32, true>},
       {in_prior_pass<f64, false>, in_prior_pass<f64, true>}},
      {formula_passes<f32>, formula_passes<f64>}};
  return table;
}

}  // namespace fr::FR_NS
