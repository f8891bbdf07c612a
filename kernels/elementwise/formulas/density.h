// Log-densities at points: of a Gaussian, and of its tanh between two ends.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// (x - loc) / sigma, and 1 / sigma in two factors: where it may leave the dtype, of its logarithm.
template <class V>
struct Standardized {
  V first, second, d;
  __attribute__((always_inline)) Standardized(const Operands<V>& in, V x) {
    constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
    const V log_sigma = in.log_sigma(), one = num<V>(1.0);
    const auto near = abs(log_sigma) < num<V>(single ? 85.0 : 700.0);
    // Bounded, so that nothing times it is NaN.
    const V root = exp(min_keep_nan(num<V>(single ? 87.0 : 700.0), num<V>(-0.5) * log_sigma));
    first = near ? one / in.p1() : root;
    second = near ? one : root;
    d = (x - in.p0()) * first * second;
  }
  // Gives loc's and log sigma's; returns that of x.
  template <class Out>
  __attribute__((always_inline)) V gradients(V g, const Out& out) const {
    const V slope = times(g, d), to_loc = slope * first * second;
    out.p0(to_loc);
    out.p1(V{});
    out.log_sigma(slope == V{} ? -g : fma(slope, d, -g));
    return -to_loc;
  }
};

template <>
struct TermFormula<Term::gaussian_density> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.term(0, log_q(Standardized<V>(in, in.p2()).d, in.log_sigma()));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    out.p2(Standardized<V>(in, in.p2()).gradients(in.grad_term(0), out));
  }
};

// Constants: lowest, highest, the least distance to them, log half, and the distance of both.
template <>
struct TermFormula<Term::tanh_normal_density> {
  template <class V>
  FR_INLINE V within(const Operands<V>& in, V distance) {
    return min_keep_nan(in.constant(4), max_keep_nan(in.constant(2), distance));
  }
  // The distances to both ends, held.
  template <class V>
  FR_INLINE void distances(const Operands<V>& in, V& above, V& below) {
    above = within(in, in.p2() - in.constant(0));
    below = within(in, in.constant(1) - in.p2());
  }
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    V above, below;
    distances(in, above, below);
    above = log_positive(above);
    below = log_positive(below);
    const V d = Standardized<V>(in, num<V>(0.5) * (above - below)).d;
    out.term(0, log_q(d, in.log_sigma()) + (in.constant(3) - above - below));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    V above, below;
    distances(in, above, below);
    const V least = in.constant(2), g = in.grad_term(0), one = num<V>(1.0), half = num<V>(0.5);
    const auto held = (in.p2() - in.constant(0) < least) | (in.constant(1) - in.p2() < least);
    const V x = half * (log_positive(above) - log_positive(below));
    const V to_x = Standardized<V>(in, x).gradients(g, out);
    const V to_low = one / above, to_high = one / below;
    const V to_action = fma(to_x * half, to_low + to_high, g * (to_high - to_low));
    out.p2(held ? V{} : to_action);
  }
};

// The same with the distances to the lower and to the upper end as parameters 2 and 3. A negative one is
// that of an action that is held: it has no gradient, nor have the ends, whose distance the other one is.
template <>
struct TermFormula<Term::tanh_normal_density_between> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const V above = abs(in.p2()), below = abs(in.p3());
    const V log_above = log_positive(above), log_below = log_positive(below);
    const V d = Standardized<V>(in, num<V>(0.5) * (log_above - log_below)).d;
    const auto held = (in.p2() < V{}) | (in.p3() < V{});
    const V width = held ? max_keep_nan(above, below) : above + below;
    const V log_half = log_positive(num<V>(0.5) * width);
    out.term(0, log_q(d, in.log_sigma()) + (log_half - log_above - log_below));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V above = abs(in.p2()), below = abs(in.p3()), half = num<V>(0.5), one = num<V>(1.0);
    const V x = half * (log_positive(above) - log_positive(below)), g = in.grad_term(0);
    const V to_x = half * Standardized<V>(in, x).gradients(g, out), of_half = g / (above + below);
    const auto held = (in.p2() < V{}) | (in.p3() < V{});
    out.p2(held ? V{} : fma(to_x - g, one / above, of_half));
    out.p3(held ? V{} : fma(-to_x - g, one / below, of_half));
  }
};

}  // namespace fr::FR_NS
