// The continuous Bernoulli distribution.
#pragma once

#include "elementwise/formulas/bernoulli.h"

namespace fr::FR_NS {

// p0 is the logits, and u = e^-eps. By symmetry of a = -|logits|: y(a, w) = log(1 - w + w e^a) / a of
// w = u for negative logits, else 1 - y of w = 1 - u.
template <>
struct TransformFormula<Transform::continuous_bernoulli> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const Parts<V> p(in);
    out.z(in.p0() < V{} ? p.y : num<V>(1.0) - p.y);
  }
  // dy / da, which is the gradient on both sides.
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
    const Parts<V> p(in);
    const V one = num<V>(1.0), direct = (p.w * p.e / p.left - p.y) / p.a;
    // Near 0 the two cancel: there of the cumulants of a Bernoulli variable of the middle's chance.
    const V up = p.w * sqrt(p.e), all = p.rest + up, mean = up / all, other = p.rest / all;
    const V q = mean * other, d = other - mean, b = num<V>(0.5) * p.a;
    constexpr typename Scalar<V>::type fourth[] = {1.0 / 12, -6.0 / 12}, fifth[] = {1.0 / 60, -12.0 / 60},
                                       sixth[] = {1.0 / 240, -30.0 / 240, 120.0 / 240},
                                       seventh[] = {1.0 / 1680, -60.0 / 1680, 360.0 / 1680},
                                       eighth[] = {1.0 / 10080, -126.0 / 10080, 1680.0 / 10080, -5040.0 / 10080};
    const V odd = fma(fma(polynomial(q, seventh), b * b, polynomial(q, fifth)), b * b, num<V>(1.0 / 6)) * b;
    const V even = fma(fma(polynomial(q, eighth), b * b, polynomial(q, sixth)), b * b, polynomial(q, fourth));
    const V series = q * fma(d, odd, fma(even, b * b, num<V>(0.5)));
    out.p0(in.grad_z() * (p.a > num<V>(single ? -1.0 : -0.05) ? series : direct));
  }

 private:
  template <class V>
  struct Parts {
    V w, rest, a, e, left, y;  // rest = 1 - w; e = e^a; left = rest + w e
    __attribute__((always_inline)) explicit Parts(const Operands<V>& in) {
      const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? -128.0 : -1100.0);
      const V logits = in.p0();
      V u, minus;
      exp_expm1_within(max_keep_nan(most, -in.eps()), u, minus);
      const auto below = logits < V{};
      w = below ? u : -minus;
      rest = below ? -minus : u;
      a = -abs(logits);
      exp_expm1_within(max_keep_nan(most, a), e, minus);
      left = fma(w, e, rest);
      const V lost = -(w * minus);
      // The logarithm from the side on which nothing cancels.
      const auto few = lost < num<V>(0.5);
      const V one = num<V>(1.0), most_of = one - lost, rounded = (one - most_of) - lost;
      y = (log(few ? most_of : left) + (few ? rounded / most_of : V{})) / a;
      y = a > num<V>(-1e-20) ? w : min_keep_nan(num<V>(1.0), y);
    }
  };
};

