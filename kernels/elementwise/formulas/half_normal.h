// The half-normal distribution, and the sample of every folded one.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// p0 is the scale.
template <>
struct TransformFormula<Transform::folded> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(in.p0() * abs(in.eps()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    out.p0(in.grad_z() * abs(in.eps()));
  }
};

// (r^2 - 1) / 2 - log r with r = scale / the prior's. Constants: the prior's scale and its logarithm.
template <bool kLearned>
struct HalfNormalDivergence {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V r = in.p0() / scale_of_prior(in), log_prior = kLearned ? log(in.p1()) : in.constant(1);
    out.term(0, fma(num<V>(0.5), fma(r, r, num<V>(-1.0)), log_prior - log(in.p0())));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V one = num<V>(1.0), g = in.grad_term(0), prior = scale_of_prior(in), r = in.p0() / prior;
    out.p0(times(g, r / prior - one / in.p0()));
    if constexpr (kLearned) out.p1(times(g, fma(-r, r / prior, one / prior)));
  }

 private:
  template <class V>
  FR_INLINE V scale_of_prior(const Operands<V>& in) {
    return kLearned ? in.p1() : in.constant(0);
  }
};
template <>
struct TermFormula<Term::half_normal> : HalfNormalDivergence<false> {};
template <>
struct TermFormula<Term::half_normal_prior> : HalfNormalDivergence<true> {};

}  // namespace fr::FR_NS
