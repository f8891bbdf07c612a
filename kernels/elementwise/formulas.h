// The element-wise families' formulas, as fused_reparam/families has them: what becomes of a register
// of parameters and noise, and its gradients. A formula reads its operands from `in` and gives its
// results to `out`; `c` are the constants of the call (elementwise/tile.h makes them).
#pragma once

#include "elementwise/interface.h"
#include "simd/math.h"

namespace fr::FR_NS {

template <class V>
struct Operands {
  using Real = typename Scalar<V>::type;
  const TilePass& p;
  const V (&c)[kConstants];
  int64_t i;
  __attribute__((always_inline)) V at(const void* x) const { return load<V>((const Real*)x + i); }
  __attribute__((always_inline)) V loc() const { return at(p.loc); }
  __attribute__((always_inline)) V sigma() const { return at(p.sigma); }
  __attribute__((always_inline)) V log_sigma() const { return at(p.log_sigma); }
  __attribute__((always_inline)) V prior_loc() const { return at(p.prior_loc); }
  __attribute__((always_inline)) V prior_sigma() const { return at(p.prior_sigma); }
  __attribute__((always_inline)) V prior_log_sigma() const { return at(p.prior_log_sigma); }
  __attribute__((always_inline)) V eps() const { return at(p.eps); }
  __attribute__((always_inline)) V grad_z() const { return at(p.grad_z); }
  __attribute__((always_inline)) V grad_value(int j) const { return at(p.grad_value[j]); }
  __attribute__((always_inline)) V constant(int j) const { return c[j]; }
};

// A gradient times a derivative. A gradient of 0, which is also one that did not come, and a derivative
// of 0, as of a bounded parameter, stay 0 whatever they meet: the other may be infinite.
template <class V>
FR_INLINE V times(V gradient, V slope) {
  const V product = gradient * slope;
  return (gradient == V{}) | (slope == V{}) ? V{} : product;
}

// The gradients of a draw are added to those of a value, or to zeros.
template <class V, bool kAdd>
struct Results {
  using Real = typename Scalar<V>::type;
  const TilePass& p;
  int64_t i;
  __attribute__((always_inline)) void put(void* x, V v) const { store((Real*)x + i, v); }
  __attribute__((always_inline)) void add(void* x, V v) const {
    Real* to = (Real*)x + i;
    store(to, kAdd ? load<V>(to) + v : v);
  }
  __attribute__((always_inline)) void z(V v) const { put(p.z, v); }
  __attribute__((always_inline)) void value(int j, V v) const { put(p.value[j], v); }
  __attribute__((always_inline)) void loc(V v) const { add(p.to_loc, v); }
  __attribute__((always_inline)) void sigma(V v) const { add(p.to_sigma, v); }
  __attribute__((always_inline)) void log_sigma(V v) const { add(p.to_log_sigma, v); }
  __attribute__((always_inline)) void ratio(V v) const { add(p.to_ratio, v); }
  __attribute__((always_inline)) void prior_loc(V v) const { add(p.to_prior_loc, v); }
  __attribute__((always_inline)) void prior_log_sigma(V v) const { add(p.to_prior_log_sigma, v); }
};

template <class V>
FR_INLINE V log_q(V eps, V log_sigma) {
  return fma(num<V>(-0.5) * eps, eps, num<V>(-kHalfLogTwoPi) - log_sigma);
}

// sign(x) of magnitude y.
template <class V>
FR_INLINE V with_sign(V y, V x) {
  using Bits = typename Scalar<V>::Bits;
  const Bits sign = (Bits)num<V>(-0.0);
  return (V)(((Bits)y & ~sign) | ((Bits)x & sign));
}

// ---- priors --------------------------------------------------------------------------------------

// A prior of numbers, whose constants are mean, 1 / std and log std, or of tensors. The reciprocal of
// a tensor may be infinite far out.
template <class V>
struct Prior {
  V mean, inverse, log_sigma;
};
template <bool kLearned, class V>
FR_INLINE Prior<V> prior_of(const Operands<V>& in) {
  if constexpr (kLearned)
    return {in.prior_loc(), num<V>(1.0) / in.prior_sigma(), in.prior_log_sigma()};
  else
    return {in.constant(0), in.constant(1), in.constant(2)};
}

// What a tile with far numbers needs of its parameters, to be read by its loops:
//
//   first, second   one over the prior's sigma in two factors, so that a division by both neither
//                   overflows nor underflows before its result does
//   distance        (loc - prior mean) / prior sigma
//   ratio           sigma / prior sigma; NaN of a near element where the value is `sampled`, which then
//                   takes the distance of z
//   dratio          the ratio's derivative in the scale's own parameter. Through sigma or through log
//                   sigma it is the same number, but one of these may overflow or underflow on the way
//   unit            1, or 2^-64 where a square of distance or ratio may overflow before the prior's scale,
//                   a large number, divides it. Then prior_dlog_sigma becomes 2^64 times as large
//
// Near, a sigma rounds less than its logarithm; far out only the logarithms are right. So each element
// chooses, by logarithms within which no power in a gradient overflows.
template <bool kLearned, class V>
FR_INLINE void in_prior(const Operands<V>& in, int64_t i, bool sampled) {
  using Real = typename Scalar<V>::type;
  constexpr bool single = sizeof(Real) == 4;
  const TilePass& p = in.p;
  const Prior<V> prior = prior_of<kLearned>(in);
  const auto put = [i](void* x, V v) { store((Real*)x + i, v); };
  const V log_sigma = in.log_sigma(), edge = num<V>(single ? 20.0 * 20.0 : 160.0 * 160.0);
  const auto near = fma(log_sigma, log_sigma, prior.log_sigma * prior.log_sigma) < edge;
  // Bounded, so that nothing times it is NaN.
  const V root = exp(min_keep_nan(num<V>(single ? 87.0 : 700.0), num<V>(-0.5) * prior.log_sigma));
  const V first = near ? prior.inverse : root, second = near ? num<V>(1.0) : root;
  const V ratio = near ? in.sigma() * prior.inverse : exp(log_sigma - prior.log_sigma);
  const V distance = (in.loc() - prior.mean) * first * second;
  put(p.first, first);
  put(p.second, second);
  put(p.distance, distance);
  put(p.ratio, sampled & near ? num<V>(__builtin_nan("")) : ratio);
  if (!p.dratio) return;
  const V dsigma = in.at(p.dsigma), least = num<V>(single ? __FLT_MIN__ : __DBL_MIN__);
  const V most = num<V>(single ? __FLT_MAX__ : __DBL_MAX__);
  put(p.dratio, (dsigma >= least) & (dsigma <= most) ? dsigma * first * second
                                                     : times(in.at(p.dlog_sigma), ratio));
  if constexpr (kLearned) {
    const auto large = (max_keep_nan(abs(distance), ratio) > num<V>(0x1p60)) & (first < num<V>(1.0));
    put(p.unit, large ? num<V>(0x1p-64) : num<V>(1.0));
    const V slope = in.at(p.prior_dlog_sigma);
    put(p.prior_dlog_sigma, large ? slope * num<V>(0x1p64) : slope);
  }
}

// ---- draws ---------------------------------------------------------------------------------------

// kFar: for a tile with numbers that are `far`.
template <Transform, bool kFar = false>
struct TransformFormula;

template <>
struct TransformFormula<Transform::linear> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(fma(in.sigma(), in.eps(), in.loc()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V gz = in.grad_z();
    out.sigma(gz * in.eps());
    out.loc(gz);
  }
};

// log q and log p of z. Far out, d of it is the distance of loc and ratio * eps: z itself may be beyond
// the dtype where d is not. A near element has the same bits whether its tile has far ones or not.
template <bool kLearned, bool kFar>
struct LogDensities {
  // (z - prior mean) / prior sigma.
  template <class V>
  FR_INLINE V distance_of(const Operands<V>& in, V z, V eps, const Prior<V>& prior) {
    if constexpr (!kFar) return (z - prior.mean) * prior.inverse;
    const V ratio = in.at(in.p.ratio);
    const V near = (z - prior.mean) * in.at(in.p.first);
    return ratio == ratio ? fma(ratio, eps, in.at(in.p.distance)) : near;
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), z = fma(in.sigma(), eps, in.loc());
    const Prior<V> prior = prior_of<kLearned>(in);
    const V d = distance_of(in, z, eps, prior);
    out.z(z);
    out.value(0, log_q(eps, in.log_sigma()));
    out.value(1, log_q(d, prior.log_sigma));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), gz = in.grad_z(), gp = in.grad_value(1);
    const Prior<V> prior = prior_of<kLearned>(in);
    const V d = distance_of(in, fma(in.sigma(), eps, in.loc()), eps, prior);
    V to_prior, to_prior_log;
    if constexpr (kFar) {
      const V slope = times(gp, d), ratio = in.at(in.p.ratio);
      to_prior = slope * in.at(in.p.first) * in.at(in.p.second);
      const V to_z = gz - to_prior;
      out.loc(to_z);
      out.sigma((ratio == ratio ? gz : to_z) * eps);
      out.log_sigma(-in.grad_value(0));
      out.ratio(ratio == ratio ? -slope * eps : V{});
      if constexpr (kLearned) {
        const V unit = in.at(in.p.unit), less = gp * unit;
        to_prior_log = slope == V{} ? -less : fma(slope, d * unit, -less);
      }
    } else {
      const V slope = gp * d;
      to_prior = slope * prior.inverse;
      to_prior_log = fma(slope, d, -gp);
      const V to_z = gz - to_prior;
      out.loc(to_z);
      out.sigma(to_z * eps);
      out.log_sigma(-in.grad_value(0));
    }
    if constexpr (kLearned) {
      out.prior_loc(to_prior);
      out.prior_log_sigma(to_prior_log);
    }
  }
};
template <bool kFar>
struct TransformFormula<Transform::log_prob, kFar> : LogDensities<false, kFar> {};
template <bool kFar>
struct TransformFormula<Transform::log_prob_prior, kFar> : LogDensities<true, kFar> {};

