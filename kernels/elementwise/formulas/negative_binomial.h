// The log-likelihood of counts under a negative binomial distribution, and under one with more zeros.
#pragma once

#include "elementwise/formulas/bernoulli.h"
#include "elementwise/formulas/weibull.h"

namespace fr::FR_NS {

// p0 is the count x, p1 the mean mu, p2 theta. As fused_reparam/families/negative_binomial.py has it, where
// the names and the formula are.
template <class V>
struct CountDensity {
  static constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
  static constexpr int shift = single ? 3 : 9;
  static constexpr double kFactor = single ? 8.012969903223665 : 3232.6627803511215;  // e^shift / sqrt(2 pi)
  V x, mu, theta, n, upper, lower, distance, of_m, of_upper, of_lower, share, rest, log_share, beyond;

  __attribute__((always_inline)) explicit CountDensity(const Operands<V>& in) : x(in.p0()), mu(in.p1()) {
    const V one = num<V>(1.0), s = num<V>(shift);
    const V least = num<V>(single ? 0x1p-120 : 0x1p-1000), most = num<V>(single ? 0x1p100 : 0x1p900);
    theta = min_keep_nan(most, max_keep_nan(least, in.p2()));
    const V m = theta + mu;
    n = x + theta;
    upper = n + s;
    lower = theta + s;
    distance = x - mu;
    of_m = one / m;
    of_upper = one / upper;
    of_lower = one / lower;
    share = theta * of_m;
    rest = mu * of_m;
    log_share = log_of_both(fma(share, distance, -(s * rest)) * of_lower, share * (upper * of_lower), beyond);
  }

  // log(mu upper / ((x + shift) m)): minus infinity of a mean of 0.
  __attribute__((always_inline)) V log_rest(V of_last) const {
    V unused;
    const V t = -(share * (distance + num<V>(shift))) * of_last;
    const V found = log_of_both(t, rest * (upper * of_last), unused);
    return mu == V{} ? num<V>(-__builtin_inf()) : found;
  }

  static __attribute__((always_inline)) V correction(V inverse) {
    return inverse * polynomial(inverse * inverse, Stirling<V>::of_value);
  }
  static __attribute__((always_inline)) V slope(V inverse) {
    const V square = inverse * inverse;
    return square * polynomial(square, Stirling<V>::of_slope);
  }

  __attribute__((always_inline)) V value() const {
    const V of_last = num<V>(1.0) / (x + num<V>(shift));
    V above = num<V>(kFactor) * (theta * of_lower), below = n * of_upper;
    for (int i = 1; i < shift; ++i) {
      above = above * (((theta + num<V>(i)) * of_lower) * ((x + num<V>(i)) * of_last));
      below = below * ((n + num<V>(i)) * of_upper);
    }
    const V powers = above / below * sqrt(lower * of_upper * of_last);
    const V corrections = correction(of_upper) - (correction(of_lower) + correction(of_last));
    const V others = log_positive(max_keep_nan(num<V>(single ? 0x1p-126 : 0x1p-1022), powers)) + corrections;
    return fma(theta, log_share, x == V{} ? V{} : fma(x, log_rest(of_last), others));
  }

  // Of the value, whose gradient is g.
  template <class Out>
  __attribute__((always_inline)) void gradients(const Operands<V>& in, V g, const Out& out) const {
    const V one = num<V>(1.0), half = num<V>(0.5), s = num<V>(shift);
    out.p1(times(g, share * (x == V{} ? num<V>(-1.0) : distance / mu)));
    V each = fma(half, of_upper, -(s * of_m)) * of_lower;
    for (int i = 1; i < shift; ++i) each = each + one / ((theta + num<V>(i)) * (n + num<V>(i)));
    out.p2(g * (beyond + fma(x, each, x / n / theta) + (slope(of_lower) - slope(of_upper))));
    if (!in.p.first_wanted) return;
    const V of_last = one / (x + s);
    V apart = fma(half, of_last - of_upper, slope(of_last) - slope(of_upper)) - one / n;
    for (int i = 1; i < shift; ++i) apart = apart + theta / ((x + num<V>(i)) * (n + num<V>(i)));
    out.p0(times(g, log_rest(of_last) + apart));
  }
};

template <>
struct TermFormula<Term::negative_binomial_density> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.term(0, CountDensity<V>(in).value());
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    CountDensity<V>(in).gradients(in, in.grad_term(0), out);
  }
};

// With more zeros: of a share sigmoid(p3) the count is 0. Of a count of 0, beside the log-likelihood v of it:
// log((e^logits + e^v) / (e^logits + 1)), from the larger of each.
template <>
struct TermFormula<Term::zero_inflated_negative_binomial_density> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const CountDensity<V> count(in);
    const V logits = in.p3(), value = count.value(), rest = log1p_unit(exp_of_negative(-abs(logits)));
    const V larger = max_keep_nan(value, min_keep_nan(V{}, logits));
    const V zero = larger + (log1p_unit(exp_of_negative(-abs(value - logits))) - rest);
    out.term(0, count.x == V{} ? zero : value - (max_keep_nan(V{}, logits) + rest));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const CountDensity<V> count(in);
    const V g = in.grad_term(0), one = num<V>(1.0), logits = in.p3();
    const V apart = count.theta * count.log_share - logits;
    const V e = exp_of_negative(-abs(apart)), r = reciprocal(one + e), less = e * r;
    const V share = apart > V{} ? r : less, other = apart > V{} ? less : r;  // of the zeros, the count's and others
    const V of_logits = exp_of_negative(-abs(logits)), half = reciprocal(one + of_logits), small = of_logits * half;
    const auto upper = logits > V{}, none = count.x == V{};
    const V zero = upper ? small - share : other - small;
    out.p3(g * (none ? zero : -(upper ? half : small)));
    count.gradients(in, none ? g * share : g, out);
  }
};

}  // namespace fr::FR_NS
