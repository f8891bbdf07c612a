// The exponential distribution.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// p0 is the rate.
template <>
struct TransformFormula<Transform::exponential> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(in.eps() / in.p0());
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V rate = in.p0();
    out.p0(-(times(in.grad_z(), in.eps() / rate) / rate));
  }
};

// r - 1 - log r with r = the prior's rate / rate. Constants: the prior's rate and its logarithm.
template <bool kLearned>
struct ExponentialDivergence {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V r = rate_of_prior(in) / in.p0(), log_prior = kLearned ? log(in.p1()) : in.constant(1);
    out.term(0, r - num<V>(1.0) - (log_prior - log(in.p0())));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V one = num<V>(1.0), g = in.grad_term(0), r = rate_of_prior(in) / in.p0();
    out.p0(times(g, one - r) / in.p0());
    if constexpr (kLearned) out.p1(times(g, one / in.p0() - one / in.p1()));
  }

 private:
  template <class V>
  FR_INLINE V rate_of_prior(const Operands<V>& in) {
    return kLearned ? in.p1() : in.constant(0);
  }
};
template <>
struct TermFormula<Term::exponential> : ExponentialDivergence<false> {};
template <>
struct TermFormula<Term::exponential_prior> : ExponentialDivergence<true> {};

}  // namespace fr::FR_NS