// Constants: prior_mean; of the wider member 1 / std and log(share / std) - log(2 pi) / 2; ahead and
// fall, as wider_and_narrower of families/mixture.py has them.
template <>
struct TransformFormula<Transform::mixture> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), z = fma(in.sigma(), eps, in.loc());
    const V d = (z - in.constant(0)) * in.constant(1), square = d * d;
    const V ahead = fma(-in.constant(4), square, in.constant(3)), more = ahead > V{} ? ahead : V{};
    const V log_wide = fma(num<V>(-0.5), square, in.constant(2));
    out.z(z);
    out.value(0, log_q(eps, in.log_sigma()) - (log_wide + (more + log1p_unit(exp(-abs(ahead))))));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), z = fma(in.sigma(), eps, in.loc()), one = num<V>(1.0);
    const V d = (z - in.constant(0)) * in.constant(1);
    const V ahead = fma(-in.constant(4), d * d, in.constant(3)), e = exp(-abs(ahead));
    // The slopes d / std of both by their shares; the narrower one's is `steeper` times as large.
    const V steeper = fma(num<V>(2.0), in.constant(4), one);
    const V both = ahead > V{} ? e + steeper : fma(steeper, e, one);
    const V slope = d * in.constant(1) * (both / (one + e));
    const V g = in.grad_value(0), gz = in.grad_z() + times(g, slope);
    out.loc(gz);
    out.sigma(gz * eps);
    out.log_sigma(-g);
  }
};

