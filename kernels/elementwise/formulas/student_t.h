// Student's t whose degrees of freedom are a parameter, which the noise is made of.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

template <>
struct TransformFormula<Transform::student_t> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(fma(in.sigma(), in.eps(), in.loc()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V gz = in.grad_z();
    out.loc(gz);
    out.sigma(gz * in.eps());
    out.p2(times(times(gz, in.slope()), in.sigma()));
  }
};

}  // namespace fr::FR_NS
