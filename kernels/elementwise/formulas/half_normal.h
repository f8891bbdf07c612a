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
template <>
struct TermFormula<Term::half_normal> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V r = in.p0() / in.constant(0);
    out.term(0, fma(num<V>(0.5), fma(r, r, num<V>(-1.0)), in.constant(1) - log(in.p0())));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V r = in.p0() / in.constant(0);
    out.p0(times(in.grad_term(0), r / in.constant(0) - num<V>(1.0) / in.p0()));
  }
};

}  // namespace fr::FR_NS
