// The generalized Pareto distribution.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// p0 is loc, p1 the scale, p2 the concentration c: z = loc + scale (e^t - 1) / c with t = c eps.
template <>
struct TransformFormula<Transform::generalized_pareto> {
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const Parts<V> p(in);
    const V scale = in.p1();
    out.z(in.p0() + (p.far ? (scale * p.half) * p.quotient : scale * (in.eps() * p.growth)));
  }
  template <class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const Parts<V> p(in);
    const V eps = in.eps(), scale = in.p1(), gz = in.grad_z(), one = num<V>(1.0), t = p.t;
    // (e^t - 1) / t has this derivative, whose two terms cancel near 0.
    constexpr typename Scalar<V>::type c[] = {
        1.0 / 2,     2.0 / 6,      3.0 / 24,      4.0 / 120,      5.0 / 720,        6.0 / 5040,         7.0 / 40320,
        8.0 / 362880, 9.0 / 3628800, 10.0 / 39916800, 11.0 / 479001600, 12.0 / 6227020800, 13.0 / 87178291200};
    const V direct = fma(t, p.minus + one, -p.minus) / (t * t);
    const V slope = abs(t) < num<V>(0.5) ? polynomial(t, c) : direct;
    out.p0(gz);
    out.p1(p.far ? times(times(gz, p.half), p.quotient) : times(gz, eps * p.growth));
    out.p2(p.far ? times(times(gz, scale * p.half), p.quotient * ((t - one) / in.p2()))
                        : times(gz, scale * (eps * eps * slope)));
  }

 private:
  template <class V>
  struct Parts {
    V t, minus, growth, half, quotient;  // e^t - 1; that / t; e^(t / 2); that / c
    decltype(V{} < V{}) far;             // e^t - 1 is e^t to the last bit: it may overflow before z does
    __attribute__((always_inline)) explicit Parts(const Operands<V>& in) {
      constexpr bool single = sizeof(typename Scalar<V>::type) == 4;
      const V c = in.p2();
      t = c * in.eps();
      far = t > num<V>(single ? 16.0 : 40.0);
      minus = expm1(t);
      growth = t == V{} ? num<V>(1.0) : minus / t;
      half = exp(num<V>(0.5) * t);
      quotient = half / c;
    }
  };
};

}  // namespace fr::FR_NS
