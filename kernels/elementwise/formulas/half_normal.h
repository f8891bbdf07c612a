// The half-normal distribution, and the sample of every folded one.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// loc is the scale.
template <>
struct TransformFormula<Transform::folded> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(in.loc() * abs(in.eps()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    out.loc(in.grad_z() * abs(in.eps()));
  }
};

// (r^2 - 1) / 2 - log r with r = scale / the prior's. Constants: the prior's scale and its logarithm.
template <>
struct ValueFormula<Value::half_normal> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V r = in.loc() / in.constant(0);
    out.value(0, fma(num<V>(0.5), fma(r, r, num<V>(-1.0)), in.constant(1) - log(in.loc())));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V r = in.loc() / in.constant(0);
    out.loc(times(in.grad_value(0), r / in.constant(0) - num<V>(1.0) / in.loc()));
  }
};

}  // namespace fr::FR_NS