// With e = exp(-2 |x|); 1 - e would have no digits left near zero. Constants: middle, half, log_p's
// constant, lowest, highest.
template <>
struct TransformFormula<Transform::tanh_normal> {
  // e, 1 - e and 1 / (1 + e).
  template <class V>
  FR_INLINE void parts(V x, V& e, V& rest, V& inverse) {
    const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? 128.0 : 1100.0);
    V minus;
    exp_expm1_within(max_keep_nan(-most, num<V>(-2.0) * abs(x)), e, minus);
    rest = -minus;
    inverse = reciprocal(num<V>(1.0) + e);
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc());
    V e, rest, inverse;
    parts(x, e, rest, inverse);
    const V action = fma(in.constant(1), with_sign(rest * inverse, x), in.constant(0));
    out.z(min_keep_nan(in.constant(4), max_keep_nan(in.constant(3), action)));
    const V known = in.constant(2) - in.log_sigma();
    out.value(0, fma(num<V>(-0.5) * eps, eps, fma(num<V>(2.0), abs(x) + log1p_unit(e), known)));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc());
    V e, rest, inverse;
    parts(x, e, rest, inverse);
    const V twice_tanh = with_sign((rest + rest) * inverse, x);
    const V slope = num<V>(4.0) * e * (inverse * inverse) * in.constant(1);
    const V g = in.grad_value(0), gx = fma(in.grad_z(), slope, g * twice_tanh);
    out.loc(gx);
    out.sigma(gx * eps);
    out.log_sigma(-g);
  }
};

