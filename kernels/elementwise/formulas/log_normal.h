// The log-normal.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

template <>
struct TransformFormula<Transform::exponent> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(exp(fma(in.sigma(), in.eps(), in.loc())));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), g = times(in.grad_z(), exp(fma(in.sigma(), eps, in.loc())));
    out.loc(g);
    out.sigma(g * eps);
  }
};

}  // namespace fr::FR_NS
