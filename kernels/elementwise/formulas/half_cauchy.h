// The half-Cauchy distribution.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// log((scale + prior)^2 / (4 scale prior)), of half the sum. Constants: half the prior's scale, and the
// scale's logarithm.
template <>
struct TermFormula<Term::half_cauchy> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.p0(), middle = fma(num<V>(0.5), scale, in.constant(0));
    out.term(0, fma(num<V>(2.0), log(middle), -log(scale)) - in.constant(1));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V half = num<V>(0.5) * in.p0(), prior = in.constant(0);
    out.p0(times(in.grad_term(0), (half - prior) / (half + prior)) / in.p0());
  }
};

}  // namespace fr::FR_NS
