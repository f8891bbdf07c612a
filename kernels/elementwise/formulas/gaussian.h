// The Gaussian: a sample, its log-densities, and its divergence to a Gaussian prior.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

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
//   ratio           sigma / prior sigma; NaN of a near element where the term is `sampled`, which then
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

template <>
struct TransformFormula<Transform::linear> {
  template <class In, class Out>
  FR_INLINE void forward(const In& in, const Out& out) {
    out.z(in.located(in.eps()));
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
  template <class In, class Out>
  FR_INLINE void forward(const In& in, const Out& out) {
    using V = typename In::Vector;
    const V eps = in.eps(), z = in.located(eps);
    const Prior<V> prior = prior_of<kLearned>(in);
    const V d = distance_of(in, z, eps, prior);
    out.z(z);
    out.term(0, log_q(eps, in.log_sigma()));
    out.term(1, log_q(d, prior.log_sigma));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), gz = in.grad_z(), gp = in.grad_term(1);
    const Prior<V> prior = prior_of<kLearned>(in);
    const V d = distance_of(in, fma(in.sigma(), eps, in.loc()), eps, prior);
    V to_prior, to_prior_log;
    if constexpr (kFar) {
      const V slope = times(gp, d), ratio = in.at(in.p.ratio);
      to_prior = slope * in.at(in.p.first) * in.at(in.p.second);
      const V to_z = gz - to_prior;
      out.loc(to_z);
      out.sigma((ratio == ratio ? gz : to_z) * eps);
      out.log_sigma(-in.grad_term(0));
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
      out.log_sigma(-in.grad_term(0));
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

template <class V>
FR_INLINE V floored(V kl, V floor) {
  return kl < floor ? floor : kl;
}

// 0.5 (d^2 + ratio^2 - 1) - log ratio, at least constant 3; below it a gradient is 0.
template <bool kLearned, bool kFar>
struct GaussianDivergence {
  template <class V>
  struct Parts {
    V d, ratio, rest, kl;  // rest = ratio^2 - 1
  };
  template <class V>
  FR_INLINE Parts<V> parts(const Operands<V>& in, const Prior<V>& prior) {
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
    out.term(0, floored(parts(in, prior_of<kLearned>(in)).kl, in.constant(3)));
  }
  template <bool kFloor, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const Prior<V> prior = prior_of<kLearned>(in);
    const Parts<V> t = parts(in, prior);
    V g = in.grad_term(0);
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
struct TermFormula<Term::gaussian, kFar> : GaussianDivergence<false, kFar> {};
template <bool kFar>
struct TermFormula<Term::gaussian_prior, kFar> : GaussianDivergence<true, kFar> {};

}  // namespace fr::FR_NS
