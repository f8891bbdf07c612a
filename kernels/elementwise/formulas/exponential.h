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
template <>
struct TermFormula<Term::exponential> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V r = in.constant(0) / in.p0();
    out.term(0, r - num<V>(1.0) - (in.constant(1) - log(in.p0())));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V r = in.constant(0) / in.p0();
    out.p0(times(in.grad_term(0), num<V>(1.0) - r) / in.p0());
  }
};

}  // namespace fr::FR_NS
