// Student's t whose degrees of freedom are a parameter: samples, whose noise is made of it, and the log-density.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

template <>
struct TransformFormula<Transform::student_t> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    out.z(fma(in.sigma(), in.eps(), in.loc()));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const V gz = in.grad_z();
    out.loc(gz);
    out.sigma(gz * in.eps());
    out.p2(times(times(gz, in.slope()), in.sigma()));
  }
};

// The log-density of a value p0, of degrees of freedom p1, location p2 and scale p3. As
// fused_reparam/families/student_t.py has it, where the names and the formula are.
template <class V>
struct StudentDensity {
  using Real = typename Scalar<V>::type;
  static constexpr bool single = sizeof(Real) == 4;
  static constexpr int shift = single ? 4 : 9;
  static constexpr Real of_value[] = {-1.0 / 8,     1.0 / 192,      -1.0 / 640,       17.0 / 14336,
                                      -31.0 / 18432, 691.0 / 180224, -5461.0 / 425984, 929569.0 / 15728640};
  static constexpr Real of_slope[] = {1.0 / 8,       -3.0 / 192,      5.0 / 640,         -119.0 / 14336,
                                      279.0 / 18432, -7601.0 / 180224, 70993.0 / 425984, -13943535.0 / 15728640};
  V df, d, scale, root, a, inverse, t, r, square, log_scale;

  __attribute__((always_inline)) explicit StudentDensity(const Operands<V>& in) : scale(in.p3()) {
    const V least = num<V>(single ? 0x1p-118 : 0x1p-1000), most = num<V>(single ? 0x1p100 : 0x1p900);
    df = min_keep_nan(most, max_keep_nan(least, in.p1()));
    d = in.p0() - in.p2();
    root = sqrt(df);
    a = num<V>(0.5) * df;
    inverse = num<V>(1.0) / (a + num<V>(shift));
    t = abs(d) / scale / root;
    r = t > num<V>(1.0) ? num<V>(1.0) / t : t;
    square = r * r;
    log_scale = log(scale);
  }

  // log(1 + t^2). A t beyond the dtype has a logarithm within it.
  __attribute__((always_inline)) V log_of_sum() const {
    const auto within = t < num<V>(__builtin_inf());
    const V of_t = log(within ? t : abs(d)) - (within ? V{} : fma(num<V>(0.5), log(df), log_scale));
    return log1p_unit(square) + (t > num<V>(1.0) ? of_t + of_t : V{});
  }

  __attribute__((always_inline)) V constant() const {
    V above = num<V>(1.0), below = (a + num<V>(0.5)) * inverse;
#pragma GCC unroll 9
    for (int k = 1; k < shift; ++k) {
      above = above * ((a + num<V>(k)) * inverse);
      below = below * ((a + num<V>(k + 0.5)) * inverse);
    }
    const V ratio = above / below, log_of_powers = log_positive((a * inverse) * (ratio * ratio));
    const V series = fma(inverse, polynomial(inverse * inverse, of_value), num<V>(-kHalfLogTwoPi));
    return fma(num<V>(0.5), log_of_powers, series);
  }

  // Of the constant, by a: a sum of positive numbers.
  __attribute__((always_inline)) V slope() const {
    const V square = inverse * inverse;
    V sum = V{};
#pragma GCC unroll 9
    for (int k = 0; k < shift; ++k)
      sum = sum + num<V>(0.25) / ((a + num<V>(k)) * ((a + num<V>(k + 0.5)) * (a + num<V>(k + 1))));
    return fma(square, polynomial(square, of_slope), sum);
  }
};

template <>
struct TermFormula<Term::student_t_density> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const StudentDensity<V> of(in);
    const V half = fma(num<V>(0.5), of.df, num<V>(0.5));
    out.term(0, of.constant() - of.log_scale - half * of.log_of_sum());
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const StudentDensity<V> of(in);
    const V g = in.grad_term(0), one = num<V>(1.0), size = abs(of.d), more = of.df + one;
    const V scaled = min_keep_nan(num<V>(StudentDensity<V>::single ? __FLT_MAX__ : __DBL_MAX__), one / of.scale);
    const auto far = of.t > one;
    const V of_sum = one / (one + of.square), other = of.square * of_sum;
    const V share = far ? of_sum : other, rest = far ? other : of_sum;  // t^2 / (1 + t^2), and 1 less that
    const V near = times(g, more / of.root * (of.r * rest)) * scaled;
    const V slope = far ? times(g, more * (share / size)) : near;
    const V to_loc = of.d < V{} ? -slope : slope;
    out.p0(-to_loc);
    out.p1(times(num<V>(0.5) * g, (of.slope() - of.log_of_sum()) + (share + share / of.df)));
    out.p2(to_loc);
    out.p3(times(times(g, scaled), fma(of.df, share, -rest)));
  }
};

}  // namespace fr::FR_NS