// With b = logits / 2, S = log(sinh b / b) and L = coth b - 1 / b: S(prior b) - S(b) + L(b) (b - prior b).
// Constants: the prior's b, S, and S - |b|.
template <bool kLearned>
struct ContinuousBernoulliDivergence {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V one = num<V>(1.0), b = num<V>(0.5) * in.p0(), square = b * b;
    V prior, log_prior, rest_of_prior;
    prior_of(in, prior, log_prior, rest_of_prior);
    const V small = fma(langevin_small(b), b - prior, fma(-square, polynomial(square, kLogShc<V>), log_prior));
    // Of a large one without what is as large as |b|: S = |b| + log((1 - e) / 2 |b|), e = e^(-2 |b|).
    V size, e, other;
    parts(b, size, e, other);
    const V grown = (e + e) / other, more = grown - one / size;                 // |L| - 1
    const V apart = (b > V{}) == (prior > V{}) ? -more : num<V>(2.0) + more;
    const V rest = num<V>(0.69314718055994530942) + log(size / other);
    const V large = fma(abs(prior), apart, rest_of_prior) + rest + fma(size, grown, -one);
    out.term(0, abs(b) < near<V>() ? small : large);
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V b = num<V>(0.5) * in.p0(), apart = b - (kLearned ? num<V>(0.5) * in.p1() : in.constant(0));
    constexpr typename Scalar<V>::type slope[] = {kLangevin[0],     kLangevin[1] * 3, kLangevin[2] * 5,
                                                  kLangevin[3] * 7, kLangevin[4] * 9, kLangevin[5] * 11,
                                                  kLangevin[6] * 13};
    V size, e, other;
    parts(b, size, e, other);
    const V large = apart / size / size - apart * (num<V>(4.0) * e / (other * other));
    const V small = apart * polynomial(b * b, slope);
    out.p0(num<V>(0.5) * in.grad_term(0) * (abs(b) < near<V>() ? small : large));
    if constexpr (kLearned) out.p1(num<V>(0.5) * in.grad_term(0) * slope_of_prior(num<V>(0.5) * in.p1(), b));
  }

 protected:
  // coth b - 1 / b is their sum times b^(2 n - 1), n = 1, 2, ...
  static constexpr double kLangevin[] = {1.0 / 3,     -1.0 / 45,            2.0 / 945,       -1.0 / 4725,
                                         2.0 / 93555, -1382.0 / 638512875.0, 4.0 / 18243225.0};
  // Of log(sinh b / b) / b^2, and of L / b, in powers of b^2.
  template <class V>
  static constexpr typename Scalar<V>::type kLogShc[] = {kLangevin[0] / 2, kLangevin[1] / 4,  kLangevin[2] / 6,
                                                         kLangevin[3] / 8, kLangevin[4] / 10, kLangevin[5] / 12,
                                                         kLangevin[6] / 14};
  template <class V>
  FR_INLINE V langevin_small(V b) {
    constexpr typename Scalar<V>::type slope[] = {kLangevin[0], kLangevin[1], kLangevin[2], kLangevin[3],
                                                  kLangevin[4], kLangevin[5], kLangevin[6]};
    return polynomial(b * b, slope) * b;
  }
  // The prior's b, S and S - |b|.
  template <class V>
  FR_INLINE void prior_of(const Operands<V>& in, V& b, V& log_shc, V& rest) {
    if constexpr (kLearned) {
      b = num<V>(0.5) * in.p1();
      V size, e, other;
      parts(b, size, e, other);
      const V small = b * b * polynomial(b * b, kLogShc<V>);
      const V large = log(other / size) - num<V>(0.69314718055994530942);
      log_shc = size < near<V>() ? small : size + large;
      rest = size < near<V>() ? small - size : large;
    } else {
      b = in.constant(0);
      log_shc = in.constant(1);
      rest = in.constant(2);
    }
  }
  // L(prior b) - L(b). Of two large ones of one sign the 1 that both are near to is left out.
  template <class V>
  FR_INLINE V slope_of_prior(V prior, V b) {
    const V one = num<V>(1.0), of_prior = less_than_one(prior), of_b = less_than_one(b);
    const auto both = (min_keep_nan(abs(prior), abs(b)) >= near<V>()) & ((prior > V{}) == (b > V{}));
    const auto langevin = [&](V x, V less) {
      return abs(x) < near<V>() ? langevin_small(x) : with_sign(one - less, x);
    };
    const V apart = of_b - of_prior;
    return both ? (b > V{} ? apart : -apart) : langevin(prior, of_prior) - langevin(b, of_b);
  }
  // 1 - |L| of a large b.
  template <class V>
  FR_INLINE V less_than_one(V b) {
    V size, e, other;
    parts(b, size, e, other);
    return num<V>(1.0) / size - (e + e) / other;
  }
  template <class V>
  FR_INLINE V near() {
    return num<V>(sizeof(typename Scalar<V>::type) == 4 ? 1.0 : 0.25);
  }
  // |b|, e^(-2 |b|), and what it leaves of 1.
  template <class V>
  FR_INLINE void parts(V b, V& size, V& e, V& other) {
    size = abs(b);
    exp_expm1_within(max_keep_nan(num<V>(sizeof(typename Scalar<V>::type) == 4 ? -128.0 : -1100.0), -(size + size)),
                     e, other);
    other = -other;
  }
};
template <>
struct TermFormula<Term::continuous_bernoulli> : ContinuousBernoulliDivergence<false> {};
template <>
struct TermFormula<Term::continuous_bernoulli_prior> : ContinuousBernoulliDivergence<true> {};

// With b = logits / 2 and S of it: (x - 1/2) logits - S. Of a large b by what the logits miss.
template <>
struct TermFormula<Term::continuous_bernoulli_density> : ContinuousBernoulliDivergence<false> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    constexpr double most = sizeof(typename Scalar<V>::type) == 4 ? __FLT_MAX__ : __DBL_MAX__;
    const V logits = in.p1(), b = num<V>(0.5) * logits, square = b * b, whole = abs(logits);
    V size, e, other;
    parts(b, size, e, other);
    const V small = fma(in.p0() - num<V>(0.5), logits, -(square * polynomial(square, kLogShc<V>)));
    const V missed = missed_of(in.p0(), logits), weight = missed == V{} ? V{} : missed * whole;
    const V large = log_positive(min_keep_nan(num<V>(most), whole) / other) - weight;
    out.term(0, size < near<V>() ? small : large);
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V logits = in.p1(), b = num<V>(0.5) * logits, g = in.grad_term(0);
    V size, e, other;
    parts(b, size, e, other);
    const V small = fma(num<V>(-0.5), langevin_small(b), in.p0() - num<V>(0.5));
    const V large = num<V>(1.0) / abs(logits) - e / other - missed_of(in.p0(), logits);
    out.p0(times(g, logits));
    out.p1(g * (size < near<V>() ? small : logits > V{} ? large : -large));
  }
};

}  // namespace fr::FR_NS
