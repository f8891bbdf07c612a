// The log-density of a Gaussian sample, less that of a mixture of two normals, and the latter at a point.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// Constants: prior_mean; of the wider member 1 / std and log(share / std) - log(2 pi) / 2; ahead and
// fall, as wider_and_narrower of families/mixture.py has them.
template <>
struct TransformFormula<Transform::mixture> {
  template <class In, class Out>
  FR_INLINE void forward(const In& in, const Out& out) {
    using V = typename In::Vector;
    const V eps = in.eps(), z = in.located(eps);
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

// What a square of a distance in narrow stds takes from the logarithm of the narrower normal's share of the
// wider one's: (1 - ratio^2) / 2. Not 0, which times an infinite square would be NaN.
template <class V>
FR_INLINE V fall_of(V ratio) {
  const V one = num<V>(1.0);
  return max_keep_nan(num<V>(0x1p-126), num<V>(0.5) * (one - ratio) * (one + ratio));
}

// p0 is the point, p1 the share of the first of two normals around 0, p2 and p3 their stds. See
// mixture_density of families/mixture.py.
template <>
struct TermFormula<Term::mixture_density> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const Parts<V> p(in);
    const V d = p.by_narrow ? p.e : p.d;
    const V log_std = p.by_narrow ? p.log_narrow : p.log_wide;
    out.term(0, fma(num<V>(-0.5) * d, d, log(p.all) - log_std) - num<V>(kHalfLogTwoPi));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const Parts<V> p(in);
    const V one = num<V>(1.0), g = in.grad_term(0), to_first = one / p.all, to_other = p.quotient * to_first;
    const V of_first = p.first * to_first, of_other = p.other * to_other;
    const V of_wide = p.by_narrow ? of_other : of_first, of_narrow = p.by_narrow ? of_first : of_other;
    const V steep = p.d / p.wide, steeper = p.e / p.narrow;
    const V to_wide = times(g, times(of_wide, fma(p.d, steep, -(one / p.wide))));
    const V to_narrow = times(g, times(of_narrow, fma(p.e, steeper, -(one / p.narrow))));
    const auto one_is_wide = in.p2() >= in.p3();
    const V to_wides = p.by_narrow ? to_other - to_first : to_first - to_other;
    out.p0(-times(g, times(of_wide, steep) + times(of_narrow, steeper)));
    out.p1(times(g, one_is_wide ? to_wides : -to_wides));
    out.p2(one_is_wide ? to_wide : to_narrow);
    out.p3(one_is_wide ? to_narrow : to_wide);
  }

 private:
  template <class V>
  struct Parts {
    V wide, narrow, log_wide, log_narrow, d, e;
    // Shares of the normal that counts for more and of the other, whose density over it is the quotient,
    // and what they come to.
    V first, other, quotient, all;
    decltype(V{} < V{}) by_narrow;
    __attribute__((always_inline)) explicit Parts(const Operands<V>& in) {
      const V share = in.p1(), rest = num<V>(1.0) - share;
      const auto one_is_wide = in.p2() >= in.p3();
      wide = one_is_wide ? in.p2() : in.p3();
      narrow = one_is_wide ? in.p3() : in.p2();
      const V of_wide = one_is_wide ? share : rest, of_narrow = one_is_wide ? rest : share;
      log_wide = log(wide);
      log_narrow = log(narrow);
      d = in.p0() / wide;
      e = in.p0() / narrow;
      const V ahead = fma(-fall_of(narrow / wide), e * e, log_wide - log_narrow);
      by_narrow = (of_narrow != V{}) & ((ahead > V{}) | (of_wide == V{}));
      first = by_narrow ? of_narrow : of_wide;
      other = by_narrow ? of_wide : of_narrow;
      quotient = exp(min_keep_nan(num<V>(80.0), by_narrow ? -ahead : ahead));
      all = fma(other, quotient, first);
    }
  };
};

}  // namespace fr::FR_NS
