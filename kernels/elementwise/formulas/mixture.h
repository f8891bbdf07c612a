// The log-density of a Gaussian sample, less that of a mixture of two normals.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// Constants: prior_mean; of the wider member 1 / std and log(share / std) - log(2 pi) / 2; ahead and
// fall, as wider_and_narrower of families/mixture.py has them.
template <>
struct TransformFormula<Transform::mixture> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), z = fma(in.sigma(), eps, in.loc());
    const V d = (z - in.constant(0)) * in.constant(1), square = d * d;
    const V ahead = fma(-in.constant(4), square, in.constant(3)), more = ahead > V{} ? ahead : V{};
    const V log_wide = fma(num<V>(-0.5), square, in.constant(2));
    out.z(z);
    out.term(0, log_q(eps, in.log_sigma()) - (log_wide + (more + log1p_unit(exp(-abs(ahead))))));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), z = fma(in.sigma(), eps, in.loc()), one = num<V>(1.0);
    const V d = (z - in.constant(0)) * in.constant(1);
    const V ahead = fma(-in.constant(4), d * d, in.constant(3)), e = exp(-abs(ahead));
    // The slopes d / std of both by their shares; the narrower one's is `steeper` times as large.
    const V steeper = fma(num<V>(2.0), in.constant(4), one);
    const V both = ahead > V{} ? e + steeper : fma(steeper, e, one);
    const V slope = d * in.constant(1) * (both / (one + e));
    const V g = in.grad_term(0), gz = in.grad_z() + times(g, slope);
    out.loc(gz);
    out.sigma(gz * eps);
    out.log_sigma(-g);
  }
};

}  // namespace fr::FR_NS
