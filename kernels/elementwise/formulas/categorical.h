// What a class adds to the divergence of two categorical distributions, of the logarithms of its shares.
#pragma once

#include "elementwise/formula.h"

namespace fr::FR_NS {

// m log(m / n) with m = keep p + even, and n of the other's share. Constants: keep, even.
template <>
struct TermFormula<Term::categorical_kl> {
  // m, log(m / n), and p and q over m and n.
  template <class V>
  struct Parts {
    V m, apart, of_p, of_q;
    __attribute__((always_inline)) explicit Parts(const Operands<V>& in) {
      const V p = exp(in.p0()), q = exp(in.p1()), keep = in.constant(0), even = in.constant(1);
      if (in.p.constants[1] > 0) {
        m = fma(keep, p, even);
        const V n = fma(keep, q, even);
        apart = log_positive(m) - log_positive(n);
        of_p = keep * p;
        of_q = keep * q * (m / n);
      } else {
        m = of_p = of_q = p;
        apart = in.p0() - in.p1();
      }
    }
  };
  template <class V, class Out>
  FR_INLINE void forward(const Operands<V>& in, const Out& out) {
    const Parts<V> t(in);
    out.term(0, times(t.m, t.apart));
  }
  template <bool, class V, class Out>
  FR_INLINE void backward(const Operands<V>& in, const Out& out) {
    const Parts<V> t(in);
    const V g = in.grad_term(0);
    out.p0(times(g, times(t.of_p, t.apart + num<V>(1.0))));
    out.p1(-times(g, t.of_q));
  }
};

}  // namespace fr::FR_NS
