// What the formulas of the element-wise families (formulas/) are made of: what becomes of a register of
// parameters and noise, and its gradients, as fused_reparam/families has it. A formula reads its operands
// from `in` and gives its results to `out`; `c` are the constants of the call (elementwise/tile.h).
//
// A file of formulas/ has TransformFormula<Transform::name>, what becomes of parameters and noise, or
// TermFormula<Term::name>, a term of the parameters alone, or both; the names are those of the
// families' rows. The build finds them, and lists them in formula_names.h and formula_files.h. Of a
// divergence there are two: to a prior of constants, and kLearned, to one of the last parameters.
#pragma once

#include "elementwise/interface.h"
#include "simd/math.h"

namespace fr::FR_NS {

template <class V>
struct Operands {
  using Vector = V;
  using Real = typename Scalar<V>::type;
  const TilePass& p;
  const V (&c)[kConstants];
  int64_t i;
  __attribute__((always_inline)) V at(const void* x) const { return load<V>((const Real*)x + i); }
  // Parameters by their place, for families whose parameters are no loc and sigma.
  __attribute__((always_inline)) V p0() const { return at(p.loc); }
  __attribute__((always_inline)) V p1() const { return at(p.sigma); }
  __attribute__((always_inline)) V p2() const { return at(p.prior_loc); }
  __attribute__((always_inline)) V p3() const { return at(p.prior_sigma); }
  __attribute__((always_inline)) V loc() const { return at(p.loc); }
  __attribute__((always_inline)) V sigma() const { return at(p.sigma); }
  __attribute__((always_inline)) V log_sigma() const { return at(p.log_sigma); }
  __attribute__((always_inline)) V prior_loc() const { return at(p.prior_loc); }
  __attribute__((always_inline)) V prior_sigma() const { return at(p.prior_sigma); }
  __attribute__((always_inline)) V prior_log_sigma() const { return at(p.prior_log_sigma); }
  __attribute__((always_inline)) V eps() const { return at(p.eps); }
  __attribute__((always_inline)) V slope() const { return at(p.slope ? p.slope : p.eps); }  // any if unwanted
  __attribute__((always_inline)) V grad_z() const { return at(p.grad_z); }
  __attribute__((always_inline)) V grad_term(int j) const { return at(p.grad_term[j]); }
  __attribute__((always_inline)) V constant(int j) const { return c[j]; }
  // loc + sigma eps, rounded once.
  __attribute__((always_inline)) V located(V eps) const { return fma(sigma(), eps, loc()); }
};

// Of noise that is given: rounded twice, as PyTorch's two operators do, whose bits it then has.
template <class V>
struct GivenOperands : Operands<V> {
  __attribute__((always_inline)) V located(V eps) const {
    const V product = this->sigma() * eps;
    return this->loc() + product;
  }
};

// A gradient times a derivative. A gradient of 0, which is also one that did not come, and a derivative
// of 0, as of a bounded parameter, stay 0 whatever they meet: the other may be infinite.
template <class V>
FR_INLINE V times(V gradient, V slope) {
  const V product = gradient * slope;
  return (gradient == V{}) | (slope == V{}) ? V{} : product;
}

// The gradients of a draw are added to those of a term, or to zeros.
template <class V, bool kAdd>
struct Results {
  using Real = typename Scalar<V>::type;
  const TilePass& p;
  int64_t i;
  __attribute__((always_inline)) void put(void* x, V v) const { store((Real*)x + i, v); }
  __attribute__((always_inline)) void add(void* x, V v) const {
    Real* to = (Real*)x + i;
    store(to, kAdd ? load<V>(to) + v : v);
  }
  __attribute__((always_inline)) void z(V v) const { put(p.z, v); }
  __attribute__((always_inline)) void term(int j, V v) const { put(p.term[j], v); }
  __attribute__((always_inline)) void p0(V v) const { add(p.to_loc, v); }
  __attribute__((always_inline)) void p1(V v) const { add(p.to_sigma, v); }
  __attribute__((always_inline)) void p2(V v) const { add(p.to_prior_loc, v); }
  __attribute__((always_inline)) void p3(V v) const { add(p.to_prior_log_sigma, v); }
  __attribute__((always_inline)) void loc(V v) const { add(p.to_loc, v); }
  __attribute__((always_inline)) void sigma(V v) const { add(p.to_sigma, v); }
  __attribute__((always_inline)) void log_sigma(V v) const { add(p.to_log_sigma, v); }
  __attribute__((always_inline)) void ratio(V v) const { add(p.to_ratio, v); }
  __attribute__((always_inline)) void prior_loc(V v) const { add(p.to_prior_loc, v); }
  __attribute__((always_inline)) void prior_log_sigma(V v) const { add(p.to_prior_log_sigma, v); }
};

template <class V>
FR_INLINE V log_q(V eps, V log_sigma) {
  return fma(num<V>(-0.5) * eps, eps, num<V>(-kHalfLogTwoPi) - log_sigma);
}

// sign(x) of magnitude y.
template <class V>
FR_INLINE V with_sign(V y, V x) {
  using Bits = typename Scalar<V>::Bits;
  const Bits sign = (Bits)num<V>(-0.0);
  return (V)(((Bits)y & ~sign) | ((Bits)x & sign));
}

// e^(x / y) in two factors, so that a scale times it neither overflows nor underflows before the result
// does.
template <class V>
struct Stretch {
  V y, quotient, half;
  __attribute__((always_inline)) Stretch(V x, V divisor) : y(divisor) {
    const V most = num<V>(sizeof(typename Scalar<V>::type) == 4 ? 400.0 : 3000.0);
    quotient = x / y;
    half = exp(num<V>(0.5) * min_keep_nan(most, max_keep_nan(-most, quotient)));
  }
  __attribute__((always_inline)) V of(V scale) const { return (scale * half) * half; }
  // Of z = p0 e^(x / y), with p1 for y.
  template <class Out>
  __attribute__((always_inline)) void gradients(const Operands<V>& in, const Out& out) const {
    const V gz = in.grad_z();
    out.p0(times(times(gz, half), half));
    out.p1(-(times(times(gz, of(in.p0())), quotient) / y));
  }
};

// kFar: for a tile with numbers that are `far`.
template <Transform, bool kFar = false>
struct TransformFormula;
template <Term, bool kFar = false>
struct TermFormula;

}  // namespace fr::FR_NS
