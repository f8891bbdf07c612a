// The Weibull distribution.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// p0 is the scale, p1 the concentration: z = scale e^(log eps / concentration).
template <>
struct TransformFormula<Transform::weibull> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(Stretch<V>(log(in.eps()), in.p1()).of(in.p0()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    Stretch<V>(log(in.eps()), in.p1()).gradients(in, out);
  }
};

// log Gamma(y) = (y - 1/2) log y - y + log(2 pi) / 2 + v / y and its derivative log y - 1 / (2 y) - s / y^2, with v
// and s in powers of 1 / y^2: to the last bits from y = 3 (float) or 9 (double) on.
template <class V>
struct Stirling {
  using Real = typename Scalar<V>::type;
  static constexpr Real of_value[] = {1.0 / 12,    -1.0 / 360, 1.0 / 1260,
                                      -1.0 / 1680, 1.0 / 1188, -691.0 / 360360};
  static constexpr Real of_slope[] = {1.0 / 12,  -1.0 / 120,     1.0 / 252, -1.0 / 240,
                                      1.0 / 132, -691.0 / 32760, 1.0 / 12};
};

// log Gamma(1 + r) and its derivative for r >= 0, by Stirling's series of a larger argument y = 1 + r + n:
// Gamma(y) = Gamma(1 + r) (r + 1) ... (r + n). The factors are divided by y before their logarithm is taken, so that
// n log y, most of both logarithms, is not added to be taken away: a third to a half of the error.
template <class V>
FR_INLINE void log_gamma(V r, V& value, V& slope) {
  constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
  constexpr int shift = single ? 2 : 8;
  const V one = num<V>(1.0);
  const auto large = r > num<V>(64.0);
  V product = one, sum = V{};                               // of the factors, and of their reciprocals times it
  for (int i = 1; i <= shift; ++i) {
    const V factor = (large ? V{} : r) + num<V>(i);
    sum = fma(sum, factor, product);
    product = product * factor;
  }
  const V y = r + (large ? one : num<V>(shift + 1.0)), inverse = one / y, square = inverse * inverse;
  const V log_y = log(y), half = num<V>(0.5);
  V quotient = product;
  for (int i = 0; i < shift; i += 2) quotient = quotient * square;
  const V constant = large ? num<V>(kHalfLogTwoPi - 0.5) : num<V>(kHalfLogTwoPi - 0.5 - shift) - log(quotient);
  // Nothing infinite is taken from something infinite.
  value = fma(r + half, log_y - one, fma(inverse, polynomial(square, Stirling<V>::of_value), constant));
  slope = log_y - fma(half, inverse, square * polynomial(square, Stirling<V>::of_slope));
  slope = large ? slope : slope - sum / product;
}

// With the prior's concentration k, r = k / concentration and s = log(scale / the prior's scale):
// e^(k s) Gamma(1 + r) - 1 - k s - log r + (r - 1) Euler's constant. Constants: the logarithm of the prior's
// scale, k and log k.
template <bool kLearned>
struct WeibullDivergence {
  static constexpr double kEuler = 0.57721566490153286061;
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const Parts<V> p(in);
    const V log_k = kLearned ? log(p.k) : in.constant(2), one = num<V>(1.0);
    out.term(0, p.grown() - p.ks - (log_k - log(in.p1())) + num<V>(kEuler) * (p.r - one));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const Parts<V> p(in);
    const V one = num<V>(1.0), grown = p.grown(), g = in.grad_term(0), euler = num<V>(kEuler);
    out.p0(times(g, p.k * grown) / in.p0());
    out.p1(times(g, one - p.r * fma(grown + one, p.slope, euler)) / in.p1());
    if constexpr (kLearned) {
      out.p2(-times(g, p.k / in.p2() * grown));
      // What may be infinite has one factor.
      const V of_grown = times(grown + one, p.s + p.slope / in.p1());
      out.p3(times(g, of_grown - p.s + (euler / in.p1() - one / p.k)));
    }
  }

 private:
  template <class V>
  struct Parts {
    V k, r, s, ks, value, slope;
    __attribute__((always_inline)) explicit Parts(const Operands<V>& in) {
      k = kLearned ? in.p3() : in.constant(1);
      r = k / in.p1();
      s = log(in.p0()) - (kLearned ? log(in.p2()) : in.constant(0));
      ks = k * s;
      log_gamma(r, value, slope);
    }
    __attribute__((always_inline)) V grown() const { return expm1(ks + value); }
  };
};
template <>
struct TermFormula<Term::weibull> : WeibullDivergence<false> {};
template <>
struct TermFormula<Term::weibull_prior> : WeibullDivergence<true> {};

}  // namespace fr::FR_NS
