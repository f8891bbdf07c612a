// Divergences of Laplace, uniform and Cauchy to their standard members, and Laplace's log-density.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// scale e + |loc| - log scale - 1, e = exp(-|loc| / scale).
template <>
struct TermFormula<Term::laplace> {
  // size / scale, and at most 1e4: its exponential is nothing by then. 0 for a size of 0.
  template <class V>
  FR_INLINE V in_scales(V size, V inverse) {
    constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
    const V most = num<V>(single ? __FLT_MAX__ : __DBL_MAX__);
    return min_keep_nan(num<V>(1e4), size * min_keep_nan(most, inverse));
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V size = abs(in.loc()), scale = in.sigma();
    const V e = exp(-in_scales(size, num<V>(1.0) / scale));
    out.term(0, fma(scale, e, size - log(scale) - num<V>(1.0)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V loc = in.loc(), one = num<V>(1.0), inverse = one / in.sigma(), g = in.grad_term(0);
    const V t = in_scales(abs(loc), inverse), e = exp(-t), sign = loc == V{} ? V{} : with_sign(one, loc);
    out.loc(g * sign * (one - e));
    out.sigma(times(g, fma(e, t, e) - inverse));
  }
};

// Of a value, p0: -|x - loc| / scale - log(2 scale).
template <>
struct TermFormula<Term::laplace_density> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.p2(), size = abs(in.p0() - in.p1());
    out.term(0, -(size / scale) - (log(scale) + num<V>(0.69314718055994531)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    constexpr double most = sizeof(typename Scalar<V>::type) == 4 ? __FLT_MAX__ : __DBL_MAX__;
    const V d = in.p0() - in.p1(), inverse = min_keep_nan(num<V>(most), num<V>(1.0) / in.p2());
    const V slope = times(in.grad_term(0), inverse), to_loc = d > V{} ? slope : d < V{} ? -slope : V{} * d;
    out.p0(-to_loc);
    out.p1(to_loc);
    out.p2(times(slope, fma(abs(d), inverse, num<V>(-1.0))));
  }
};

// -log scale where [loc - scale, loc + scale] lies within [-1, 1], else infinite; NaN of NaN.
template <>
struct TermFormula<Term::uniform> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), end = abs(in.loc()) + scale;
    out.term(0, end > num<V>(1.0) ? num<V>(__builtin_inf()) : fma(V{}, end, -log(scale)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), end = abs(in.loc()) + scale;
    const auto outside = end > num<V>(1.0);
    out.loc(outside ? V{} : V{} * end);
    out.sigma(outside ? V{} : fma(V{}, end, -times(in.grad_term(0), num<V>(1.0) / scale)));
  }
};

// sqrt(x^2 + y^2) of numbers that are not negative, whose squares may overflow, times a factor below 1:
// the root may overflow too.
template <class V>
FR_INLINE V hypotenuse(V x, V y, double factor) {
  const V most = max_keep_nan(x, y), share = min_keep_nan(x, y) / most;
  return most * (num<V>(factor) * sqrt(fma(share, share, num<V>(1.0))));
}

// log(((1 + scale)^2 + loc^2) / (4 scale)), of the root and of the scale apart: neither overflows.
template <>
struct TermFormula<Term::cauchy> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V scale = in.sigma(), half = hypotenuse(scale + num<V>(1.0), abs(in.loc()), 0.5);
    out.term(0, fma(num<V>(2.0), log(half), -log(scale)));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V loc = in.loc(), scale = in.sigma(), one = num<V>(1.0), up = scale + one;
    const V g = in.grad_term(0), inverse = one / hypotenuse(up, abs(loc), 1.0), twice = (g + g) * inverse;
    out.loc(twice * (loc * inverse));
    out.sigma(fma(twice, up * inverse, -times(g, one / scale)));
  }
};

}  // namespace fr::FR_NS