template <>
struct TransformFormula<Transform::exponent> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(exp(fma(in.sigma(), in.eps(), in.loc())));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), g = times(in.grad_z(), exp(fma(in.sigma(), eps, in.loc())));
    out.loc(g);
    out.sigma(g * eps);
  }
};

// Constant: 1 / tau.
template <bool kHard>
struct Bernoulli {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V total = in.loc() + in.eps(), one = num<V>(1.0);
    V z;
    if constexpr (kHard) {
      z = total > V{} ? one : V{};
      z = total != total ? total : z;
    } else {
      z = one / (one + exp(-(total * in.constant(0))));
    }
    out.z(z);
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V e = exp(-abs((in.loc() + in.eps()) * in.constant(0))), up = num<V>(1.0) + e;
    out.loc(in.grad_z() * (e / (up * up)) * in.constant(0));  // in this order: 0 times infinity is NaN
  }
};
template <>
struct TransformFormula<Transform::relaxed_bernoulli> : Bernoulli<false> {};
template <>
struct TransformFormula<Transform::hard_bernoulli> : Bernoulli<true> {};

// loc is a, sigma is b: z = exp(ln(1 - e^-t) / a) with t = eps / b.
template <>
struct TransformFormula<Transform::kumaraswamy> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(exp(log1mexp_of_quotient(in.eps(), in.sigma()).log / in.loc()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    // Beyond the bounds nothing is left of z's gradient. The concentrations divide last: their
    // reciprocals are infinite where they are subnormal.
    const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? 128.0 : 1100.0);
    const V a = in.loc(), b = in.sigma();
    const LogOfQuotient<V> of = log1mexp_of_quotient(in.eps(), b);
    const V log_z = max_keep_nan(-most, of.log / a), gz = in.grad_z() * exp(log_z);
    out.loc(-(gz * log_z / a));
    out.sigma(-(gz * of.slope / a / b));
  }
};

// ---- values of the parameters alone --------------------------------------------------------------

template <Value, bool kFar = false>
struct ValueFormula;

template <class V>
FR_INLINE V floored(V kl, V floor) {
  return kl < floor ? floor : kl;
}

