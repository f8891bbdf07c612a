// The Pareto distribution.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// p0 is the scale, p1 alpha: z = scale e^(eps / alpha).
template <>
struct TransformFormula<Transform::pareto> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(Stretch<V>(in.eps(), in.p1()).of(in.p0()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    Stretch<V>(in.eps(), in.p1()).gradients(in, out);
  }
};

// prior_alpha log(scale / the prior's scale) - log r + r - 1 with r = prior_alpha / alpha; infinite where
// the scale is below the prior's. Constants: the prior's scale, its logarithm, prior_alpha, its logarithm.
template <>
struct TermFormula<Term::pareto> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.p0(), alpha = in.p1(), one = num<V>(1.0);
    const V of_alpha = in.constant(2) / alpha - one - (in.constant(3) - log(alpha));
    const V kl = fma(in.constant(2), log(scale) - in.constant(1), of_alpha);
    out.term(0, scale < in.constant(0) ? num<V>(__builtin_inf()) : kl);
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V scale = in.p0(), alpha = in.p1();
    const V g = scale < in.constant(0) ? V{} : in.grad_term(0);
    out.p0(times(g, in.constant(2) / scale));
    out.p1(times(g, num<V>(1.0) - in.constant(2) / alpha) / alpha);
  }
};

}  // namespace fr::FR_NS
