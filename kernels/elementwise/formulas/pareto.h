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
template <bool kLearned>
struct ParetoDivergence {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.p0(), alpha = in.p1(), one = num<V>(1.0);
    const Prior<V> prior(in);
    const V log_alpha = kLearned ? log(prior.alpha) : in.constant(3);
    const V of_alpha = prior.alpha / alpha - one - (log_alpha - log(alpha));
    const V kl = fma(prior.alpha, log(scale) - prior.log_scale, of_alpha);
    out.term(0, scale < prior.scale ? num<V>(__builtin_inf()) : kl);
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V scale = in.p0(), alpha = in.p1(), one = num<V>(1.0);
    const Prior<V> prior(in);
    const V g = scale < prior.scale ? V{} : in.grad_term(0);
    out.p0(times(g, prior.alpha / scale));
    out.p1(times(g, one - prior.alpha / alpha) / alpha);
    if constexpr (kLearned) {
      out.p2(-times(g, prior.alpha / prior.scale));
      out.p3(times(g, (log(scale) - prior.log_scale) + (one / alpha - one / prior.alpha)));
    }
  }

 private:
  template <class V>
  struct Prior {
    V scale, log_scale, alpha;
    __attribute__((always_inline)) explicit Prior(const Operands<V>& in) {
      scale = kLearned ? in.p2() : in.constant(0);
      log_scale = kLearned ? log(scale) : in.constant(1);
      alpha = kLearned ? in.p3() : in.constant(2);
    }
  };
};
template <>
struct TermFormula<Term::pareto> : ParetoDivergence<false> {};
template <>
struct TermFormula<Term::pareto_prior> : ParetoDivergence<true> {};

}  // namespace fr::FR_NS
