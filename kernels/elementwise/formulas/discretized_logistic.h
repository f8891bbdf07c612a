// The log-likelihood of values on a grid, under a logistic distribution.
#pragma once

#include "elementwise/formulas/bernoulli.h"

namespace fr::FR_NS {

// p0 is the value, p1 the location, p2 the scale. Constants: half a bin's width, the first bin's upper and the
// last bin's lower end. As fused_reparam/families/discretized_logistic.py has it.
template <>
struct TermFormula<Term::discretized_logistic_density> {
  template <class V>
  struct Ends {
    V above, below;                                         // (d + h) / scale and (d - h) / scale
    __attribute__((always_inline)) explicit Ends(const Operands<V>& in) {
      const V d = in.p0() - in.p1();
      above = (d + in.constant(0)) / in.p2();
      below = (d - in.constant(0)) / in.p2();
    }
  };
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const Ends<V> end(in);
    const auto lower = in.p0() < in.constant(1), upper = in.p0() > in.constant(2);
    const V of_above = max_keep_nan(V{}, -end.above) + log1p_unit(exp_of_size(end.above));
    const V of_below = max_keep_nan(V{}, end.below) + log1p_unit(exp_of_size(end.below));
    const V width = log1mexp_of_quotient(num<V>(2.0) * in.constant(0), in.p2()).log;
    out.term(0, ((lower | upper) ? V{} : width) - (upper ? V{} : of_above) - (lower ? V{} : of_below));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    constexpr double most = sizeof(typename Scalar<V>::type) == 4 ? __FLT_MAX__ : __DBL_MAX__;
    const Ends<V> end(in);
    const auto lower = in.p0() < in.constant(1), upper = in.p0() > in.constant(2);
    const V one = num<V>(1.0), inverse = min_keep_nan(num<V>(most), one / in.p2());
    const V e_above = exp_of_size(end.above), e_below = exp_of_size(end.below);
    const V of_above = reciprocal(one + e_above), of_below = reciprocal(one + e_below);
    const V a = upper ? V{} : end.above > V{} ? e_above * of_above : of_above;
    const V b = lower ? V{} : end.below > V{} ? of_below : e_below * of_below;
    const V width = log1mexp_of_quotient(num<V>(2.0) * in.constant(0), in.p2()).slope;
    const V inner = (lower | upper) ? V{} : width, slope = times(in.grad_term(0), inverse);
    const V to_loc = times(slope, b - a);
    out.p0(-to_loc);
    out.p1(to_loc);
    out.p2(times(slope, times(end.below, b) - times(end.above, a) - inner));
  }
};

}  // namespace fr::FR_NS
