// A bounded action: the tanh of a Gaussian, between two ends.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// With e = exp(-2 |x|): e, 1 - e, which has its digits near zero too, and 1 / (1 + e).
template <class V>
struct TanhParts {
  V e, rest, inverse;
  __attribute__((always_inline)) explicit TanhParts(V x) {
    const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? 128.0 : 1100.0);
    V minus;
    exp_expm1_within(max_keep_nan(-most, num<V>(-2.0) * abs(x)), e, minus);
    rest = -minus;
    inverse = reciprocal(num<V>(1.0) + e);
  }
  // (1 + tanh x) / 2.
  __attribute__((always_inline)) V above(V x) const { return x < V{} ? e * inverse : inverse; }
};

// Constants: middle, half, log_p's constant, lowest, highest.
template <>
struct TransformFormula<Transform::tanh_normal> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc());
    const auto [e, rest, inverse] = TanhParts<V>(x);
    const V action = fma(in.constant(1), with_sign(rest * inverse, x), in.constant(0));
    out.z(min_keep_nan(in.constant(4), max_keep_nan(in.constant(3), action)));
    const V known = in.constant(2) - in.log_sigma();
    out.term(0, fma(num<V>(-0.5) * eps, eps, fma(num<V>(2.0), abs(x) + log1p_unit(e), known)));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc());
    const auto [e, rest, inverse] = TanhParts<V>(x);
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

// The same between ends that are parameters. Constants: half the spacing of numbers around 1 in the action's
// dtype, -, log_p's constant but for log half.
template <>
struct TransformFormula<Transform::tanh_normal_between> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc()), lowest = in.p2(), highest = in.p3();
    const auto [e, rest, inverse] = TanhParts<V>(x);
    const V half = num<V>(0.5) * (highest - lowest), middle = num<V>(0.5) * (highest + lowest);
    const V action = fma(half, with_sign(rest * inverse, x), middle);
    out.z(min_keep_nan(highest, max_keep_nan(lowest, action)));
    const V known = in.constant(2) - in.log_sigma() - log(half);
    out.term(0, fma(num<V>(-0.5) * eps, eps, fma(num<V>(2.0), abs(x) + log1p_unit(e), known)));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), x = fma(in.sigma(), eps, in.loc()), width = in.p3() - in.p2();
    const TanhParts<V> t(x);
    const V twice_tanh = with_sign((t.rest + t.rest) * t.inverse, x);
    const V slope = num<V>(2.0) * t.e * (t.inverse * t.inverse) * width;
    const V g = in.grad_term(0), gz = in.grad_z(), gx = fma(gz, slope, g * twice_tanh);
    out.loc(gx);
    out.sigma(gx * eps);
    out.log_sigma(-g);
    const V of_log = times(g, num<V>(1.0) / width);
    out.p2(fma(gz, t.above(-x), of_log));
    out.p3(fma(gz, t.above(x), -of_log));
  }
};

// Of a fixed action, which the ends move in units of their distance. One on an end was rounded to it, and
// gives the ends no gradient.
template <>
struct TransformFormula<Transform::tanh_normal_score_between>
    : TransformFormula<Transform::tanh_normal_between> {
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V eps = in.eps(), g = in.grad_term(0), x = fma(in.sigma(), eps, in.loc());
    const V one = num<V>(1.0), slope = eps / in.sigma();
    out.loc(times(g, slope));
    out.sigma(V{});
    out.log_sigma(g * fma(eps, eps, -one));
    const TanhParts<V> t(x);
    const V above = t.above(x), below = t.above(-x), width = in.p3() - in.p2();
    const V least = in.constant(0) * max_keep_nan(abs(in.p2()), abs(in.p3()));
    const auto held = (width * above < least) | (width * below < least);
    const V half = num<V>(0.5) * slope;
    out.p2(held ? V{} : times(g, ((half + one) / above - one) / width));
    out.p3(held ? V{} : times(g, ((half - one) / below + one) / width));
  }
};

}  // namespace fr::FR_NS
