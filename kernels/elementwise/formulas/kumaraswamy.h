// The Kumaraswamy distribution.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// p0 is a, p1 is b: z = exp(ln(1 - e^-t) / a) with t = eps / b.
template <>
struct TransformFormula<Transform::kumaraswamy> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(exp(log1mexp_of_quotient(in.eps(), in.p1()).log / in.p0()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    // Beyond the bounds nothing is left of z's gradient. The concentrations divide last: their
    // reciprocals are infinite where they are subnormal.
    const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? 128.0 : 1100.0);
    const V a = in.p0(), b = in.p1();
    const LogOfQuotient<V> of = log1mexp_of_quotient(in.eps(), b);
    const V log_z = max_keep_nan(-most, of.log / a), gz = in.grad_z() * exp(log_z);
    out.p0(-(gz * log_z / a));
    out.p1(-(gz * of.slope / a / b));
  }
};

}  // namespace fr::FR_NS
