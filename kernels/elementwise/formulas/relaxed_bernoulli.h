// The relaxed Bernoulli, or its straight-through form.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// Constant: 1 / tau.
template <bool kHard>
struct Bernoulli {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V total = in.p0() + in.eps(), one = num<V>(1.0);
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
    const V e = exp(-abs((in.p0() + in.eps()) * in.constant(0))), up = num<V>(1.0) + e;
    out.p0(in.grad_z() * (e / (up * up)) * in.constant(0));  // in this order: 0 times infinity is NaN
  }
};
template <>
struct TransformFormula<Transform::relaxed_bernoulli> : Bernoulli<false> {};
template <>
struct TransformFormula<Transform::hard_bernoulli> : Bernoulli<true> {};

// sigma is tau, NaN where it is not above 0.
template <bool kHard>
struct BernoulliOfTau {
  template <class V>
  FR_INLINE V temperature(V tau) {
    return tau > V{} ? tau : num<V>(__builtin_nan(""));
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V total = in.p0() + in.eps(), tau = temperature(in.p1()), one = num<V>(1.0);
    V z;
    if constexpr (kHard) {
      z = total > V{} ? one : V{};
      z = total != total ? total : z;
      z = tau != tau ? tau : z;
    } else {
      z = one / (one + exp(-(total / tau)));
    }
    out.z(z);
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V tau = temperature(in.p1()), t = (in.p0() + in.eps()) / tau;
    const V e = exp(-abs(t)), up = num<V>(1.0) + e, to_t = in.grad_z() * (e / (up * up));
    out.p0(times(to_t, num<V>(1.0) / tau));
    out.p1(-times(to_t, t / tau));
  }
};
template <>
struct TransformFormula<Transform::relaxed_bernoulli_tau> : BernoulliOfTau<false> {};
template <>
struct TransformFormula<Transform::hard_bernoulli_tau> : BernoulliOfTau<true> {};

}  // namespace fr::FR_NS
