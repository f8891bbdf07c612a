// A bounded action: the tanh of a Gaussian, between two ends.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// With e = exp(-2 |x|); 1 - e would have no digits left near zero. Constants: middle, half, log_p's
// constant, lowest, highest.
template <>
struct TransformFormula<Transform::tanh_normal> {
  // e, 1 - e and 1 / (1 + e).
  template <class V>
  FR_INLINE void parts(V x, V& e, V& rest, V& inverse) {
    const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? 128.0 : 1100.0);
    V minus;
    exp_expm1_within(max_keep_nan(-most, num<V>(-2.0) * abs(x)), e, minus);
    rest = -minus;
    inverse = reciprocal(num<V>(1.0) + e);
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc());
    V e, rest, inverse;
    parts(x, e, rest, inverse);
    const V action = fma(in.constant(1), with_sign(rest * inverse, x), in.constant(0));
    out.z(min_keep_nan(in.constant(4), max_keep_nan(in.constant(3), action)));
    const V known = in.constant(2) - in.log_sigma();
    out.term(0, fma(num<V>(-0.5) * eps, eps, fma(num<V>(2.0), abs(x) + log1p_unit(e), known)));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc());
    V e, rest, inverse;
    parts(x, e, rest, inverse);
    const V twice_tanh = with_sign((rest + rest) * inverse, x);
    const V slope = num<V>(4.0) * e * (inverse * inverse) * in.constant(1);
    const V g = in.grad_term(0), gx = fma(in.grad_z(), slope, g * twice_tanh);
    out.loc(gx);
    out.sigma(gx * eps);
    out.log_sigma(-g);
  }
};

// The same of a fixed action: the gradients are those of log N(x; loc, sigma^2) at x.
template <>
struct TransformFormula<Transform::tanh_normal_score> : TransformFormula<Transform::tanh_normal> {
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), g = in.grad_term(0);
    out.loc(times(g, eps / in.sigma()));
    out.sigma(V{});
    out.log_sigma(g * fma(eps, eps, num<V>(-1.0)));
  }
};

}  // namespace fr::FR_NS
