// The exponential distribution.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// loc is the rate.
template <>
struct TransformFormula<Transform::exponential> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(in.eps() / in.loc());
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V rate = in.loc();
    out.loc(-(times(in.grad_z(), in.eps() / rate) / rate));
  }
};

// r - 1 - log r with r = the prior's rate / rate. Constants: the prior's rate and its logarithm.
template <>
struct ValueFormula<Value::exponential> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V r = in.constant(0) / in.loc();
    out.value(0, r - num<V>(1.0) - (in.constant(1) - log(in.loc())));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V r = in.constant(0) / in.loc();
    out.loc(times(in.grad_value(0), num<V>(1.0) - r) / in.loc());
  }
};

}  // namespace fr::FR_NS
