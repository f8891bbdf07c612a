// The half-Cauchy distribution.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// log((scale + prior)^2 / (4 scale prior)), of half the sum. Constants: half the prior's scale, and the
// scale's logarithm.
template <bool kLearned>
struct HalfCauchyDivergence {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.p0(), middle = fma(num<V>(0.5), scale, half_of_prior(in));
    out.term(0, fma(num<V>(2.0), log(middle), -log(scale)) - (kLearned ? log(in.p1()) : in.constant(1)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V half = num<V>(0.5) * in.p0(), prior = half_of_prior(in);
    const V slope = times(in.grad_term(0), (half - prior) / (half + prior));
    out.p0(slope / in.p0());
    if constexpr (kLearned) out.p1(-slope / in.p1());
  }

 private:
  template <class V>
  FR_INLINE V half_of_prior(const Operands<V>& in) {
    return kLearned ? num<V>(0.5) * in.p1() : in.constant(0);
  }
};
template <>
struct TermFormula<Term::half_cauchy> : HalfCauchyDivergence<false> {};
template <>
struct TermFormula<Term::half_cauchy_prior> : HalfCauchyDivergence<true> {};

}  // namespace fr::FR_NS