// 0.5 (d^2 + ratio^2 - 1) - log ratio, at least constant 3; below it a gradient is 0.
template <bool kLearned, bool kFar>
struct GaussianDivergence {
  template <class V>
  struct Terms {
    V d, ratio, rest, kl;  // rest = ratio^2 - 1
  };
  template <class V>
  FR_INLINE Terms<V> terms(const Operands<V>& in, const Prior<V>& prior) {
    V d, ratio;
    if constexpr (kFar) {
      d = in.at(in.p.distance);
      ratio = in.at(in.p.ratio);
    } else {
      d = (in.loc() - prior.mean) * prior.inverse;
      ratio = in.sigma() * prior.inverse;
    }
    const V rest = fma(ratio, ratio, num<V>(-1.0));
    return {d, ratio, rest, fma(num<V>(0.5), fma(d, d, rest), prior.log_sigma - in.log_sigma())};
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.value(0, floored(terms(in, prior_of<kLearned>(in)).kl, in.constant(3)));
  }
  template <bool kFloor, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const Prior<V> prior = prior_of<kLearned>(in);
    const Terms<V> t = terms(in, prior);
    V g = in.grad_value(0);
    if constexpr (kFloor) g = t.kl < in.constant(3) ? V{} : g;
    out.sigma(V{});
    if constexpr (kFar) {
      const V slope = times(g, t.d), to_loc = slope * in.at(in.p.first) * in.at(in.p.second);
      // A square that overflows leaves the ratio once to its derivative, which may be small.
      const auto fits = t.rest < num<V>(__builtin_inf());
      out.loc(to_loc);
      out.log_sigma(fits ? times(g, t.rest) : -g);
      out.ratio(fits ? V{} : times(g, t.ratio));
      if constexpr (kLearned) {
        const V unit = in.at(in.p.unit), rest = fma(t.ratio * unit, t.ratio, -unit);
        out.prior_loc(-to_loc);
        out.prior_log_sigma(-times(g, rest) - times(slope, t.d * unit));
      }
    } else {
      const V slope = g * t.d, to_loc = slope * prior.inverse, to_log = g * t.rest;
      out.loc(to_loc);
      out.log_sigma(to_log);
      if constexpr (kLearned) {
        out.prior_loc(-to_loc);
        out.prior_log_sigma(-to_log - slope * t.d);
      }
    }
  }
};
template <bool kFar>
struct ValueFormula<Value::gaussian, kFar> : GaussianDivergence<false, kFar> {};
template <bool kFar>
struct ValueFormula<Value::gaussian_prior, kFar> : GaussianDivergence<true, kFar> {};

// scale e + |loc| - log scale - 1, e = exp(-|loc| / scale).
template <>
struct ValueFormula<Value::laplace> {
  // size / scale, and at most 1e4: its exponential is nothing by then. 0 for a size of 0.
  template <class V>
  FR_INLINE V in_scales(V size, V inverse) {
    constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
    const V most = num<V>(single ? __FLT_MAX__ : __DBL_MAX__);
    return min_keep_nan(num<V>(1e4), size * min_keep_nan(most, inverse));
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V size = abs(in.loc()), scale = in.sigma();
    const V e = exp(-in_scales(size, num<V>(1.0) / scale));
    out.value(0, fma(scale, e, size - log(scale) - num<V>(1.0)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V loc = in.loc(), one = num<V>(1.0), inverse = one / in.sigma(), g = in.grad_value(0);
    const V t = in_scales(abs(loc), inverse), e = exp(-t), sign = loc == V{} ? V{} : with_sign(one, loc);
    out.loc(g * sign * (one - e));
    out.sigma(times(g, fma(e, t, e) - inverse));
  }
};

// -log scale where [loc - scale, loc + scale] lies within [-1, 1], else infinite; NaN of NaN.
template <>
struct ValueFormula<Value::uniform> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), end = abs(in.loc()) + scale;
    out.value(0, end > num<V>(1.0) ? num<V>(__builtin_inf()) : fma(V{}, end, -log(scale)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), end = abs(in.loc()) + scale;
    const auto outside = end > num<V>(1.0);
    out.loc(outside ? V{} : V{} * end);
    out.sigma(outside ? V{} : fma(V{}, end, -times(in.grad_value(0), num<V>(1.0) / scale)));
  }
};

// sqrt(x^2 + y^2) of numbers that are not negative, whose squares may overflow, times a factor below 1:
// the root may overflow too.
template <class V>
FR_INLINE V hypotenuse(V x, V y, double factor) {
  const V most = max_keep_nan(x, y), share = min_keep_nan(x, y) / most;
  return most * (num<V>(factor) * sqrt(fma(share, share, num<V>(1.0))));
}

// log(((1 + scale)^2 + loc^2) / (4 scale)), of the root and of the scale apart: neither overflows.
template <>
struct ValueFormula<Value::cauchy> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), half = hypotenuse(scale + num<V>(1.0), abs(in.loc()), 0.5);
    out.value(0, fma(num<V>(2.0), log(half), -log(scale)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V loc = in.loc(), scale = in.sigma(), one = num<V>(1.0), up = scale + one;
    const V g = in.grad_value(0), inverse = one / hypotenuse(up, abs(loc), 1.0), twice = (g + g) * inverse;
    out.loc(twice * (loc * inverse));
    out.sigma(fma(twice, up * inverse, -times(g, one / scale)));
  }
};

}  // namespace fr::FR_NS
